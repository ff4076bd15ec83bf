"""Edits of models that take effect in every model that the seam reaches, inside ``generate()`` too.

>>> from probe.interventions import zero
>>> zero(heads=["L18.H6"]).name
'zero:heads=L18.H6'
"""

from probe.interventions.base import Intervention
from probe.interventions.bidirectional_segments import bidirectional_segments
from probe.interventions.boost import boost
from probe.interventions.drop import drop
from probe.interventions.expert_off import expert_off, expert_on
from probe.interventions.graft import graft
from probe.interventions.guidance import guidance
from probe.interventions.isolate import isolate
from probe.interventions.knockout import knockout
from probe.interventions.making import make
from probe.interventions.mean import mean
from probe.interventions.mean_by_token import mean_by_token
from probe.interventions.patch import patch
from probe.interventions.position_by_importance import position_by_importance
from probe.interventions.recording import Recording, recording
from probe.interventions.redistribute import redistribute
from probe.interventions.reinforce import reinforce
from probe.interventions.resample import resample
from probe.interventions.reweight import reweight
from probe.interventions.scale import scale
from probe.interventions.segment_graph import segment_graph
from probe.interventions.set_based import set_based
from probe.interventions.skip_layer import skip_layer
from probe.interventions.skip_module import skip_module
from probe.interventions.sparse import pattern
from probe.interventions.static import static
from probe.interventions.table import INTERVENTIONS
from probe.interventions.target import Region, Target, Where
from probe.interventions.temperature import temperature
from probe.interventions.to_bos import to_bos
from probe.interventions.to_identity import to_identity
from probe.interventions.top_heads import top_heads
from probe.interventions.uniform_cached import uniform_cached
from probe.interventions.uniform_past import uniform_past
from probe.interventions.zero import zero

__all__ = [
    "INTERVENTIONS",
    "Intervention",
    "Recording",
    "Region",
    "Target",
    "Where",
    "bidirectional_segments",
    "boost",
    "drop",
    "expert_off",
    "expert_on",
    "graft",
    "guidance",
    "isolate",
    "knockout",
    "make",
    "mean",
    "mean_by_token",
    "patch",
    "pattern",
    "position_by_importance",
    "recording",
    "redistribute",
    "reinforce",
    "resample",
    "reweight",
    "scale",
    "segment_graph",
    "set_based",
    "skip_layer",
    "skip_module",
    "static",
    "temperature",
    "to_bos",
    "to_identity",
    "top_heads",
    "uniform_cached",
    "uniform_past",
    "zero",
]
