"""How a sweep is run: every choice beside the model, the intervention, the units, the task and the prompts."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from probe.analysis.choices import Choices
from probe.errors import UsageError
from probe.interventions.span import SpanChoice


@dataclass(frozen=True)
class SweepOptions(Choices):
    """Choices of one sweep.

    Attributes:
        queries: Query rows that are edited: ``last``, a span's name, or ``(start, stop)``; None: as `how` says, else
            all.
        phase: ``prefill``, ``decode`` or ``both``; None: as `how` says, else both.
        out: Folder of the finished report; a sweep that is interrupted resumes from it.
        seed: Seed of everything random.
        device: Where a model that is loaded here runs.
        dtype: What a model that is loaded here computes in.
        max_tokens: Keep the first so many tokens of every prompt that was given.
        text: Keep prompts and tokens in the report; False makes a report that can be shared.
        resume: Run only what an edit can have changed, where that gives the same numbers.
        command: The command line, for the record.
        progress: Called with (done, total, what) after every step.
    """

    verb: ClassVar[str] = "sweep"

    queries: SpanChoice | None = None
    phase: str | None = None
    out: str | Path | None = None
    seed: int = 0
    device: str | None = None
    dtype: str | None = None
    max_tokens: int | None = None
    text: bool = True
    resume: bool = True
    command: str | None = None

    def __post_init__(self) -> None:
        cut = self.max_tokens
        if cut is not None and (not isinstance(cut, int) or isinstance(cut, bool) or cut < 2):
            raise UsageError(f"max_tokens={cut!r} was asked; a sweep needs prompts of at least 2 tokens")

    @property
    def folder(self) -> Path | None:
        """`out` as a path."""
        return None if self.out is None else Path(self.out)
