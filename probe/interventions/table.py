"""Every intervention by the name that specs use (``--how``, ``--do``)."""

from collections.abc import Callable
from typing import Any

from probe.interventions.bidirectional_segments import bidirectional_segments
from probe.interventions.boost import boost
from probe.interventions.drop import drop
from probe.interventions.expert_off import expert_off, expert_on
from probe.interventions.graft import graft
from probe.interventions.isolate import isolate
from probe.interventions.knockout import knockout
from probe.interventions.mean import mean
from probe.interventions.mean_by_token import mean_by_token
from probe.interventions.position_by_importance import position_by_importance
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
from probe.interventions.temperature import temperature
from probe.interventions.to_bos import to_bos
from probe.interventions.to_identity import to_identity
from probe.interventions.top_heads import top_heads
from probe.interventions.uniform_cached import uniform_cached
from probe.interventions.uniform_past import uniform_past
from probe.interventions.zero import zero

INTERVENTIONS: dict[str, Callable[..., Any]] = {
    "zero": zero,
    "scale": scale,
    "knockout": knockout,
    "redistribute": redistribute,
    "reinforce": reinforce,
    "reweight": reweight,
    "top_heads": top_heads,
    "boost": boost,
    "drop": drop,
    "graft": graft,
    "expert_off": expert_off,
    "expert_on": expert_on,
    "isolate": isolate,
    "segment_graph": segment_graph,
    "skip_layer": skip_layer,
    "skip_module": skip_module,
    "pattern": pattern,
    "temperature": temperature,
    "to_bos": to_bos,
    "to_identity": to_identity,
    "uniform_cached": uniform_cached,
    "uniform_past": uniform_past,
    "mean": mean,
    "mean_by_token": mean_by_token,
    "resample": resample,
    "static": static,
    "bidirectional_segments": bidirectional_segments,
    "position_by_importance": position_by_importance,
    "set_based": set_based,
}
