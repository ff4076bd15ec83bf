"""Which tiles of keys a group fills, or does not touch: there a kernel needs no look at single keys."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from probe_kernels.fused.problem import Functional


def of_tiles(functionals: Sequence[Functional], keys: int, nothing: Tensor) -> tuple[Tensor, ...]:
    """Per functional, for each tile of `keys` keys: 0 no key is in its group, 1 all are, 2 some; int8 ``[b, tiles]``.

    Functionals that are no groups of keys have `nothing`, which is never read.
    """
    return tuple(
        nothing if one.key_ids is None or not grouped(one) else _shares(one.key_ids, one.numbers[0], keys)
        for one in functionals
    ) or (nothing,)


def grouped(functional: Functional) -> bool:
    """Whether a functional weighs keys by their group alone."""
    return functional.kind == "key_group"


def _shares(ids: Tensor, group: int, keys: int) -> Tensor:
    short = (0, -ids.shape[1] % keys)
    inside = ids == group
    some = pad(inside, short).view(ids.shape[0], -1, keys).any(2)
    every = pad(inside, short, value=True).view(ids.shape[0], -1, keys).all(2)
    return torch.where(every, 1, 2 * some).to(torch.int8)
