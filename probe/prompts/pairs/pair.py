"""A minimal pair: two prompts of equal token length that differ in what decides the answer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from probe.errors import InputError
from probe.prompts.pairs.answers import only_token
from probe.prompts.prompt import Prompt


@dataclass(frozen=True)
class Pair:
    """A clean prompt, a corrupt one of as many tokens, and the tokens that answer the one and the other.

    `right` are the tokens that may follow the clean prompt (one, or several that count alike, such as every larger
    digit); `wrong` those that may not, among them what the corrupt prompt asks for. `marks` name positions that mean
    the same in every pair of a task (``s2``, ``end``); ``end``, the last token, is always among them.
    """

    id: str
    clean: Prompt
    corrupt: Prompt
    right: tuple[int, ...]
    wrong: tuple[int, ...]
    marks: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.clean) != len(self.corrupt):
            raise InputError(
                f"pair {self.id!r}: the clean prompt has {len(self.clean)} tokens, the corrupt one "
                f"{len(self.corrupt)}: positions must correspond, so change words for others of as many tokens"
            )
        if not self.right or not self.wrong or set(self.right) & set(self.wrong):
            raise InputError(
                f"pair {self.id!r}: {len(self.right)} right and {len(self.wrong)} wrong answer tokens were given, "
                f"{len(set(self.right) & set(self.wrong))} of them both: give at least one of each, none of them both"
            )
        beyond = {name: at for name, at in self.marks.items() if not 0 <= at < len(self.clean)}
        if beyond:
            raise InputError(
                f"pair {self.id!r} has {len(self.clean)} tokens; marks lie beyond them: {beyond}"
            )
        last = len(self.clean) - 1
        if self.marks.get("end", last) != last:
            raise InputError(
                f"pair {self.id!r} marks token {self.marks['end']} as its end; that is its last one, {last}: "
                "choose another name"
            )
        if "end" not in self.marks:
            object.__setattr__(self, "marks", {**self.marks, "end": last})

    @classmethod
    def of(
        cls,
        clean: Prompt,
        corrupt: Prompt,
        tokenizer: Any,
        *,
        wrong: str | None = None,
        marks: Mapping[str, int] | None = None,
    ) -> "Pair":
        """A pair of two prompts with answers; `wrong` (default: the corrupt prompt's answer) is what right is held to.

        Raises:
            InputError: prompts of different token length, no answer, or an answer that is several tokens.
        """
        answers = (clean.answer, corrupt.answer if wrong is None else wrong)
        right, other = (
            answer_token(prompt, answer, tokenizer)
            for prompt, answer in zip((clean, corrupt), answers, strict=True)
        )
        return cls(clean.id, clean, corrupt, (right,), (other,), dict(marks or {}))

    def swapped(self) -> "Pair":
        """The pair seen from the other side: the corrupt prompt as the clean one, right and wrong exchanged."""
        return replace(self, clean=self.corrupt, corrupt=self.clean, right=self.wrong, wrong=self.right)

    def __len__(self) -> int:
        return len(self.clean)


@dataclass(frozen=True)
class PairSet:
    """The pairs of one task, and the lines that a reader of numbers from them must see."""

    task: str
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.pairs:
            raise InputError(f"task {self.task!r}: no pair was given; give at least one")

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def marks(self) -> tuple[str, ...]:
        """The marks that every pair has, in the order of their positions in the first pair."""
        first, *others = self.pairs
        shared = [name for name in first.marks if all(name in pair.marks for pair in others)]
        return tuple(sorted(shared, key=lambda name: first.marks[name]))

    def swapped(self) -> "PairSet":
        """Every pair seen from the other side."""
        return replace(self, pairs=tuple(pair.swapped() for pair in self.pairs))

    def only(self, keep: Sequence[bool]) -> "PairSet":
        """The pairs that are kept; raises `InputError` where none is."""
        return replace(self, pairs=tuple(p for p, kept in zip(self.pairs, keep, strict=True) if kept))


def answer_token(prompt: Prompt, answer: str | None, tokenizer: Any) -> int:
    """The one token that an answer is, written behind the prompt (with its space).

    Raises:
        InputError: there is no answer, or it is not one token there.
    """
    if not answer:
        raise InputError(f"prompt {prompt.id!r} has no answer; a pair needs one of each of its prompts")
    try:
        return only_token(prompt.text, answer, tokenizer)
    except InputError as error:
        raise InputError(f"prompt {prompt.id!r}: {error}") from error
