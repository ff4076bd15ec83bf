"""A pattern for each head: its own keys, a block of queries at a time."""

import pytest
import torch
from probe_kernels.select import (
    Site,
    full,
    make,
    per_head,
    pooled_topk,
    random_blocks,
    sink_recent,
    sliding,
)
from selecting import make_call, padded


def test_with_blocks_of_one_query_each_head_keeps_its_pattern() -> None:
    """Exactly; the others the default, or everything."""
    call = padded(make_call(40, group=4), 5, 0)
    kept = call.kept(per_head({"H1+H3": sliding(4), 2: full()}, sink_recent(2, 6), block=1))[:, :, 5:]
    for head, pattern in enumerate((sink_recent(2, 6), sliding(4), full(), sliding(4))):
        assert torch.equal(kept[:, head], call.kept(pattern)[:, head, 5:])
    assert torch.equal(call.kept(per_head({0: sliding(4)}, block=1))[:, 1, 5:], call.kept(full())[:, 1, 5:])


def test_queries_of_a_block_share_what_one_of_them_keeps() -> None:
    """No more than that."""
    call = make_call(40, group=2)
    kept = call.kept(per_head({0: sliding(3)}, block=8))[0, 0]
    i, j = torch.arange(40)[:, None], torch.arange(40)
    assert torch.equal(kept, (j <= i) & (j > i // 8 * 8 - 3))


def test_a_layer_may_be_named() -> None:
    """It goes before a head of every layer."""
    call = make_call(40, group=2)
    pattern = per_head({"H0": sliding(2), "L3.H0": full()}, block=1)
    assert torch.equal(call.kept(pattern, Site(layer=3)), call.kept(full()))
    assert torch.equal(call.kept(pattern, Site(layer=2))[:, 0], call.kept(sliding(2))[:, 0])


def test_patterns_that_differ_by_head_keep_their_heads() -> None:
    """Each head's own draw; and who looks at scores is known."""
    call = make_call(64, group=3)
    drawn = random_blocks(0.4, 8)
    kept = call.kept(per_head({"H0+H2": drawn}, block=8))
    assert torch.equal(kept[:, [0, 2]], call.kept(drawn)[:, [0, 2]])
    assert not per_head({0: drawn}).learned
    assert per_head({0: drawn}, pooled_topk()).learned


@pytest.mark.parametrize(
    "pattern",
    [
        per_head({"H0+L2.H3": full()}, sink_recent(4, 64)),
        per_head({"H1": sliding(3), "L0.H1": random_blocks(0.25)}, block=32),
    ],
)
def test_the_name_makes_it_again(pattern) -> None:
    """Patterns inside have / for a comma."""
    assert make(pattern.name) == pattern


@pytest.mark.parametrize(
    ("heads", "match"),
    [
        ({}, "no head"),
        ({"H0": full(), "H0+H1": full()}, "H0 twice"),
        ({"head0": full()}, "'head0'"),
    ],
)
def test_heads_that_cannot_be_read_are_refused(heads, match: str) -> None:
    """And named."""
    with pytest.raises(ValueError, match=match):
        per_head(heads)


def test_a_head_that_is_not_there_is_refused() -> None:
    """By the layer that lacks it."""
    with pytest.raises(ValueError, match="layer 0 has 2 heads, and none is H7"):
        make_call(16, group=2).select(per_head({7: full()}))
    with pytest.raises(ValueError, match="write heads=pattern"):
        make("per_head:full")
