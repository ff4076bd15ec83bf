"""Zero ablation: a head writes nothing."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from probe_kernels.types import Attended

from probe.interventions.target import Target
from probe.seam.call import AttentionCall
from probe.terms import HeadId


@dataclass(frozen=True)
class Zero:
    """z := 0 at the chosen heads; their pattern and its statistics stay as they are."""

    target: Target

    @property
    def name(self) -> str:
        """How reports name it."""
        return f"zero:{self.target}".rstrip(":")

    def control(self, seed: int) -> "Zero":
        """The same, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def attended(self, call: AttentionCall, attended: Attended) -> Attended:
        """The result with z zeroed at the chosen heads."""
        if attended.z is None or not self.target.applies(call):
            return attended
        mask = self.target.head_mask(call)[None, :, None, None]
        return replace(attended, z=attended.z.masked_fill(mask, 0.0))


def zero(
    heads: Iterable[str | HeadId] | None = None,
    *,
    layers: Iterable[int] | None = None,
    tower: str | None = None,
    phase: str = "both",
) -> Zero:
    """Set a head's output z to zero (zero ablation; Michel, Levy & Neubig 2019, arXiv:1905.10650).

    Args:
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        layers: Restricts to these layers.
        tower: Restricts to one tower (``decoder``, ``encoder``, ``cross``, ``vision``, ``audio``).
        phase: ``prefill``, ``decode`` (every forward that continues a cached sequence) or ``both``.

    Raises:
        UsageError: a head, layer or phase that cannot be one.
    """
    return Zero(Target.of(heads, layers, tower, phase))
