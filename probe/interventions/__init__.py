"""Edits of models that take effect in every model that the seam reaches, inside ``generate()`` too.

>>> from probe.interventions import zero
>>> zero(heads=["L18.H6"]).name
'zero:heads=L18.H6'
"""

from probe.interventions.base import Intervention
from probe.interventions.knockout import knockout
from probe.interventions.making import make
from probe.interventions.reweight import reweight
from probe.interventions.scale import scale
from probe.interventions.table import INTERVENTIONS
from probe.interventions.target import Region, Target, Where
from probe.interventions.top_heads import top_heads
from probe.interventions.zero import zero

__all__ = [
    "INTERVENTIONS",
    "Intervention",
    "Region",
    "Target",
    "Where",
    "knockout",
    "make",
    "reweight",
    "scale",
    "top_heads",
    "zero",
]
