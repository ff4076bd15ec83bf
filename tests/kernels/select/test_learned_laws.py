"""Laws that every selector that looks at scores obeys."""

from itertools import pairwise

import pytest
import torch
from probe_kernels import Scores
from probe_kernels.mask import causal, same_segment, within
from probe_kernels.select import Pattern, Site
from probe_kernels.select.anchor_stripe import anchor_stripe
from probe_kernels.select.antidiagonal import antidiagonal
from probe_kernels.select.oracle_topk import oracle_topk
from probe_kernels.select.permuted_block import permuted_block
from probe_kernels.select.persistent_topk import persistent_topk
from probe_kernels.select.pooled_topk import pooled_topk
from probe_kernels.select.vertical_slash import vertical_slash
from selecting import Call, block_any, density, joined, make_call, padded, random_share
from torch import Tensor

MAKERS = {
    "vertical_slash": lambda **keep: vertical_slash(10, 8, 16, 4, 4, 8, **keep),
    "pooled_topk": lambda **keep: pooled_topk(8, 0.5, **keep),
    "antidiagonal": lambda **keep: antidiagonal(8, 4, 0.5, **keep),
    "anchor_stripe": lambda **keep: anchor_stripe(1.0, 8, **keep),
    "permuted_block": lambda **keep: permuted_block(8, 16, 0.5, **keep),
    "persistent_topk": lambda **keep: persistent_topk(16, (0,), 8, **keep),
    "oracle_topk of keys": lambda **keep: oracle_topk(8, **keep),
    "oracle_topk of blocks": lambda **keep: oracle_topk(3, block=8, **keep),
}


@pytest.fixture(params=MAKERS, ids=lambda one: one.replace(" ", "_"))
def pattern(request: pytest.FixtureRequest) -> Pattern:
    return MAKERS[request.param]()


def kept(call: Call, pattern: Pattern) -> Tensor:
    """What is kept; a persistent pattern is shown the same call one layer before."""
    site = Site()
    call.select(pattern, site)
    return call.kept(pattern, Site(1, site.memory))


def test_it_is_a_pattern_that_says_what_it_is(pattern: Pattern) -> None:
    assert isinstance(pattern, Pattern)
    assert pattern.learned
    assert pattern.name.partition(":")[0] in " ".join(MAKERS)
    assert hash(pattern) == hash(type(pattern)(**vars(pattern)))


@pytest.mark.parametrize("maker", MAKERS.values(), ids=[one.replace(" ", "_") for one in MAKERS])
def test_the_first_key_and_the_own_are_kept_unless_told_not_to(maker: object) -> None:
    """The first key weighs nothing here, nor does the own: only force keeps them."""
    call = make_call(128, plant="stripe")
    call.scores.key[:, :, 0, 0] = call.scores.key[:, :, 100:, 0] = -30.0
    call.scores.key[:, :, :8, 0] = -30.0
    call.scores.query[..., 0] = 5.0
    every = kept(call, maker())  # type: ignore[operator]
    assert every[..., 0].all()
    assert every.diagonal(dim1=2, dim2=3).all()
    no_first = kept(call, maker(keep_first=False))  # type: ignore[operator]
    assert not no_first[:, :, 100:, 0].any()
    assert no_first.diagonal(dim1=2, dim2=3).all()
    no_own = kept(call, maker(keep_diagonal=False))  # type: ignore[operator]
    assert no_own[..., 0].all()
    assert not no_own.diagonal(dim1=2, dim2=3)[..., 112:].any()


def test_only_visible_keys_are_candidates(pattern: Pattern) -> None:
    """In a window of 20 the visit lists no block of keys that no query of its block sees any of."""
    call = make_call(96, mask=(causal(), within(20)))
    site = Site()
    call.select(pattern, site)
    visit = call.select(pattern, Site(1, site.memory)).visit
    assert visit is not None
    seen = (call.dense() > -torch.inf)[:, :1].any(1, keepdim=True)
    by_block = torch.stack([rows.any(2) for rows in seen.split(visit.rows, dim=2)], dim=2)
    listed = visit.kept(slice(0, visit.index.shape[2]), 96)
    if pattern.name.startswith(("pooled", "antidiagonal", "oracle_topk:k=3")):
        by_block = by_block.unflatten(-1, (-1, 8)).any(-1).repeat_interleave(8, -1)
    assert not (listed & ~by_block).any()
    assert listed.any(-1).all()


