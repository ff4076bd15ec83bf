"""Who writes to the residual stream within a block: modules whose outputs make up the difference of two streams."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import permutations

import torch
from torch import Tensor, nn

from probe.circuits.calls import Call, is_half, same

_DIGITS = (1, 2, 3, 4)  # of constants in half precision, which cannot be read off more exactly


@dataclass(frozen=True)
class Writer:
    """A module, and what its output is multiplied by before it is added."""

    name: str
    module: nn.Module
    times: float


def writers(
    inner: Sequence[Call], block: Call, attention: str | None
) -> tuple[Writer | None, Writer | None, bool]:
    """Attention's writer, the MLP's, and whether both read the same stream; None where no sum was found.

    Args:
        inner: Calls within the block, outermost modules first.
        block: The block's own call.
        attention: The attention module's name.
    """
    if block.given is None or block.made is None:
        return None, None, False
    usable = [one for one in inner if one.made is not None and one.made.shape == block.made.shape]
    for mid in _mids(inner, block):
        if mid.given is None:
            continue
        mlp = _writer([one for one in usable if one.begun >= mid.begun], _Difference(block.made, mid.given))
        if mlp is None:
            continue
        before = [one for one in usable if one.ended < mid.begun]
        attn = _writer(before, _Difference(mid.given, block.given))
        if attn is not None:
            return attn, mlp, False
    return (*_parallel(usable, _Difference(block.made, block.given), attention), True)


class _Difference:
    """One stream minus another, and how far rounding may have moved each of its entries."""

    def __init__(self, later: Tensor, earlier: Tensor) -> None:
        self.later, self.earlier = later, earlier
        self.value = later - earlier
        self.half = is_half(later)
        self.slack = 16 * torch.finfo(later.dtype).eps * (later.abs() + earlier.abs())

    def is_made_by(self, *parts: Tensor) -> bool:
        """Whether parts sum to the difference: up to rounding or, in half precision, with the very same rounding.

        There rounding may be larger than the parts, and nearly any module would do.
        """
        if self.half:
            orders = permutations((self.earlier, *parts))
            return any(torch.equal(reduce(torch.add, one), self.later) for one in orders)
        allowed = self.slack + 1e-5 * self.value.abs().max()
        return bool(((reduce(torch.add, parts) - self.value).abs() <= allowed).all())

    def times(self, made: Tensor) -> list[float]:
        """What an output may be multiplied by to be the difference; in half precision short numbers near it."""
        square = float(made.double().square().sum())
        times = float((made.double() * self.value.double()).sum()) / square if square else 0.0
        if not times:
            return []
        return [float(f"{times:.{digits}g}") for digits in _DIGITS] if self.half else [times]


def _mids(inner: Sequence[Call], block: Call) -> list[Call]:
    """Modules that read a stream other than the block's input; what attention made of it comes before them."""
    return [
        one
        for one in inner
        if one.given is not None
        and block.given is not None
        and one.given.shape == block.given.shape
        and not same(one.given, block.given)
    ]


def _writer(calls: Sequence[Call], difference: _Difference) -> Writer | None:
    """The outermost module whose output is the difference, or a constant times it."""
    if float(difference.value.abs().max()) == 0:
        return None
    outputs = [(one, one.made) for one in calls if one.made is not None]
    # What is added as it is goes first: a norm of small input is nearly a constant times that input.
    for one, made in outputs:
        if difference.is_made_by(made):
            return Writer(one.name, one.module, 1.0)
    for one, made in outputs:
        for times in difference.times(made):
            if difference.is_made_by(times * made):
                return Writer(one.name, one.module, times)
    return None


def _parallel(
    calls: Sequence[Call], difference: _Difference, attention: str | None
) -> tuple[Writer | None, Writer | None]:
    """Two modules whose outputs sum to the difference: one that holds the attention, and one that does not."""
    if attention is None:
        return None, None
    holds = [
        one for one in calls if f"{attention}.".startswith(f"{one.name}.") or one.name.startswith(attention)
    ]
    others = [one for one in calls if one not in holds]
    for attn in holds:
        for mlp in others:
            if attn.made is not None and mlp.made is not None and difference.is_made_by(attn.made, mlp.made):
                return Writer(attn.name, attn.module, 1.0), Writer(mlp.name, mlp.module, 1.0)
    return None, None
