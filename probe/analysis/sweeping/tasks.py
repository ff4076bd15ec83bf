"""The tasks of a sweep: what a model must do, and the numbers that say how well it did.

A task makes cases from prompts, and turns the logits of scored rows into numbers per row; a case's number is the mean
over its rows. `effect` is the first number, edited minus base.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from probe.analysis.continuation import answer_tokens
from probe.analysis.sweeping.cases import Case
from probe.errors import InputError, UnknownNameError, UsageError
from probe.models import LoadedModel
from probe.prompts import HiddenNeedle, Prompt, default_text, hide, ioi_prompts, needles
from probe.terms import Spec

_ROWS = 16  # rows whose losses are taken at a time


@dataclass(frozen=True)
class Number:
    """One number of a task: its name in the report, what it is, and which end of its change matters most."""

    key: str
    summary: str
    unit: str
    better: Literal["high", "low"]


@runtime_checkable
class Task(Protocol):
    """What a sweep asks of a model."""

    name: ClassVar[str]
    numbers: ClassVar[tuple[Number, ...]]

    def cases(
        self, loaded: LoadedModel, prompts: Sequence[Prompt] | None, seed: int, tail: bool
    ) -> list[Case]:
        """The cases; `tail` asks that only what a model would generate is scored."""

    def rows(
        self,
        logits: Float[Tensor, "row vocab"],
        wanted: Int[Tensor, " row"],
        against: Int[Tensor, " row"] | None,
    ) -> Float[Tensor, "number row"]:
        """Every number for every row."""


_LOSS = Number("effect", "Change of the mean token loss when edited, in nats; above 0 hurts", "nats", "high")


@dataclass(frozen=True)
class Loss:
    """Mean next-token loss on text; `tail` is how many last tokens count as generated where that is asked."""

    name: ClassVar[str] = "loss"
    numbers: ClassVar[tuple[Number, ...]] = (_LOSS,)
    tokens: int = 512  # of the shipped text
    tail: int = 32

    def cases(
        self, loaded: LoadedModel, prompts: Sequence[Prompt] | None, seed: int, tail: bool
    ) -> list[Case]:
        """Every token but the first; with `tail` the response of a chat, or the last tokens of a text."""
        del seed
        if prompts is None:
            room = min(self.tokens, loaded.max_positions or self.tokens)
            prompts = [Prompt.of(default_text(), loaded.tokenizer, id="text").truncate(room)]
        return [self._case(prompt, tail) for prompt in prompts]

    def _case(self, prompt: Prompt, tail: bool) -> Case:
        least = 3 if tail else 2
        if len(prompt) < least:
            raise InputError(
                f"prompt {prompt.id!r} has {len(prompt)} tokens; a loss {'of generated tokens ' * tail}needs at least "
                f"{least}: give more text"
            )
        told = len(prompt)
        if tail:
            response = prompt.spans["response"].nonzero()[0]
            # Two tokens at least are told: one to continue from, and one before it.
            told = max(2, int(response[0]) if len(response) else told - self.tail)
        first = told - 1 if tail else 0
        given = prompt.truncate(told)
        return Case(prompt.id, given, prompt.tokens[:-1], first, prompt.tokens[first + 1 :])

    def rows(self, logits: Tensor, wanted: Tensor, against: Tensor | None) -> Tensor:
        """-log p of the next token."""
        del against
        return _nll(logits, wanted)[None]


@dataclass(frozen=True)
class NeedleRecall:
    """Loss and recall of a hidden needle's answer, its tokens given one after another (teacher forcing).

    The last of the shipped needles are hidden, since the first are those that retrieval heads are found with.
    """

    name: ClassVar[str] = "needle"
    numbers: ClassVar[tuple[Number, ...]] = (
        Number(
            "effect", "Change of the answer's mean token loss when edited, in nats; above 0 hurts", "nats", "high"
        ),
        Number(
            "recall",
            "Change of the share of answer tokens that are the likeliest next token; below 0 hurts",
            "share of answer tokens",
            "low",
        ),
    )  # fmt: skip
    length: int = 500
    needles: int = 2
    depths: tuple[float, ...] = (0.5,)

    def cases(
        self, loaded: LoadedModel, prompts: Sequence[Prompt] | None, seed: int, tail: bool
    ) -> list[Case]:
        """One case per needle and depth, or per prompt that was given with its answer."""
        del tail
        if prompts is None:
            prompts = self._hidden(loaded, seed)
        return [self._case(prompt, loaded) for prompt in prompts]

    def _hidden(self, loaded: LoadedModel, seed: int) -> list[Prompt]:
        known = needles()
        if not 1 <= self.needles <= len(known):
            raise UsageError(f"needle: needles was {self.needles}; allowed is 1 to {len(known)}")
        made = torch.Generator().manual_seed(seed)
        chosen = known[-self.needles :]
        starts = torch.randint(0, 500_000, (len(chosen),), generator=made).tolist()
        return [
            hide(HiddenNeedle(needle, self.length, depth, "complete", start), loaded.tokenizer)
            for needle, start in zip(chosen, starts, strict=True)
            for depth in self.depths
        ]

    def _case(self, prompt: Prompt, loaded: LoadedModel) -> Case:
        answer = _answer_tokens(prompt, loaded)
        return Case(prompt.id, prompt, prompt.tokens + answer[:-1], len(prompt) - 1, answer)

    def rows(self, logits: Tensor, wanted: Tensor, against: Tensor | None) -> Tensor:
        """-log p of the answer's token, and whether it is the likeliest."""
        del against
        return torch.stack([_nll(logits, wanted), (logits.argmax(-1) == wanted).double()])


