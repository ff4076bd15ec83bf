"""Scaling: a head writes more, or less, of the same."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Unpack

from probe_kernels.types import Attended

from probe.errors import UsageError
from probe.interventions.editing import edit_z
from probe.interventions.target import Target, Where, name_of
from probe.seam.call import AttentionCall
from probe.terms import HeadId


@dataclass(frozen=True)
class Scale:
    """z := alpha·z at the chosen heads and rows; their pattern and its statistics stay as they are."""

    target: Target
    alpha: float

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of("scale", self.target, alpha=self.alpha)

    def control(self, seed: int) -> "Scale":
        """The same, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def attended(self, call: AttentionCall, attended: Attended) -> Attended:
        """The result with z scaled at the chosen heads and rows."""
        return edit_z(self.target, call, attended, lambda z: z * self.alpha)


def scale(
    heads: Iterable[str | HeadId] | None = None, alpha: float | None = None, **where: Unpack[Where]
) -> Scale:
    """Multiply a head's output z by `alpha` (2 doubles what it writes, 0 is `zero`, -1 reverses it).

    Args:
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        alpha: The factor, any finite number; it must be given.
        **where: Layers, tower, query rows and phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: a head, layer, span, phase or factor that cannot be one.
    """
    if alpha is None:
        raise UsageError(
            "scale was asked without a factor, which would change nothing; give alpha, such as alpha=2"
        )
    if not (isinstance(alpha, int | float) and abs(alpha) < float("inf")):
        raise UsageError(f"scale with alpha={alpha!r} was asked; alpha must be a finite number")
    return Scale(Target.of(heads, where), float(alpha))
