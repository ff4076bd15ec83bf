"""Edits of models that take effect in every model that the seam reaches, inside ``generate()`` too.

>>> from probe.interventions import zero
>>> zero(heads=["L18.H6"]).name
'zero:heads=L18.H6'
"""

from probe.interventions.base import Intervention
from probe.interventions.boost import boost
from probe.interventions.drop import drop
from probe.interventions.graft import graft
from probe.interventions.isolate import isolate
from probe.interventions.knockout import knockout
from probe.interventions.making import make
from probe.interventions.mean import mean
from probe.interventions.mean_by_token import mean_by_token
from probe.interventions.resample import resample
from probe.interventions.reweight import reweight
from probe.interventions.scale import scale
from probe.interventions.segment_graph import segment_graph
from probe.interventions.sparse import pattern
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
    "Region",
    "Target",
    "Where",
    "boost",
    "drop",
    "graft",
    "isolate",
    "knockout",
    "make",
    "mean",
    "mean_by_token",
    "pattern",
    "resample",
    "reweight",
    "scale",
    "segment_graph",
    "temperature",
    "to_bos",
    "to_identity",
    "top_heads",
    "uniform_cached",
    "uniform_past",
    "zero",
]
