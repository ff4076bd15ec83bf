"""Scaling: a head writes more, or less, of the same."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from probe_kernels.types import Attended

from probe.errors import UsageError
from probe.interventions.target import Target
from probe.seam.call import AttentionCall
from probe.terms import HeadId


@dataclass(frozen=True)
class Scale:
    """z := alpha·z at the chosen heads; their pattern and its statistics stay as they are."""

    target: Target
    alpha: float

    @property
    def name(self) -> str:
        """How reports name it."""
        return f"scale:{self.target},alpha={self.alpha:g}".replace(":,", ":")

    def control(self, seed: int) -> "Scale":
        """The same, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def attended(self, call: AttentionCall, attended: Attended) -> Attended:
        """The result with z scaled at the chosen heads."""
        z = attended.z
        if z is None or not self.target.applies(call):
            return attended
        mask = self.target.head_mask(call)[None, :, None, None]
        return replace(attended, z=torch.where(mask, z * self.alpha, z))


def scale(
    heads: Iterable[str | HeadId] | None = None,
    alpha: float | int = 1.0,
    *,
    layers: Iterable[int] | None = None,
    tower: str | None = None,
    phase: str = "both",
) -> Scale:
    """Multiply a head's output z by `alpha` (2 doubles what it writes, 0 is `zero`, -1 reverses it).

    Args:
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        alpha: The factor, any finite number.
        layers: Restricts to these layers.
        tower: Restricts to one tower.
        phase: ``prefill``, ``decode`` or ``both``.

    Raises:
        UsageError: a head, layer, phase or factor that cannot be one.
    """
    if not (isinstance(alpha, int | float) and abs(alpha) < float("inf")):
        raise UsageError(f"scale with alpha={alpha!r} was asked; alpha must be a finite number")
    return Scale(Target.of(heads, layers, tower, phase), float(alpha))
