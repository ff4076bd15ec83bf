"""Rules of sparse attention over real tokens, by name: ``window=128+sink=4``."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from probe.errors import UsageError

# One rule's answer for a tile: from gap (query less key), query and key, all in real tokens and broadcastable to
# [batch, rows, keys].
Shown = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SparseRule:
    """One named rule; `relative` says that it compares a query's place with a key's, so that they must share an axis.

    `shown` is None for ``topk``, which asks the scores.
    """

    text: str
    shown: Shown | None = field(compare=False)
    relative: bool = True
    count: int = 0  # of topk


def read_rules(text: str) -> tuple[SparseRule, ...]:
    """The rules of a text; raises `UsageError` naming the grammar where it cannot be read.

    - ``window=W``: keys less than W tokens away, the query's own included (both sides in bidirectional attention).
    - ``sink=N``: the first N tokens.
    - ``stride=S``: keys 0, S, 2S, … tokens away.
    - ``dilated=WxD``: the W nearest of ``stride=D``.
    - ``block=B``: keys in the query's own block of B tokens.
    - ``topk=K``: the K largest scores of the row; equals of the K-th are kept as well.
    """
    return tuple(_rule(part.strip()) for part in text.split("+"))


def _rule(text: str) -> SparseRule:
    name, equals, value = text.partition("=")
    numbers = [int(one) for one in re.findall(r"\d+", value)]
    form = r"\d+x\d+" if name == "dilated" else r"\d+"
    if name not in (*_RULES, "topk") or not equals or not re.fullmatch(form, value) or min(numbers) < 1:
        raise UsageError(
            f"a sparse pattern was asked as {text!r}; rules are window=W, sink=N, stride=S, dilated=WxD, block=B and "
            "topk=K with whole numbers from 1 on, joined by + (window=128+sink=4)"
        )
    if name == "topk":
        return SparseRule(text, None, relative=False, count=numbers[0])
    return SparseRule(text, _RULES[name](*numbers), relative=name != "sink")


def _window(width: int) -> Shown:
    return lambda gap, _query, _key: gap.abs() < width


def _sink(count: int) -> Shown:
    return lambda _gap, _query, key: key < count


def _stride(step: int) -> Shown:
    return lambda gap, _query, _key: gap % step == 0


def _dilated(count: int, step: int) -> Shown:
    return lambda gap, _query, _key: (gap % step == 0) & (gap.abs() < count * step)


def _block(size: int) -> Shown:
    def shown(_gap: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return torch.div(query, size, rounding_mode="floor") == torch.div(key, size, rounding_mode="floor")

    return shown


_RULES: dict[str, Callable[..., Shown]] = {
    "window": _window,
    "sink": _sink,
    "stride": _stride,
    "dilated": _dilated,
    "block": _block,
}
