"""Comparing answers: errors name the tensor, the worst place and the size of the error."""

import torch
from torch import Tensor

from probe_kernels.types import Attended


def assert_close(name: str, found: Tensor | None, wanted: Tensor | None, *, tolerance: float = 5e-6) -> None:
    """Fail unless |found - wanted| ≤ tolerance·(1 + |wanted|) everywhere; equal infinities and NaN agree.

    Raises:
        AssertionError: One is missing, shapes differ, or a number is off; the message says which and by how much.
    """
    if found is None or wanted is None:
        if found is not wanted:
            raise AssertionError(
                f"{name}: {'nothing' if found is None else 'a tensor'} was found where the other has "
                f"{'nothing' if wanted is None else 'a tensor'}"
            )
        return
    if found.shape != wanted.shape:
        raise AssertionError(
            f"{name}: shape {tuple(found.shape)} was found, {tuple(wanted.shape)} was wanted"
        )
    if found.numel() == 0:
        return
    a, b = found.detach().double(), wanted.detach().double()
    same = (a == b) | (a.isnan() & b.isnan())
    error = torch.where(same, 0.0, (a - b).abs() / (1 + b.abs())).nan_to_num(nan=torch.inf)
    worst = int(error.argmax())
    if float(error.flatten()[worst]) > tolerance:
        place = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), error.shape))
        raise AssertionError(
            f"{name}: error {float(error.flatten()[worst]):.2e}·(1+|value|) at {place}, tolerance {tolerance:.2e}; "
            f"found {float(a.flatten()[worst])!r}, wanted {float(b.flatten()[worst])!r}"
        )


def assert_attended_close(found: Attended, wanted: Attended, *, tolerance: float = 5e-6) -> None:
    """`assert_close` for every tensor of two answers; top indices need only agree where the best key is clear.

    Raises:
        AssertionError: Naming the first tensor that differs.
    """
    for name, one in vars(wanted).items():
        other = getattr(found, name)
        if name == "top_index" or isinstance(one, int):
            continue
        if isinstance(one, dict):
            if one.keys() != other.keys():
                raise AssertionError(f"{name}: keys {list(other)} were found, {list(one)} were wanted")
            for key in one:
                assert_close(f"{name}[{key!r}]", other[key], one[key], tolerance=tolerance)
        else:
            assert_close(name, other, one, tolerance=tolerance)
