"""Columns and diagonals, held to sums over the dense pattern in float64."""

import pytest
import torch
from probe_kernels.mask import causal, within
from probe_kernels.select.vertical_slash import VerticalSlash, vertical_slash
from selecting import Call, make_call
from torch import Tensor


def kept_by_formula(call: Call, pattern: VerticalSlash) -> Tensor:
    """The best columns and diagonals of the last queries, spread to all queries of a block."""
    p = call.probs()[:, :, -pattern.last :]
    q, k = call.layout.query_pos[0], call.layout.key_pos[0]
    gap = q[:, None] - k
    kept = torch.zeros(*p.shape[:2], *gap.shape, dtype=torch.bool)
    for b, h in torch.cartesian_prod(*(torch.arange(n) for n in p.shape[:2])).tolist():
        columns = p[b, h].sum(0)
        if pattern.keep_first:
            columns[: min(pattern.first, pattern.vertical)] = torch.inf
        distances = gap[-p.shape[2] :]
        sums = {int(d): float(p[b, h][distances == d].sum()) for d in distances.unique()}
        if pattern.keep_diagonal:
            sums |= dict.fromkeys(range(min(pattern.local, pattern.slash)), torch.inf)
        best = sorted((d for d in sums if sums[d] > 0), key=lambda d: -sums[d])[: pattern.slash]
        exact = torch.isin(gap, torch.tensor(best))
        for start in range(0, len(q), pattern.block):
            exact[start : start + pattern.block] = exact[start : start + pattern.block].any(0)
        kept[b, h] = exact
        kept[b, h][:, columns.argsort(descending=True, stable=True)[: pattern.vertical]] = True
    return kept & (call.dense() > -torch.inf)


@pytest.mark.parametrize(
    "call",
    [
        make_call(96, kv_heads=2),
        make_call(90, softcap=1.5, alibi=True, batch=2),
        make_call(64, bias=True),
        make_call(64, mask=()),
        make_call(96, n_query=20),
    ],
    ids=["causal", "softcap and alibi, ragged", "bias", "both ways", "fewer queries than keys"],
)
@pytest.mark.parametrize("forced", [True, False])
def test_it_keeps_what_the_formula_keeps(call: Call, forced: bool) -> None:
    pattern = vertical_slash(8, 12, 16, 3, 5, 8, keep_first=forced, keep_diagonal=forced)
    assert torch.equal(call.kept(pattern), kept_by_formula(call, pattern))


def test_columns_without_mass_fill_no_budget() -> None:
    """A window hides old keys from the last queries, so that no budget keeps them."""
    call = make_call(96, mask=(causal(), within(10)))
    kept = call.kept(vertical_slash(90, 1, 4, block=1, keep_first=False, keep_diagonal=False))
    assert torch.equal(kept[:, :, -1].sum(-1), torch.tensor([[10, 10]]))
    # Older queries see none of the columns, but one diagonal.
    assert (kept[:, :, 10:83].sum(-1) == 1).all()


def test_forced_columns_and_diagonals_stay_within_the_budgets() -> None:
    """With one column and one diagonal, they are the first column and the main diagonal."""
    kept = make_call(96).kept(vertical_slash(1, 1, 16, block=1))
    expected = torch.eye(96, dtype=torch.bool)
    expected[:, 0] = True
    assert torch.equal(kept, expected.expand_as(kept))


@pytest.mark.parametrize("name", ["vertical", "slash", "last", "block"])
def test_counts_of_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0; .*from 1 up"):
        vertical_slash(**{name: 0})
