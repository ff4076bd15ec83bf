"""Chance, counted by hand; random heads keep their layers."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.circuits.controls import any_matched, hypergeometric, matched


@given(total=st.integers(1, 8), data=st.data())
def test_the_overlap_of_random_sets_is_counted(total: int, data: st.DataObject) -> None:
    first, second = (data.draw(st.integers(0, total)) for _ in range(2))
    shared = data.draw(st.integers(0, min(first, second)))
    overlaps = [len(set(range(first)) & set(other)) for other in combinations(range(total), second)]
    expected, chance = hypergeometric(total, first, second, shared)
    assert expected == pytest.approx(np.mean(overlaps))
    assert chance == pytest.approx(np.mean([one >= shared for one in overlaps]))


@given(seed=st.integers(0, 99), counts=st.lists(st.integers(1, 6), min_size=1, max_size=4), data=st.data())
def test_random_heads_are_as_many_in_the_same_layers(
    seed: int, counts: list[int], data: st.DataObject
) -> None:
    by_layer = dict(enumerate(counts))
    chosen = {
        layer: tuple(data.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=n)))
        for layer, n in by_layer.items()
    }
    for draw in (matched, any_matched):
        drawn = draw(chosen, by_layer, np.random.default_rng(seed))
        assert {layer: len(set(one)) for layer, one in drawn.items()} == {
            layer: len(one) for layer, one in chosen.items()
        }
        assert all(0 <= head < by_layer[layer] for layer, one in drawn.items() for head in one)
    others = matched(chosen, by_layer, np.random.default_rng(seed))
    for layer, one in chosen.items():
        if 2 * len(one) <= by_layer[layer]:
            assert not set(one) & set(others[layer])
