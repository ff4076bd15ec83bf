"""Chosen heads and their controls: as many others of the same layers."""

import pytest
import small_models
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import UsageError
from probe.interventions import zero
from probe.models import as_loaded
from probe.replay.heads import Controls, highest, layer_of, require_matched

scores = st.integers(1, 4).flatmap(
    lambda heads: st.lists(st.lists(st.floats(0, 1), min_size=heads, max_size=heads), min_size=1, max_size=4)
)


@given(scores, st.integers(1, 10))
def test_the_highest_leave_a_control_in_every_layer(rows: list[list[float]], count: int) -> None:
    """At most half of a layer's heads; none that is left out for another reason has a higher score."""
    named = {f"L{a}.H{b}": value for a, row in enumerate(rows) for b, value in enumerate(row)}
    found = highest(named, count)
    room = len(rows[0]) // 2
    taken = [layer_of(name) for name in found]
    assert len(found) == len(set(found)) == min(count, room * len(rows))
    assert all(taken.count(layer) <= room for layer in set(taken))
    least = min((named[name] for name in found), default=0.0)
    open_layers = [layer for layer in range(len(rows)) if taken.count(layer) < room]
    left = [named[name] for name in named if name not in found and layer_of(name) in open_layers]
    assert all(value <= least for value in left)


def test_controls_are_matched_and_differ() -> None:
    """As many heads of each layer, none of the chosen, each draw another."""
    loaded = as_loaded((small_models.llama(), small_models.letters()))
    chosen = ["L0.H1", "L1.H2"]
    found = Controls.of(zero(chosen), chosen, 4, loaded, seed=3)
    assert len(set(found.heads)) == len(found.heads) == 4
    assert min(found.seeds) >= 3
    for heads in found.heads:
        assert sorted(map(layer_of, heads)) == [0, 1]
        assert not set(heads) & set(chosen)
    assert Controls.of(zero(chosen), chosen, 4, loaded, seed=3) == found


def test_more_controls_than_exist_are_refused() -> None:
    """Three other heads of one layer make three controls of one head."""
    loaded = as_loaded((small_models.llama(), small_models.letters()))
    with pytest.raises(UsageError, match="9 controls"):
        Controls.of(zero(["L0.H1"]), ["L0.H1"], 9, loaded)


@pytest.mark.parametrize("others", [["L0.H1", "L1.H0"], ["L0.H0", "L0.H2"], ["L0.H0"]])
def test_an_unfair_control_is_refused(others: list[str]) -> None:
    """One that shares a head, has other layers, or has fewer heads."""
    with pytest.raises(UsageError, match="not as many others"):
        require_matched(["L0.H1", "L1.H1"], others)