@pytest.mark.parametrize("plant", ["stripe", "block", "needle", "slash"])
def test_planted_structure_is_kept_better_than_by_lot(pattern: Pattern, plant: str) -> None:
    """A column, a hot block, a needle and a diagonal; blocks drawn at the same density keep about their density."""
    if plant == "slash" and pattern.name.startswith(("pooled", "permuted", "anchor", "antidiagonal")):
        # Means over queries hide marks that differ from token to token; antidiagonals have a test of their own.
        plant = "stripe"
    call = make_call(128, plant=plant)
    assert call.planted is not None
    found = kept(call, pattern)
    share = density(call, found)
    assert ((share > 0) & (share < 0.8)).all()
    mine = float((found & call.planted).sum((2, 3)).div(call.planted.sum()).mean())
    assert mine > 0.9
    assert random_share(call, share, 8, call.planted) < mine - 0.1


def test_density_is_the_share_of_visible_pairs(pattern: Pattern) -> None:
    call, site = make_call(96, kv_heads=2, batch=2), Site()
    call.select(pattern, site)
    selection = call.select(pattern, Site(1, site.memory))
    found = selection.density(call.scores, call.layout)
    assert torch.allclose(found, density(call, call.kept(selection)).double())
    assert ((found > 0) & (found <= 1)).all()


@pytest.mark.parametrize(("left", "right"), [(0, 11), (16, 0), (32, 5)])
def test_padding_changes_nothing(pattern: Pattern, left: int, right: int) -> None:
    """NaN in padding on the right, or of whole blocks on the left, beside a row that is not padded that way."""
    n = 64
    one, other = make_call(n, seed=1), make_call(n, seed=2)
    batch = joined(padded(one, left, right), padded(other, 0, left + right))
    found = kept(batch, pattern)
    if pattern.name.startswith("anchor_stripe"):
        alone = [kept(padded(one, left, right), pattern), kept(padded(other, 0, left + right), pattern)]
        assert torch.equal(found, torch.cat(alone))
        return
    assert torch.equal(found[:1, :, left : left + n, left : left + n], kept(one, pattern))
    assert torch.equal(found[1:, :, :n, :n], kept(other, pattern))
    assert not found[:1, :, :, :left].any()


def test_padding_that_cuts_a_block_keeps_first_and_own(pattern: Pattern) -> None:
    """Blocks are cut elsewhere then; what must be kept is kept, and no NaN is ever looked at."""
    call = padded(make_call(64, plant="stripe"), 13, 6)
    found = kept(call, pattern)[:, :, 13:77, 13:77]
    assert found[..., 0].all()
    assert found.diagonal(dim1=2, dim2=3).all()
    assert found[:, :, 37:, 37].double().mean() > 0.9


def test_decoding_has_a_block_of_one_query(pattern: Pattern) -> None:
    """The last query alone finds the needle; what is kept holds its own key and the first."""
    call = make_call(128, n_query=1, plant="needle")
    found = kept(call, pattern)
    assert found.shape == (1, 2, 1, 128)
    assert found[..., 70].all()
    assert found[..., 0].all()
    assert found[..., 127].all()
    assert found.double().mean() < 0.8


def test_a_static_cache_is_read_to_its_end(pattern: Pattern) -> None:
    """Slots that are not filled yet hold NaN; positions tell where the query is."""
    call = make_call(96, n_query=1, plant="needle")
    wide = padded(call, 0, 40)
    one = wide.scores
    scores = Scores(call.scores.query, one.key, one.value, scale=one.scale)
    layout = type(wide.layout)(
        call.layout.mask, call.layout.query_pos, torch.arange(136)[None], key_real=wide.layout.key_real
    )
    found = kept(Call(scores, layout), pattern)
    assert not found[..., 96:].any()
    assert found[..., 70].all()
    assert found[..., 95].all()


