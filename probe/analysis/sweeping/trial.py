"""Whether a model can be resumed behind an edited layer: held against whole forwards before it is relied on.

Both sides are computed by our kernels, so that what is left is rounding. Where they differ, or the model cannot run in
parts, the sweep makes whole forwards and says so.
"""

from typing import Any

import torch

from probe.analysis.sweeping.cases import Group
from probe.analysis.sweeping.plan import Plan
from probe.analysis.sweeping.prefix import Feed
from probe.analysis.sweeping.stack import Stack
from probe.analysis.sweeping.track import Track
from probe.analysis.sweeping.units import Unit
from probe.analysis.sweeping.whole import Whole
from probe.seam.session import Session

# What models raise that hand more from block to block than their outputs say.
_CANNOT_RESUME = (
    TypeError, ValueError, AttributeError, KeyError, IndexError, NotImplementedError, RuntimeError,
)  # fmt: skip


def outside(intervention: Any) -> str | None:
    """Why an intervention may act elsewhere than in its layer's attention; None where it cannot."""
    running = intervention.live() if hasattr(intervention, "live") else intervention
    for method, what in (("inputs", "what the model is called with"), ("attach", "modules of the model")):
        if hasattr(running, method):
            return f"{intervention.name} edits {what}"
    return None


def differs(plan: Plan, stack: Stack, group: Group, unit: Unit) -> str | None:
    """Why one unit's resumed forward is not the whole forward; None where it is, up to rounding."""
    loaded, intervention = plan.loaded, unit.narrow(plan.edit)
    block = stack.of(unit.place.module)
    if block is None:
        return f"{unit.place.module} lies in no block"
    try:
        with Session(loaded.model, (), (), mode="fused"):
            track = Track(Feed(loaded, group, cached=plan.cached), stack, plan.task)
            track.enter(block)
        made, _ = track.through(block, [intervention])
        with Session(loaded.model, (), (), mode="fused"):
            made = track.unedited(block) if made is None else made
            resumed = torch.cat([logits for _, logits in track.logits(block + 1, made, 1)], dim=1)
    except _CANNOT_RESUME as error:
        return f"{unit.name}: {type(error).__name__}"
    with Session(loaded.model, (), [intervention]) as session:
        whole = torch.cat([logits for _, logits in Whole(loaded, group, plan.phase).logits(session)], dim=1)
    worst, size = float((resumed - whole).abs().max()), max(1.0, float(whole.abs().max()))
    allowed = max(1e-5, 2 * torch.finfo(resumed.dtype).eps) * size
    return None if worst <= allowed else f"{unit.name}: its logits would differ by {worst:.1e}"
