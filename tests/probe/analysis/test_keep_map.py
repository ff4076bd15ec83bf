"""Pooling the pattern block by block, whatever keys a chunk sees."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from probe.analysis.keep_map import CELLS, Pooled


@given(n=st.integers(1, 700), first=st.integers(0, 699), gaps=st.booleans(), padding=st.booleans())
def test_sums_are_those_of_every_pair(n, first, gaps, padding):
    """Sums per block equal those made pair by pair: with gaps, padding and any first key."""
    key = torch.arange(min(first, n - 1), n)
    if gaps:
        key = key[torch.rand(len(key)) > 0.3]
    if padding:
        key[torch.rand(len(key)) > 0.8] = -1
    query, block = torch.tensor([0, -1, 3, 4]), torch.rand(2, 4, len(key))
    pooled = Pooled(torch.zeros(2, CELLS, CELLS))
    pooled.reserve(5, n)
    pooled.add(block, query, key)
    expected = torch.zeros(2, CELLS, CELLS)
    for column, k in enumerate(key.tolist()):
        for row, q in enumerate(query.tolist()):
            if k >= 0 and q >= 0:
                expected[:, q, k // pooled.key_block] += block[:, row, column]
    torch.testing.assert_close(pooled.sums, expected, atol=1e-4, rtol=1e-4)


def test_a_map_that_grows_keeps_its_sums():
    """When a sequence outgrows the map, neighbouring blocks are joined and nothing is lost."""
    pooled = Pooled(torch.zeros(1, CELLS, CELLS))
    pooled.reserve(200, 200)
    pooled.add(torch.ones(1, 200, 200), torch.arange(200), torch.arange(200))
    pooled.reserve(900, 900)
    assert (pooled.query_block, pooled.key_block) == (4, 4)
    assert float(pooled.sums.sum()) == 200 * 200
    assert float(pooled.sums[0, :50, :50].min()) == 16
    assert pooled.means().shape == (1, 225, 225)
