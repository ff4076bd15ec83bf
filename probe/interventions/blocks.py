"""Documents that stand side by side in a prompt: named spans as adjacent blocks between a prefix and a suffix."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from probe.errors import InputError, UnknownNameError, UsageError
from probe.prompts import Prompt
from probe.seam.call import Batch

Range = tuple[int, int]


@dataclass(frozen=True)
class Blocks:
    """The blocks of every sequence in real tokens, in the order of the prompt; a length of 0 is no block."""

    start: Int[Tensor, "batch block"]
    length: Int[Tensor, "batch block"]

    @property
    def first(self) -> Int[Tensor, "batch"]:
        """The length of the prefix: the first token of the first block."""
        return self.start[:, 0]

    @property
    def total(self) -> Int[Tensor, "batch"]:
        """Tokens in all blocks of a sequence."""
        return self.length.sum(1)

    @property
    def longest(self) -> Int[Tensor, "batch"]:
        """Tokens in the longest block of a sequence."""
        return self.length.amax(1)

    def number(self, index: Int[Tensor, "batch position"]) -> Int[Tensor, "batch position"]:
        """Which block each token (by its real-token index) belongs to; -1 = none of them."""
        inside = self._inside(index)
        return torch.where(inside.any(1), inside.int().argmax(1), -1)

    def offset(self, index: Int[Tensor, "batch position"]) -> Int[Tensor, "batch position"]:
        """Place of each token within its block, from 0; outside the blocks the index itself."""
        inside = self._inside(index)
        start = (inside * self.start[:, :, None]).sum(1)
        return index - start

    def _inside(self, index: Tensor) -> Tensor:
        ahead = index[:, None] - self.start[:, :, None]
        return (ahead >= 0) & (ahead < self.length[:, :, None])


@dataclass
class Memo:
    """The blocks of the batch that was last asked for: every layer of a forward asks for the same."""

    spans: tuple[Any, ...] | None = None
    blocks: Blocks | None = None
    rank: Tensor | None = None

    def of(self, batch: Batch, names: Sequence[str], device: torch.device) -> Blocks:
        """The blocks of a batch; see `blocks_of`."""
        if self.blocks is None or self.spans is not batch.spans or self.blocks.start.device != device:
            self.spans, self.blocks, self.rank = batch.spans, blocks_of(batch, names, device), None
        return self.blocks

    def ranks(self, batch: Batch, blocks: Blocks) -> Int[Tensor, "batch block"]:
        """A rank of each of `blocks`, which were asked for before, that depends on its tokens alone.

        Their order in the prompt where tokens are not known (embeddings were given).
        """
        if self.rank is None:
            self.rank = _ranks(batch, blocks)
        return self.rank


def _ranks(batch: Batch, blocks: Blocks) -> Tensor:
    made = []
    for row, places in enumerate(zip(blocks.start.tolist(), blocks.length.tolist(), strict=True)):
        own = [] if batch.tokens is None else batch.tokens[row].tolist()
        if batch.real is not None:
            own = [token for token, real in zip(own, batch.real[row].tolist(), strict=False) if real]
        texts = [(own[at : at + n], number) for number, (at, n) in enumerate(zip(*places, strict=True))]
        rank = {number: place for place, (_, number) in enumerate(sorted(texts))}
        made.append([rank[number] for number in range(len(texts))])
    return torch.tensor(made, device=blocks.start.device)


def names_of(spans: str | Iterable[str]) -> tuple[str, ...]:
    """The spans' names as given: a list of them, or one text joined by ``+``; raises `UsageError`."""
    listed = spans if isinstance(spans, Iterable) else ()
    names = tuple(listed.split("+")) if isinstance(listed, str) else tuple(listed)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise UsageError(
            f"spans={spans!r} was asked; give names of spans, such as doc:0+doc:1, or doc for all doc:…"
        )
    if len(set(names)) < len(names):
        raise UsageError(f"spans={'+'.join(names)} was asked; name each span once")
    return names


def require_blocks(prompts: Sequence[Prompt] | None, names: Sequence[str], what: str) -> None:
    """Raise `InputError` unless every prompt has the blocks; `what` is who asks."""
    if not prompts:
        raise InputError(
            f"{what} was asked without prompts; it needs to know the spans beforehand: give prompts=[Prompt, ...]"
        )
    for prompt in prompts:
        ranges(prompt.spans, names, f"prompt {prompt.id!r}")


def blocks_of(batch: Batch, names: Sequence[str], device: torch.device) -> Blocks:
    """The blocks of every sequence of a batch.

    Raises:
        InputError: the sequences carry no spans, or spans that are no adjacent blocks.
        UnknownNameError: a sequence has no span of this name.
    """
    if len(batch.spans) != len(batch.prompts):
        raise InputError(
            f"the spans {'+'.join(names)} were asked; the prompts of this forward carry none: "
            "announce Prompt objects first (prompts=[...])"
        )
    found = [
        ranges(known, names, f"prompt {prompt}")
        for known, prompt in zip(batch.spans, batch.prompts, strict=True)
    ]
    most = max(map(len, found))
    rows = [one + [(one[-1][1], one[-1][1])] * (most - len(one)) for one in found]
    made = torch.tensor(rows, device=device)
    return Blocks(made[..., 0], made[..., 1] - made[..., 0])


def ranges(known: Mapping[str, Any], names: Sequence[str], who: str) -> list[Range]:
    """``[start, stop)`` of each block, ascending; a name that is no span means every span ``name:…``.

    Raises:
        InputError: fewer than two blocks, an empty one, one in pieces, blocks that overlap or leave a gap.
        UnknownNameError: no span of this name, nor any that it begins.
    """
    chosen = [one for name in names for one in _expand(known, name, who)]
    placed = sorted((_range(known[name], name, who), name) for name in dict.fromkeys(chosen))
    if len(placed) < 2:
        raise InputError(
            f"{who} was given {len(placed)} document ({', '.join(chosen)}); name two or more, or there is no order"
        )
    for ((_, stop), one), ((start, _), other) in pairwise(placed):
        if start != stop:
            raise InputError(
                f"the spans {one!r} and {other!r} of {who} {'overlap' if start < stop else 'leave a gap'}: the first "
                f"ends before token {stop}, the second starts at token {start}; documents must stand side by side, "
                "separators belong to one of them"
            )
    return [place for place, _ in placed]


def _expand(known: Mapping[str, Any], name: str, who: str) -> list[str]:
    if name in known:
        return [name]
    begun = [one for one in known if one.startswith(f"{name}:")]
    if not begun:
        raise UnknownNameError.of(f"span of {who}", name, known)
    return begun


def _range(flags: Any, name: str, who: str) -> Range:
    at = torch.as_tensor(flags).nonzero()[:, 0]
    if not len(at):
        raise InputError(f"the span {name!r} of {who} holds no token; leave it out, or give it some")
    start, stop = int(at[0]), int(at[-1]) + 1
    if stop - start != len(at):
        raise InputError(
            f"the span {name!r} of {who} is in pieces ({len(at)} of the tokens {start}..{stop}); "
            "a document must be one stretch"
        )
    return start, stop
