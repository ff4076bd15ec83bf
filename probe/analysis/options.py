"""How an analysis is run: every choice beside the model, the prompts, the metrics and the interventions."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from probe.analysis.choices import Choices
from probe.errors import UsageError

_CHOICES: dict[str, tuple[str | None, ...]] = {
    "mode": ("fused", "shadow"),
    "keep": ("none", "map", "qk"),
    "on_unseen": ("error", "note"),
    "baseline": (None, "untrained"),
}
_POSITIVE = ("max_tokens", "chunk", "batch_size")


@dataclass(frozen=True)
class AnalyzeOptions(Choices):
    """Choices of one analysis.

    Attributes:
        mode: ``fused`` (our kernel computes output and statistics) or ``shadow`` (the model's own
            output, bit-exact).
        out: Folder of the finished report; a run that is interrupted resumes from it.
        keep: Also keep, in `out`, a pooled map of every head (``map``), or that and its queries and keys (``qk``).
        device: Where a model that is loaded here runs, such as ``cuda``.
        dtype: What a model that is loaded here computes in, such as ``bfloat16``.
        max_tokens: Keep the first so many tokens of every prompt.
        chunk: Prefill by so many tokens at a time through the KV cache; the answers are the same.
        batch_size: Prompts per forward.
        seed: Seed of everything random; torch's generators are put back afterwards.
        deterministic: Ask torch for deterministic algorithms.
        text: Keep prompts and tokens in the report; False makes a report that can be shared.
        kernels: Backend: ``reference``, ``torch`` or ``triton``; None chooses by device.
        by_prompt: Keep values per prompt, which intervals are computed from.
        baseline: ``untrained`` puts the same metrics of the same model with re-initialised weights beside every answer
            (``extra["untrained"]``): twice the time, and a second model in memory.
        command: The command line, for the record.
        progress: Called with (done, total, what) after every step.
        on_unseen: Attention layers that never reached the seam, in a model where others did, are listed in the report
            (``note``) or stop the run (``error``). A model of which nothing is seen always stops the run.
    """

    verb: ClassVar[str] = "analyze"

    mode: str = "fused"
    out: str | Path | None = None
    keep: str = "none"
    device: str | None = None
    dtype: str | None = None
    max_tokens: int | None = None
    chunk: int | None = None
    batch_size: int = 1
    seed: int = 0
    deterministic: bool = False
    text: bool = True
    kernels: str | None = None
    by_prompt: bool = True
    baseline: str | None = None
    command: str | None = None
    on_unseen: str = "note"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"{name}={getattr(self, name)!r} was asked; it is one of {', '.join(map(str, choices))}"
                )
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise UsageError(f"{name}={value!r} was asked; it must be a whole number of at least 1")
        if self.chunk is not None and self.batch_size > 1:
            raise UsageError(
                f"chunk={self.chunk} with batch_size={self.batch_size} was asked; chunked prefill takes "
                "one prompt at a time: leave batch_size at 1"
            )
        if self.keep != "none" and self.out is None:
            raise UsageError(f"keep={self.keep!r} was asked without a folder to keep it in; give out=DIR")

    @property
    def folder(self) -> Path | None:
        """`out` as a path."""
        return None if self.out is None else Path(self.out)


def mode_of(mode: str | None) -> Literal["fused", "shadow"] | None:
    """A mode as the seam takes it; raises `UsageError` for another word."""
    if mode is None:
        return None
    if mode == "fused":
        return "fused"
    if mode == "shadow":
        return "shadow"
    raise UsageError(f"mode={mode!r} was asked; it is one of fused, shadow")
