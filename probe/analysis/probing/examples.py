"""The examples of a probe: which rows of which prompt, what is to be read there, and what type of input it is."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from probe.analysis.probing.options import HeadProbeOptions
from probe.errors import InputError, UsageError
from probe.prompts import Prompt


@dataclass(frozen=True)
class Examples:
    """Examples in order.

    Attributes:
        prompt: The prompt of each.
        rows: Its tokens, whose z are averaged.
        wanted: Class numbers, or float64 targets.
        types: Type numbers of the control task.
        classes: Names of the classes, in order of their numbers; empty for targets.
    """

    prompt: np.ndarray
    rows: tuple[np.ndarray, ...]
    wanted: np.ndarray
    types: np.ndarray
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_types(self) -> int:
        """How many types there are."""
        return len(set(self.types.tolist()))


def make_examples(
    prompts: Sequence[Prompt],
    labels: Sequence[object] | None,
    targets: Sequence[object] | None,
    options: HeadProbeOptions,
) -> Examples:
    """Read labels or targets, one per prompt or (``at="tokens"``) one per token, None where a token is no example.

    Raises:
        UsageError: both or neither were given, or types that do not fit.
        InputError: another number of them than prompts or tokens, a span that is empty, or too few examples.
    """
    if (labels is None) == (targets is None):
        raise UsageError("a probe reads labels or targets; give one of the two")
    given: Sequence[object] = labels if labels is not None else targets if targets is not None else ()
    word = "labels" if labels is not None else "targets"
    if len(given) != len(prompts):
        raise InputError(f"{len(given)} {word} were given for {len(prompts)} prompts; give one for each")
    if options.types is not None and len(options.types) != len(prompts):
        raise InputError(
            f"{len(options.types)} types were given for {len(prompts)} prompts; give one for each"
        )
    found = (
        _per_token(prompts, given, word) if options.at == "tokens" else _per_prompt(prompts, given, options)
    )
    numbers, rows, wanted, types = found
    if len(rows) < options.folds:
        raise InputError(
            f"{len(rows)} examples were given for {options.folds} folds; give more, or fewer folds"
        )
    at = np.array(numbers, dtype=np.int64)
    if labels is None:
        return Examples(at, tuple(rows), _numbers(wanted), _numbered(types)[0])
    classes, names = _numbered(wanted)
    if len(names) < 2:
        raise InputError(f"every label is {names[0]!r}; a probe needs two different ones")
    return Examples(at, tuple(rows), classes, _numbered(types)[0], names)


_Found = tuple[list[int], list[np.ndarray], list[object], list[Hashable]]


def _per_prompt(prompts: Sequence[Prompt], given: Sequence[object], options: HeadProbeOptions) -> _Found:
    rows: list[np.ndarray] = []
    types: list[Hashable] = []
    for number, prompt in enumerate(prompts):
        here = _rows(prompt, number, options.at)
        rows.append(here)
        tokens = tuple(int(prompt.tokens[i]) for i in here)
        types.append(tokens if options.types is None else options.types[number])
    return list(range(len(prompts))), rows, list(given), types


def _rows(prompt: Prompt, number: int, at: str) -> np.ndarray:
    if at == "last":
        return np.array([len(prompt.tokens) - 1])
    if at not in prompt.spans or not prompt.spans[at].any():
        named = ", ".join(name for name, flags in prompt.spans.items() if flags.any()) or "none"
        raise InputError(
            f"the span {at!r} was asked; prompt {prompt.id or number} has no token in it (spans: {named}): "
            "name it in every prompt, or use at='last'"
        )
    return np.flatnonzero(prompt.spans[at])


def _per_token(prompts: Sequence[Prompt], given: Sequence[object], word: str) -> _Found:
    numbers: list[int] = []
    rows: list[np.ndarray] = []
    wanted: list[object] = []
    types: list[Hashable] = []
    for number, (prompt, mine) in enumerate(zip(prompts, given, strict=True)):
        if (
            isinstance(mine, str)
            or not isinstance(mine, Sequence | np.ndarray)
            or len(mine) != len(prompt.tokens)
        ):
            size = len(mine) if isinstance(mine, Sequence | np.ndarray) else 1
            raise InputError(
                f"{size} {word} were given for prompt {prompt.id or number}; at='tokens' takes one for each of its "
                f"{len(prompt.tokens)} tokens (None where a token is no example)"
            )
        for place, value in enumerate(mine):
            if value is not None:
                numbers.append(number)
                rows.append(np.array([place]))
                wanted.append(value)
                types.append(int(prompt.tokens[place]))
    return numbers, rows, wanted, types


def _numbered(values: Sequence[object]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers for what may be of any kind, in order of the names; equal values have equal numbers."""
    different = sorted(dict.fromkeys(values), key=lambda value: (str(value), repr(value)))
    number = {value: i for i, value in enumerate(different)}
    return np.array([number[value] for value in values], dtype=np.int64), tuple(map(str, different))


def _numbers(values: Sequence[object]) -> np.ndarray:
    try:
        found = np.array([float(str(value)) for value in values], dtype=np.float64)
    except ValueError as error:
        raise InputError(
            f"targets were given that are no numbers ({error}): give floats, or use labels"
        ) from error
    if not np.isfinite(found).all() or np.ptp(found) == 0:
        raise InputError(
            "targets were given that are not finite or all alike; a probe needs numbers that differ"
        )
    return found
