"""How heads are probed: every choice beside the model, the prompts and what is to be read."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from probe.analysis.choices import Choices
from probe.errors import UsageError


@dataclass(frozen=True)
class HeadProbeOptions(Choices):
    """Choices of one probing.

    Attributes:
        at: Which rows of z: ``last`` (the last token of every prompt), ``tokens`` (each token is an example of its
            own), or the name of a span (the mean over its tokens).
        folds: Parts of the cross-validation.
        penalty: Weight of the squared weights: logistic ``C = 1 / penalty``, ridge ``alpha = penalty``.
        control: ``type``: every type of input gets one random label (Hewitt and Liang's control task); ``shuffle``:
            labels change places between examples, which gives chance.
        types: What type each prompt is, for ``control="type"``; None: the token at the row, or the span's tokens.
        seed: Of folds and control.
        device: Where a model that is loaded here runs.
        dtype: What a model that is loaded here computes in.
        progress: Called with (done, total, what) after every step.
    """

    verb: ClassVar[str] = "head_probes"

    at: str = "last"
    folds: int = 5
    penalty: float = 1.0
    control: str = "type"
    types: Sequence[Hashable] | None = None
    seed: int = 0
    device: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.control not in ("type", "shuffle"):
            raise UsageError(f"control={self.control!r} was asked; it is type or shuffle")
        if not isinstance(self.folds, int) or self.folds < 2:
            raise UsageError(f"folds={self.folds!r} was asked; allowed is 2 or more")
        if not self.penalty > 0:
            raise UsageError(f"penalty={self.penalty!r} was asked; it must be above 0")
        if self.types is not None and self.at == "tokens":
            raise UsageError(
                "types were given with at='tokens'; there a token's type is its id: leave types out"
            )