def test_sixteen_bit_inputs_select_as_the_same_numbers_in_float32(pattern: Pattern) -> None:
    low = make_call(96, dtype=torch.bfloat16)
    one = low.scores
    assert one.value is not None
    high = Call(Scores(one.query.float(), one.key.float(), one.value.float(), scale=one.scale), low.layout)
    assert torch.equal(kept(low, pattern), kept(high, pattern))


def test_the_same_call_gives_the_same_selection(pattern: Pattern) -> None:
    call = make_call(96)
    assert torch.equal(kept(call, pattern), kept(call, pattern))


@pytest.mark.parametrize("n", [1, 7, 8])
def test_short_calls_keep_everything(pattern: Pattern, n: int) -> None:
    call = make_call(n)
    assert torch.equal(kept(call, pattern), call.dense() > -torch.inf)


def test_hidden_by_a_bias_is_hidden(pattern: Pattern) -> None:
    """A float mask of minus infinity hides as a mask does."""
    plain = make_call(96)
    wall = torch.zeros(1, 1, 96, 96).masked_fill(torch.ones(96, 96).triu(1).bool(), -torch.inf)
    one = plain.scores
    scores = Scores(one.query, one.key, one.value, scale=one.scale, bias=wall)
    walled = Call(scores, make_call(96, mask=()).layout)
    found = kept(walled, pattern)
    assert torch.equal(found & (walled.dense() > -torch.inf), kept(plain, pattern))


def test_packed_sequences_keep_their_own_first_key(pattern: Pattern) -> None:
    """Two sequences in one row: the second one's first key is kept for its queries."""
    call = make_call(96, mask=(causal(), same_segment()))
    pos = torch.cat((torch.arange(40), torch.arange(56)))[None]
    segment = (torch.arange(96) >= 40).long()[None]
    call = Call(call.scores, type(call.layout)(call.layout.mask, pos, pos, segment, segment))
    found = kept(call, pattern)
    assert found[:, :, :40, 0].all()
    assert found[:, :, 40:, 40].all()
    assert not found[:, :, 40:, :40].any()
    assert found.diagonal(dim1=2, dim2=3).all()


@pytest.mark.parametrize(
    "maker",
    [
        lambda tau: pooled_topk(8, tau),
        lambda tau: antidiagonal(8, 4, tau),
        lambda tau: permuted_block(8, 16, tau),
        lambda tau: oracle_topk(tau=tau, block=8),
    ],
    ids=["pooled_topk", "antidiagonal", "permuted_block", "oracle_topk"],
)
def test_more_tau_keeps_a_superset(maker: object) -> None:
    call = make_call(128, kv_heads=2)
    steps = [call.kept(maker(tau)) for tau in (0.1, 0.5, 0.9, 0.99, 1.0)]  # type: ignore[operator]
    for less, more in pairwise(steps):
        assert not (less & ~more).any()
    assert torch.equal(steps[-1], call.dense() > -torch.inf)
    assert block_any(steps[0], 8).sum() < block_any(steps[-1], 8).sum()


def test_no_tensor_of_all_pairs_is_made(pattern: Pattern) -> None:
    """At 6144 tokens with the default blocks, no tensor has a byte for each pair."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.untyped_storage().nbytes())
            return out

    n = 6144
    call = make_call(n, group=1, n_query=n)
    bigger = {
        "vertical_slash": vertical_slash(),
        "pooled_topk": pooled_topk(),
        "antidiagonal": antidiagonal(),
        "anchor_stripe": anchor_stripe(2.0),
        "permuted_block": permuted_block(),
        "persistent_topk": persistent_topk(64, (0,)),
        "oracle_topk": oracle_topk() if "block=1" in pattern.name else oracle_topk(tau=0.9),
    }[pattern.name.partition(":")[0]]
    with Watch():
        call.select(bigger, Site())
    assert largest < n * n