@dataclass(frozen=True)
class IndirectObject:
    """Logit of the indirect object minus that of the subject (Wang et al. 2022, arXiv:2211.00593)."""

    name: ClassVar[str] = "ioi"
    numbers: ClassVar[tuple[Number, ...]] = (
        Number(
            "effect",
            "Change of the logit difference, indirect object minus subject, when edited; below 0 hurts",
            "logits",
            "low",
        ),
    )
    count: int = 16

    def cases(
        self, loaded: LoadedModel, prompts: Sequence[Prompt] | None, seed: int, tail: bool
    ) -> list[Case]:
        """One case per prompt; prompts that were given need a span ``s2`` and an answer."""
        del tail
        made = prompts or ioi_prompts(loaded.tokenizer, count=self.count, seed=seed)
        return [self._case(prompt, loaded) for prompt in made]

    def _case(self, prompt: Prompt, loaded: LoadedModel) -> Case:
        if "s2" not in prompt.spans or not prompt.spans["s2"].any():
            raise InputError(f"prompt {prompt.id!r} has no span s2, the subject: name its second mention so")
        io = _answer_tokens(prompt, loaded)[0]
        subject = prompt.tokens[int(prompt.spans["s2"].nonzero()[0][0])]
        if io == subject:
            raise InputError(f"prompt {prompt.id!r}: its answer and its subject begin with the same token")
        return Case(prompt.id, prompt, prompt.tokens, len(prompt) - 1, (io,), subject)

    def rows(self, logits: Tensor, wanted: Tensor, against: Tensor | None) -> Tensor:
        """The difference of two logits."""
        if against is None:
            raise UsageError("ioi was asked without a subject")
        by_row = logits.double()
        return (by_row.gather(1, wanted[:, None]) - by_row.gather(1, against[:, None]))[:, 0][None]


TASKS: dict[str, type[Any]] = {"loss": Loss, "needle": NeedleRecall, "ioi": IndirectObject}


def make_task(spec: str) -> Task:
    """The task that a spec such as ``needle:length=1000,needles=3`` names.

    Raises:
        UnknownNameError: no such task or parameter.
        UsageError: a parameter that is no positive number.
    """
    parsed = Spec.parse(spec)
    if parsed.name not in TASKS:
        raise UnknownNameError.of("task", parsed.name, TASKS)
    kind = TASKS[parsed.name]
    known = {name: getattr(kind, name) for name in kind.__dataclass_fields__}
    values: dict[str, object] = {}
    for key, text in parsed.params.items():
        if key not in known:
            raise UnknownNameError.of(f"parameter of {parsed.name}", key, known)
        values[key] = _read(text, known[key], f"{parsed.name}: {key}")
    task: Task = kind(**values)
    return task


def _read(text: str, default: object, where: str) -> object:
    try:
        if isinstance(default, tuple):
            return tuple(float(part) for part in text.split("+"))
        value = int(text)
    except ValueError as error:
        kind = "numbers joined by +" if isinstance(default, tuple) else "a whole number"
        raise UsageError(f"{where} was {text!r}; it must be {kind}") from error
    if value < 1:
        raise UsageError(f"{where} was {value}; it must be at least 1")
    return value


def _answer_tokens(prompt: Prompt, loaded: LoadedModel) -> tuple[int, ...]:
    if not prompt.answer:
        raise InputError(f"prompt {prompt.id!r} has no answer, which the task scores: give it one")
    return answer_tokens(prompt, loaded.tokenizer)


def _nll(logits: Tensor, wanted: Tensor) -> Tensor:
    # A few rows at a time: a vocabulary's worth of fresh memory per row would cost more than the sum itself.
    parts = [
        cross_entropy(few if few.dtype == torch.float64 else few.float(), tokens, reduction="none")
        for few, tokens in zip(torch.split(logits, _ROWS), torch.split(wanted, _ROWS), strict=True)
    ]
    return torch.cat(parts).double()
