"""Raw rows and tiles equal the dense pattern."""

import pytest
import torch
from attention_problems import MASKS, make_problem
from probe_kernels import BlockEdit, Edits, Want, attend, pattern_block, score_block
from probe_kernels.reference import dense_scores, visible
from probe_kernels.testing import assert_close
from torch import Tensor


def whole(p: Tensor, _rows: slice, _keys: slice) -> Tensor:
    """The reference's dense pattern."""
    return p


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("sinks", [0, 1, 2])
def test_rows_and_tiles_are_cut_from_the_pattern(mask: str, sinks: int) -> None:
    """Any rows, keys and heads, with lse and without, agree with the dense pattern."""
    problem = make_problem(batch=2, mask=mask, n_query=25, n_key=30, sinks=sinks, padding=True, bias=True)
    want = Want(z=False, lse=True, rows={"p": whole})
    out = attend(problem.scores, problem.layout, want, backend="reference")
    dense = out.rows["p"]
    rows = torch.tensor([20, 3, 4, 5, 24])
    for lse in (None, out.lse):
        got = pattern_block(problem.scores, problem.layout, rows, slice(2, 28), heads=[3, 1], lse=lse)
        assert got.dtype == torch.float32
        assert_close("rows", got, dense[:, [3, 1]][:, :, rows][..., 2:28])
        assert_close(
            "all", pattern_block(problem.scores, problem.layout, slice(None), slice(None), lse=lse), dense
        )


def test_no_rows_and_no_keys_give_empty_arrays() -> None:
    """Empty slices are answers, not errors."""
    problem = make_problem()
    assert pattern_block(problem.scores, problem.layout, slice(0, 0), slice(0, 4)).shape == (1, 4, 0, 4)
    assert pattern_block(problem.scores, problem.layout, slice(0, 2), slice(9, 9)).shape == (1, 4, 2, 0)


def test_edited_rows_are_those_of_the_edited_sweep() -> None:
    """Edits reach raw rows too, before heads are chosen; together with lse they are refused."""
    problem = make_problem()
    edits = Edits(probs=(BlockEdit(lambda p, _r, _k: p * 0.25, heads=(2, 3)),))
    plain = pattern_block(problem.scores, problem.layout, slice(4, 9), slice(0, 20), heads=[0, 3])
    edited = pattern_block(
        problem.scores, problem.layout, slice(4, 9), slice(0, 20), heads=[0, 3], edits=edits
    )
    assert_close("edited", edited, plain * torch.tensor([1.0, 0.25])[None, :, None, None])
    lse = torch.zeros(1, 4, 20)
    with pytest.raises(ValueError, match="lse and edits"):
        pattern_block(problem.scores, problem.layout, slice(4, 9), slice(0, 20), lse=lse, edits=edits)


def test_scores_are_those_before_the_softmax() -> None:
    """Score tiles carry scale, softcap and bias, and -inf where hidden."""
    problem = make_problem(softcap=3.0, alibi=True, mask="sliding")
    dense = dense_scores(problem.scores, problem.layout, visible(problem.layout, problem.scores))
    got = score_block(problem.scores, problem.layout, slice(2, 11), slice(0, 20))
    assert_close("scores", got, dense[:, :, 2:11])
