"""Every intervention by the name that specs use (``--how``, ``--do``)."""

from collections.abc import Callable
from typing import Any

from probe.interventions.knockout import knockout
from probe.interventions.reweight import reweight
from probe.interventions.scale import scale
from probe.interventions.top_heads import top_heads
from probe.interventions.zero import zero

INTERVENTIONS: dict[str, Callable[..., Any]] = {
    "zero": zero,
    "scale": scale,
    "knockout": knockout,
    "reweight": reweight,
    "top_heads": top_heads,
}
