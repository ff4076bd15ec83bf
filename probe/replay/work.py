"""What a claim measures with: a model, a seed, and numbers that are kept line by line."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from probe.analysis.analyze import analyze
from probe.models import LoadedModel
from probe.replay.heads import by_head
from probe.replay.kept import Kept

One = TypeVar("One")


class Work:
    """One claim on one model.

    Attributes:
        model: The model in float32 and evaluation mode.
        seed: Of everything random.
        small: Whether this is a smoke check of a few prompts.
    """

    def __init__(
        self,
        model: LoadedModel,
        kept: Kept,
        *,
        shared: Kept,
        seed: int = 0,
        small: bool = False,
        tell: Callable[[str], None] = lambda _what: None,
    ) -> None:
        self.model, self.seed, self.small = model, seed, small
        self._kept, self._shared, self._tell = kept, shared, tell

    def keep(self, key: str, measure: Callable[..., Any], *arguments: Any) -> Any:
        """What ``measure(*arguments)`` gives, as lists and numbers (None for NaN); measured once, also after a kill.

        A key names one value of one claim on one model, such as a prompt: take about as long for one as you would
        like to lose.
        """
        self._tell(key)
        return self._kept.of(key, partial(measure, *arguments))

    def once(self, key: str, measure: Callable[..., Any], *arguments: Any) -> Any:
        """Like `keep`, for all claims: what a model gives that several claims start from, such as texts that it writes.

        In a smoke check it is that of the real results where it is there: measure the same however small the check.
        """
        self._tell(key)
        return self._shared.of(f"{key} seed {self.seed}", partial(measure, *arguments))

    def few(self, items: Sequence[One], most: int = 2) -> list[One]:
        """The items; in a smoke check the first `most` of them."""
        return list(items[:most] if self.small else items)

    def scores(self, spec: str) -> dict[str, float]:
        """The score of every head by ``probe analyze --metric SPEC``, by name; measured once for all claims.

        `spec` is of a metric or experiment that brings its own prompts (``retrieval``); its defaults are those of the
        command, so that heads are chosen by the train part alone. In a smoke check the scores are the same ones.
        """
        self._tell(f"scores of {spec}")
        found: Mapping[str, float] = self._shared.of(
            f"{spec} seed {self.seed}", partial(self._measured, spec)
        )
        return dict(found)

    def retrieval(self) -> dict[str, float]:
        """The retrieval score of every head: needles 1 to 4, the first half of the haystack."""
        return self.scores("retrieval")

    def _measured(self, spec: str) -> dict[str, float]:
        report = analyze(self.model, "unused", metrics=[spec], seed=self.seed)
        return by_head(report[spec])
