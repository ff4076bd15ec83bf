"""What can influence what after some layers: by formula where there is one, dense and streamed alike."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_kernels.mask import Mask
from probe_kernels.select import (
    make,
    per_head,
    pooled_topk,
    power_of_two,
    random_blocks,
    reach,
    reach_of,
    sliding,
)

N = 48


def gaps(n: int) -> torch.Tensor:
    """How far each key lies behind each query."""
    return torch.arange(n)[:, None] - torch.arange(n)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(0, 4))
def test_windows_reach_as_far_as_they_add_up(window: int, depth: int) -> None:
    """d layers of a window of w keys: d·(w - 1) tokens back."""
    wanted = (gaps(N) >= 0) & (gaps(N) <= depth * (window - 1))
    assert torch.equal(reach(sliding(window), depth, N), wanted)
    around = reach(sliding(window), depth, N, mask=Mask())
    assert torch.equal(around, gaps(N).abs() <= depth * (window - 1))


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_powers_of_two_reach_two_to_the_depth(depth: int, block: int) -> None:
    """Every block nearer than 2^d; exactly those whose distance has at most d binary ones."""
    far = (torch.arange(N)[:, None] // block) - (torch.arange(N) // block)
    found = reach(power_of_two(block, 1, keep_first=False), depth, N)
    near = (gaps(N) >= 0) & (far < 2**depth)
    assert found[near].all()
    ones = torch.tensor([[bin(max(x, 0)).count("1") for x in row] for row in far.tolist()])
    assert torch.equal(found, (gaps(N) >= 0) & (ones <= depth))


SPECS = (
    "sliding:window=5",
    "sink_recent:sinks=2,recent=3",
    "power_of_two:block=4",
    "random_blocks:density=0.3,block=4",
    "per_head:block=1,H0=sliding:window=3,H1=sink_recent:sinks=1/recent=1",
    "segment_graph:edges=0..9>9..20+20..30",
)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_streamed_and_dense_reach_agree(spec: str, depth: int) -> None:
    """For single queries and for several; more layers never reach less."""
    pattern = make(spec)
    whole = reach(pattern, depth, N, heads=2)
    for query in (0, 17, N - 1):
        assert torch.equal(reach_of(pattern, N, depth, query, heads=2), whole[query])
    assert torch.equal(reach_of(pattern, N, depth, [5, 30], heads=2), whole[[5, 30]].any(0))
    assert (reach(pattern, depth + 1, N, heads=2) >= whole).all()


def test_long_sequences_are_streamed() -> None:
    """10 layers of a window of 257 over 6000 tokens; a sink cuts every way short."""
    found = reach_of(sliding(257), 6000, 10, 5999)
    assert found.nonzero()[0].item() == 5999 - 10 * 256
    assert reach_of(make("sink_recent:sinks=1,recent=8"), 6000, 1, 5999)[0]


def test_heads_add_up() -> None:
    """A token takes up what any head keeps."""
    both = per_head({0: sliding(2), 1: sliding(4)}, block=1)
    assert torch.equal(reach(both, 2, N, heads=2), reach(sliding(4), 2, N))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: reach(pooled_topk(), 1, 8), "looks at scores"),
        (lambda: reach(sliding(2), -1, 8), "-1 layers"),
        (lambda: reach(sliding(2), 1, 5000), "reach_of"),
        (lambda: reach(sliding(2), 1, 0), "0 tokens"),
        (lambda: reach_of(random_blocks(0.5), 8, 1, 8), r"\[8\] of 8"),
        (lambda: reach_of(sliding(2), 8, 1, []), r"\[\] of 8"),
    ],
)
def test_what_cannot_be_told_is_refused(call, match: str) -> None:
    """With a reason."""
    with pytest.raises(ValueError, match=match):
        call()
