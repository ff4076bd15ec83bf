"""What an experiment is: it runs the model itself, and answers in the same report as the metrics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from probe.errors import InputError
from probe.metrics.base import MetricInfo
from probe.models import LoadedModel
from probe.prompts import Prompt, default_text
from probe.report.answer import Answer

Progress = Callable[[int, int, str], None]  # done, total, what


@dataclass(frozen=True)
class Ask:
    """What an experiment is given.

    `prompts` are the user's; empty where nobody gave any: then it brings its own, or reads the shipped text.
    """

    model: LoadedModel
    prompts: tuple[Prompt, ...] = ()
    seed: int = 0
    progress: Progress | None = None
    max_tokens: int | None = None  # of the shipped text; prompts of the user's are cut already

    def tell(self, done: int, total: int, what: str) -> None:
        """Tell whoever asked how far the experiment is."""
        if self.progress is not None:
            self.progress(done, total, what)

    def texts(self, most: int = 1024) -> tuple[Prompt, ...]:
        """The user's prompts, or the shipped text cut to `most` tokens, to those asked, or to the model's positions."""
        if self.prompts:
            return self.prompts
        if self.model.tokenizer is None:
            raise InputError(
                f"the shipped text was asked; {self.model.name} has no tokenizer: give prompts of token ids"
            )
        room = min(most, self.max_tokens or most, self.model.max_positions or most)
        return (Prompt.of(default_text(), self.model.tokenizer, id="text").truncate(room),)


@runtime_checkable
class Experiment(Protocol):
    """Runs the model as often as it needs. `spec` is the spec as typed, the key of its answers."""

    info: ClassVar[MetricInfo]
    spec: str

    def run(self, ask: Ask) -> list[Answer]:
        """Run and answer, one `Answer` per tower."""


def told(spec: str, info: MetricInfo, tower: str = "decoder") -> dict[str, Any]:
    """The fields of an `Answer` that are the same whatever was found: ``Answer(**told(...), head_map=...)``."""
    return {
        "spec": spec, "name": info.name, "summary": info.summary, "unit": info.unit, "better": info.better,
        "paper": info.paper, "bibtex": info.bibtex, "tower": tower,
    }  # fmt: skip


def named(prompts: Sequence[Prompt], span: str) -> None:
    """Refuse prompts of which none has the span; raises `InputError` naming the spans there are."""
    if not any(span in one.spans and one.spans[span].any() for one in prompts):
        known = sorted({name for one in prompts for name in one.spans})
        raise InputError(
            f"the span {span!r} was asked; the prompts have {', '.join(known)}: name it in the prompts' spans"
        )
