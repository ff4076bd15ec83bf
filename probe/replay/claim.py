"""A claim of a paper: what is listed about it, and how it is measured."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from probe.errors import UnknownNameError

if TYPE_CHECKING:
    from probe.replay.finding import Finding
    from probe.replay.work import Work

BOTH = ("smollm2-135m", "gemma3-270m")


@dataclass(frozen=True)
class Listed:
    """What ``probe replay --list`` tells of a claim, without loading it.

    Args:
        where: ``module:attribute`` of its `Claim`.
        title: The claim in one sentence, without a full stop.
        paper: Who claims it: ``Wu et al. 2024 (arXiv:2404.15574)``.
        minutes: About how long it takes on one model and one CPU core.
        models: The models it is replayed on.
    """

    where: str
    title: str
    paper: str
    minutes: float
    models: tuple[str, ...] = BOTH


@dataclass(frozen=True)
class Claim:
    """How one claim is replayed.

    Args:
        claimed: What the paper claims, in a sentence or two, its numbers included.
        data: Which texts and prompts are used, and whether they are of the train or of the held-out part.
        measure: Measures it on one model; every number that takes time goes through `Work.keep`.
        how: Sentences on how it is measured and what "holds" means, the same for every model.
        settings: What measured numbers depend on besides model and seed (counts, sizes); another value measures anew.
    """

    claimed: str
    data: str
    measure: Callable[["Work"], "Finding"]
    how: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


class Claims(Mapping[str, Listed]):
    """Claims by name; the code of each is loaded when it is replayed."""

    def __init__(self, listed: Mapping[str, Listed]) -> None:
        self._listed = dict(listed)

    def __getitem__(self, name: str) -> Listed:
        """What is listed about a claim; raises `UnknownNameError` with the nearest name."""
        if name not in self._listed:
            raise UnknownNameError.of("claim", name, self._listed)
        return self._listed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)

    def __len__(self) -> int:
        return len(self._listed)

    def load(self, name: str) -> Claim:
        """The code of a claim; raises `UnknownNameError`."""
        module, _, attribute = self[name].where.partition(":")
        found: Claim = getattr(importlib.import_module(module), attribute)
        return found
