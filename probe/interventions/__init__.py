"""Edits of attention that take effect in every model that the seam reaches, inside ``generate()`` too.

>>> from probe.interventions import zero
>>> zero(heads=["L18.H6"]).name
'zero:heads=L18.H6'
"""

from probe.interventions.base import EditsAttended, EditsBlocks, EditsCall, Intervention
from probe.interventions.knockout import Knockout, knockout
from probe.interventions.scale import Scale, scale
from probe.interventions.target import Target
from probe.interventions.zero import Zero, zero

INTERVENTIONS = {"zero": zero, "scale": scale, "knockout": knockout}

__all__ = [
    "INTERVENTIONS",
    "EditsAttended",
    "EditsBlocks",
    "EditsCall",
    "Intervention",
    "Knockout",
    "Scale",
    "Target",
    "Zero",
    "knockout",
    "scale",
    "zero",
]
