"""What the claims on entropy, redundancy and explanation choose and count."""

import numpy as np
import pytest
import torch

from probe.replay.claims.entropy_range import WithoutFirst, _thirds
from probe.replay.claims.half_explanation import _each
from probe.replay.claims.heads_per_token import kept
from probe.replay.claims.redundant_attention import SEEDS, _drops
from probe.testing import on_pattern

N = 20


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_without_the_first_key_a_uniform_rest_is_at_its_maximum(share: float) -> None:
    """Whatever the sink takes; a head on one other key is at zero, one on the sink alone has no number."""
    at = torch.arange(N).clamp_min(1).double()
    rest = ((1 - share) / at)[:, None].expand(N, N).clone()
    rest[:, 0] = share
    one = torch.zeros(N, N)
    one[:, 1] = 1 - share
    one[:, 0] = share
    alone = torch.zeros(N, N)
    alone[:, 0] = 1
    found = on_pattern(WithoutFirst(), torch.stack([rest, one.double(), alone.double()]))
    assert found[0] == pytest.approx(1.0, abs=1e-5)
    assert found[1] == pytest.approx(0.0, abs=1e-3)
    assert np.isnan(found[2])


def test_thirds_count_heads_of_their_layers() -> None:
    """Seven layers: two, three and two; heads without a value do not count."""
    values = np.zeros((7, 2))
    values[:2] = 1
    values[3, 0], values[6, 1] = 1, np.nan
    assert _thirds(values, lambda part: part == 1) == pytest.approx([1.0, 1 / 6, 0.0])


def test_drops_are_the_least_and_as_many_others() -> None:
    """Draws differ, have no chosen layer, and come again with the seed."""
    scores = {layer: abs(layer - 10.2) for layer in range(24)}
    chosen, *draws = _drops(scores, 6, seed=0)
    assert chosen == (8, 9, 10, 11, 12, 13)
    assert len(draws) == SEEDS == len(set(draws))
    assert all(len(draw) == 6 and not set(draw) & set(chosen) for draw in draws)
    assert _drops(scores, 6, seed=0)[1:] == draws


@pytest.mark.parametrize(("heads", "numbers"), [(9, [8, 7, 5]), (4, [3, 2]), (2, [1]), (1, [])])
def test_fewer_heads_are_kept_than_there_are(heads: int, numbers: list[int]) -> None:
    """As the claim asks of nine heads and of four; one head cannot be left out."""
    assert kept(heads) == numbers


def test_correlations_are_of_each_passage() -> None:
    """Row by row, ranked or not."""
    attention = np.array([[1.0, 2.0, 3.0, 9.0], [4.0, 3.0, 2.0, 1.0]])
    saliency = np.array([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
    np.testing.assert_allclose(_each(attention, saliency, ranked=True), [1.0, -1.0])
    assert _each(attention, saliency, ranked=False)[0] < 0.95
