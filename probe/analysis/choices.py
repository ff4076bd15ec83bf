"""What the options of every verb have in common: changes by name, and telling how far a run is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, TypeVar

from probe.errors import UnknownNameError

Progress = Callable[[int, int, str], None]  # done, total, what
Chosen = TypeVar("Chosen", bound="Choices")


@dataclass(frozen=True)
class Choices:
    """Base of the options of one verb."""

    verb: ClassVar[str]
    progress: Progress | None = field(default=None, kw_only=True)

    @classmethod
    def of(cls: type[Chosen], options: Chosen | None, changes: Mapping[str, Any]) -> Chosen:
        """`options` with `changes` by name; raises `UnknownNameError` for an option that does not exist."""
        known = {one.name for one in fields(cls)}
        for name in changes:
            if name not in known:
                raise UnknownNameError.of(f"option of {cls.verb}", name, known)
        return replace(cls() if options is None else options, **changes)

    def report_progress(self, done: int, total: int, what: str) -> None:
        """Tell whoever asked how far the run is."""
        if self.progress is not None:
            self.progress(done, total, what)
