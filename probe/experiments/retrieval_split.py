"""How often each head copies: always, at times or never, over all tests and per length and depth."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

RETRIEVAL_HEAD = 0.1  # the paper's threshold for calling a head a retrieval head
MOST = 0.5  # the paper's bound for heads that are active in most tests
NEVER, DYNAMIC, ALWAYS = 0, 1, 2

SHARES = ("zero", "weak", "retrieval", "mostly_active", "always_active")


def activity(
    tests: np.ndarray, cells: Sequence[tuple[float, float]], grid: tuple[Sequence[float], Sequence[float]],
    coords: dict[str, object],
) -> dict[str, xr.DataArray]:  # fmt: skip
    """Arrays of how often heads copied at least one token of the answer.

    Args:
        tests: scores of the tests that count, (test, layer, head); NaN where there is no head.
        cells: (length, depth) of each of them.
        grid: all lengths and all depths that were asked.
        coords: labels of a head map.

    Returns:
        ``activation_frequency`` (layer, head): share of the tests; ``activation_grid`` (length, depth, layer, head):
        the same of each cell, NaN where no test counts; ``split`` (layer, head): 0 never, 1 dynamic, 2 always active;
        ``shares`` (group): shares of all heads whose mean score is exactly 0 (``zero``), in (0, 0.1) (``weak``), at
        least 0.1 (``retrieval``), and that are active in more than half (``mostly_active``) or all
        (``always_active``) of the tests.
    """
    lengths, depths = grid
    shape = tests.shape[1:]
    frequency = _frequency(tests)
    by_cell = np.full((len(lengths), len(depths), *shape), np.nan)
    for row, length in enumerate(lengths):
        for column, depth in enumerate(depths):
            here = [at == (length, depth) for at in cells]
            by_cell[row, column] = _frequency(tests[np.array(here, dtype=bool)])
    split = np.where(frequency == 0, NEVER, np.where(frequency == 1, ALWAYS, DYNAMIC)).astype(np.float64)
    split[np.isnan(frequency)] = np.nan
    dims = ("layer", "head")
    places = {"length": list(lengths), "depth": list(depths)}
    return {
        "activation_frequency": xr.DataArray(frequency, dims=dims, coords=coords),
        "activation_grid": xr.DataArray(
            by_cell, dims=("length", "depth", *dims), coords={**places, **coords}
        ),
        "split": xr.DataArray(split, dims=dims, coords=coords),
        "shares": xr.DataArray(_shares(tests, frequency), dims=("group",), coords={"group": list(SHARES)}),
    }


def shares_line(shares: xr.DataArray) -> str:
    """The shares as one line; the paper's for models of 6B and more: 45–73 %, 25–52 %, 3–6 %, and below 5 %."""
    zero, weak, strong, most, always = (f"{100 * float(one):.3g} %" for one in shares.values)
    return (
        f"of all heads, {zero} score exactly 0 (never active), {weak} in (0, {RETRIEVAL_HEAD}), {strong} at least "
        f"{RETRIEVAL_HEAD}; {most} are active in more than half of the counted tests, {always} in all"
    )


def _frequency(tests: np.ndarray) -> np.ndarray:
    if not len(tests):
        return np.full(tests.shape[1:], np.nan)
    return np.where(np.isnan(tests[0]), np.nan, (tests > 0).mean(0))


def _shares(tests: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    known = np.isfinite(frequency)
    if not known.any():
        return np.full(len(SHARES), np.nan)
    mean, active = tests[:, known].mean(0), frequency[known]
    groups = (
        mean == 0,
        (mean > 0) & (mean < RETRIEVAL_HEAD),
        mean >= RETRIEVAL_HEAD,
        active > MOST,
        active == 1,
    )
    return np.array([group.mean() for group in groups])
