"""A visit and its mask say the same; what does not fit a call is refused."""

import pytest
import torch
from attention_problems import make_problem
from hypothesis import given
from hypothesis import strategies as st
from probe_kernels import Want, attend
from probe_kernels.visit import Visit


@given(st.integers(1, 9), st.integers(1, 20), st.integers(1, 20), st.floats(0, 1), st.integers(0, 99))
def test_lists_of_kept_keys_give_the_kept_keys_back(
    rows: int, n_query: int, n_key: int, share: float, seed: int
) -> None:
    """For any blocks and keys of them, in order, whatever part of them is asked for."""
    random = torch.Generator().manual_seed(seed)
    kept = torch.rand(2, 3, -(-n_query // rows), n_key, generator=random) < share
    visit = Visit.of_keys(kept, rows)
    visit.require(2, 3, n_query, n_key)
    Visit(rows, visit.index).require(2, 3, n_query, n_key)
    dense = kept.repeat_interleave(rows, dim=2)[:, :, :n_query]
    assert torch.equal(visit.visible(slice(0, n_query), slice(0, n_key), n_key), dense)
    part, keys = slice(n_query // 2, n_query), slice(n_key // 3, n_key)
    assert torch.equal(visit.visible(part, keys, n_key), dense[:, :, part, keys])


def test_blocks_are_listed_as_their_keys() -> None:
    """The last block may be shorter; -1 fills up."""
    kept = torch.tensor([[[[True, False, True], [False, True, False]]]])
    visit = Visit.of_blocks(kept, rows=3, block=4, n_key=10)
    assert visit.index.tolist() == [[[[0, 1, 2, 3, 8, 9], [4, 5, 6, 7, -1, -1]]]]


@pytest.mark.parametrize(
    ("index", "match"),
    [
        (torch.zeros(1, 1, 4, 1), r"\[1 or 1, 1 or 4, 5, width\]"),
        (torch.zeros(2, 1, 5, 1), r"1 or 1, 1 or 4"),
        (torch.zeros(1, 3, 5, 1), r"1 or 1, 1 or 4"),
        (torch.full((1, 1, 5, 1), 20), "key 20"),
        (torch.full((1, 1, 5, 1), -2), "key -2"),
        (torch.tensor([3, 1]).expand(1, 1, 5, 2), "out of order"),
        (torch.tensor([3, 3]).expand(1, 1, 5, 2), "out of order"),
        (torch.tensor([-1, 3]).expand(1, 1, 5, 2), "out of order"),
    ],
)
def test_a_visit_that_does_not_fit_is_refused(index: torch.Tensor, match: str) -> None:
    """Too few blocks, other batches or heads, keys that are not there, lists that do not ascend."""
    problem = make_problem()
    with pytest.raises(ValueError, match=match):
        attend(problem.scores, problem.layout, Want(), visit=Visit(4, index.long()))


def test_a_visit_made_of_more_keys_is_refused() -> None:
    """Though its lists are known to be in order."""
    problem = make_problem()
    visit = Visit.of_keys(torch.ones(1, 1, 5, 21, dtype=torch.bool), 4)
    with pytest.raises(ValueError, match="key 20"):
        attend(problem.scores, problem.layout, Want(), visit=visit)


@pytest.mark.parametrize(("rows", "shape"), [(0, (1, 1, 1, 1)), (1, (1, 1, 1))])
def test_a_visit_without_rows_or_axes_is_refused(rows: int, shape: tuple[int, ...]) -> None:
    """When it is made."""
    with pytest.raises(ValueError, match="at least one row"):
        Visit(rows, torch.zeros(shape, dtype=torch.int64))


def test_a_visit_of_no_width_hides_everything() -> None:
    """As if no key were there, for every statistic that has an answer then."""
    problem = make_problem()
    visit = Visit(4, torch.zeros(1, 1, 5, 0, dtype=torch.int64))
    for backend in ("torch", "reference"):
        out = attend(problem.scores, problem.layout, Want(lse=True, top=True), visit=visit, backend=backend)
        assert out.z is not None
        assert out.lse is not None
        assert out.top_index is not None
        assert not out.z.any()
        assert (out.lse == -torch.inf).all()
        assert (out.top_index == -1).all()
