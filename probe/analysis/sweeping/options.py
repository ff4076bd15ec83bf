"""How a sweep is run: every choice beside the model, the intervention, the units, the task and the prompts."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from probe.errors import UnknownNameError, UsageError
from probe.interventions.span import SpanChoice

Progress = Callable[[int, int, str], None]  # done, total, what


@dataclass(frozen=True)
class SweepOptions:
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
    progress: Progress | None = None

    def __post_init__(self) -> None:
        cut = self.max_tokens
        if cut is not None and (not isinstance(cut, int) or isinstance(cut, bool) or cut < 2):
            raise UsageError(f"max_tokens={cut!r} was asked; a sweep needs prompts of at least 2 tokens")

    @classmethod
    def of(cls, options: "SweepOptions | None", changes: dict[str, Any]) -> "SweepOptions":
        """`options` with `changes` by name; raises `UnknownNameError` for an option that does not exist."""
        known = {field.name for field in fields(cls)}
        for name in changes:
            if name not in known:
                raise UnknownNameError.of("option of sweep", name, known)
        return replace(options or cls(), **changes)

    @property
    def folder(self) -> Path | None:
        """`out` as a path."""
        return None if self.out is None else Path(self.out)

    def report_progress(self, done: int, total: int, what: str) -> None:
        """Tell whoever asked how far the sweep is."""
        if self.progress is not None:
            self.progress(done, total, what)
