"""Patterns at one density: interpolation, and windows with as many pairs as another pattern."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from probe_kernels.select import power_of_two, reach, sink_recent

from probe.replay.densities import at_density, powers_kept, window_like


def test_mass_is_read_off_between_budgets() -> None:
    """On straight lines through the measured points, whatever their order, and to nothing and everything outside."""
    points = np.array([[0.5, 0.9], [0.2, 0.6]])
    assert at_density(points, 0.2) == pytest.approx(0.6)
    assert at_density(points, 0.35) == pytest.approx(0.75)
    assert at_density(points, 0.1) == pytest.approx(0.3)
    assert at_density(points, 0.75) == pytest.approx(0.95)


@pytest.mark.parametrize(("n", "block", "local"), [(40, 1, 2), (50, 4, 2), (33, 8, 3), (20, 16, 2)])
def test_powers_are_those_of_the_pattern(n: int, block: int, local: int) -> None:
    """What is counted is what the kernels' pattern keeps: one layer of it reaches just these keys."""
    kept = reach(power_of_two(block=block, local=local), 1, n).numpy()
    assert (powers_kept(n, block, local) == kept).all()


@given(st.integers(20, 80), st.integers(1, 8), st.integers(0, 6))
def test_a_window_keeps_as_many_pairs_or_just_fewer(n: int, block: int, sinks: int) -> None:
    """One more key in the window would be more pairs than the other pattern keeps."""
    wanted = int(powers_kept(n, block).sum())
    recent = window_like(powers_kept(n, block), sinks)

    def pairs(window: int) -> int:
        return int(reach(sink_recent(sinks=sinks, recent=window), 1, n).sum())

    assert recent == 1 or pairs(recent) <= wanted
    assert recent == n or pairs(recent + 1) > wanted
