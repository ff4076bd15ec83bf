"""How patterns are measured: every choice beside the model, the prompts and the patterns."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from probe.analysis.options import AnalyzeOptions, Progress
from probe.errors import UnknownNameError


@dataclass(frozen=True)
class PatternOptions:
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
    progress: Progress | None = None

    def __post_init__(self) -> None:
        _ = self.running  # what cannot be an option of a run is refused here

    @classmethod
    def of(cls, options: "PatternOptions | None", changes: dict[str, Any]) -> "PatternOptions":
        """`options` with `changes` by name; raises `UnknownNameError` for an option that does not exist."""
        known = {field.name for field in fields(cls)}
        for name in changes:
            if name not in known:
                raise UnknownNameError.of("option of patterns", name, known)
        return replace(options or cls(), **changes)

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

    def report_progress(self, done: int, total: int, what: str) -> None:
        """Tell whoever asked how far the run is."""
        self.running.report_progress(done, total, what)
