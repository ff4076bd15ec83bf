"""How patterns are measured: every choice beside the model, the prompts and the patterns."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from probe.analysis.choices import Choices
from probe.analysis.options import AnalyzeOptions


@dataclass(frozen=True)
class PatternOptions(Choices):
    """Choices of one measurement of patterns.

    Attributes:
        control: Beside every pattern that looks at scores, random blocks at the density that it has in each head.
        apply: Also put each pattern into the model, in prefill and decode, and say what its predictions lose.
        retrieval: Also detect retrieval heads, so that a head that loses its mass can be told to be one.
        out: Folder of the finished report; a run that is interrupted resumes from it.
        max_tokens: Keep the first so many tokens of every prompt.
        seed: Seed of the control's draws and of everything else random.
        device: Where a model that is loaded here runs, such as ``cuda``.
        dtype: What a model that is loaded here computes in, such as ``bfloat16``.
        kernels: Backend: ``reference``, ``torch`` or ``triton``; None chooses by device.
        text: Keep prompts and tokens in the report; False makes a report that can be shared.
        command: The command line, for the record.
        progress: Called with (done, total, what) after every step.
    """

    verb: ClassVar[str] = "patterns"

    control: bool = True
    apply: bool = False
    retrieval: bool = False
    out: str | Path | None = None
    max_tokens: int | None = None
    seed: int = 0
    device: str | None = None
    dtype: str | None = None
    kernels: str | None = None
    text: bool = True
    command: str | None = None

    def __post_init__(self) -> None:
        _ = self.running  # what cannot be an option of a run is refused here

    @property
    def running(self) -> AnalyzeOptions:
        """How the prompts are run; raises `UsageError` for a choice that cannot be one."""
        return AnalyzeOptions(
            out=self.out,
            max_tokens=self.max_tokens,
            seed=self.seed,
            kernels=self.kernels,
            progress=self.progress,
        )
