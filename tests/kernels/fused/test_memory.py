"""What lies in memory around, between and far behind the numbers of a call."""

from dataclasses import replace

import pytest
import torch
from attention_problems import Problem
from fused_problems import DEVICE, agrees, everything, fused, put, small
from probe_kernels import Scores, Want, attend
from probe_kernels.fused import launch
from probe_kernels.testing import assert_attended_close, assert_close
from torch import Tensor

WANT = Want(lse=True, entropy=True, square=True, top=True, distance=True, first=(2,), column=True, table=16)


def poisoned(problem: Problem, keys: Tensor, poison: float, where: str) -> Problem:
    """`poison` in K, in V or in both of some keys, bool [b, key]."""
    one, at = problem.scores, keys[:, None, :, None]
    assert one.value is not None
    key = one.key.masked_fill(at, poison) if "k" in where else one.key
    value = one.value.masked_fill(at, poison) if "v" in where else one.value
    return replace(problem, scores=replace(one, key=key, value=value))


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["k", "v"])
def test_padding_may_hold_anything(poison: float, where: str) -> None:
    """Padding keys full of NaN or infinity change no answer at all."""
    problem = small(batch=2, padding=True)
    assert problem.layout.key_real is not None
    clean = fused(problem, WANT)
    found = fused(poisoned(problem, ~problem.layout.key_real, poison, where), WANT)
    assert_attended_close(found, clean)


@pytest.mark.parametrize("n_query", [40, 8])
def test_rows_that_do_not_see_a_value_never_meet_it(n_query: int) -> None:
    """Causal: NaN in the last values leaves earlier rows alone and reaches every row that sees one, packed or not."""
    problem = small(n_query=n_query, n_key=40)
    late = (torch.arange(40, device=DEVICE) >= 36)[None]
    found = agrees(poisoned(problem, late, torch.nan, "v"), WANT)
    assert found.z is not None
    assert found.z[:, :, : n_query - 4].isfinite().all()
    assert found.z[:, :, n_query - 4 :].isnan().all()


@pytest.mark.parametrize("where", ["query", "key"])
def test_what_is_no_number_is_answered_as_such(where: str) -> None:
    """A NaN in q or k makes NaN of the rows it reaches, and is not taken for a row that sees nothing."""
    problem = small(batch=2)
    tensor = getattr(problem.scores, where).clone()
    tensor[0, 0, 20] = torch.nan
    found = agrees(replace(problem, scores=replace(problem.scores, **{where: tensor})), WANT)
    assert found.lse is not None
    assert found.lse[0, 0, 20].isnan()
    assert found.lse[1].isfinite().all()


def test_tensors_need_not_be_contiguous() -> None:
    """Heads last, every other head, rows cut out of a buffer full of NaN, a reversed bias: as if copied together."""
    problem = small(n_query=33, n_key=47, kv_heads=2, bias=True, alibi=True)
    one = problem.scores
    assert one.value is not None
    assert one.bias is not None

    def cut(tensor: Tensor) -> Tensor:
        b, h, n, d = tensor.shape
        room = tensor.new_full((b, n + 5, 2 * h, d + 3), torch.nan)
        inner = room[:, 2 : 2 + n, ::2, 1 : 1 + d].transpose(1, 2)
        inner.copy_(tensor)
        return inner

    value = one.value.transpose(2, 3).contiguous().transpose(2, 3)
    bias = one.bias.flip(-1).transpose(2, 3).contiguous().transpose(2, 3).flip(-1)
    alibi = torch.stack((one.alibi, one.alibi), 1)[:, 0] if one.alibi is not None else None
    scores = Scores(cut(one.query), cut(one.key), value, one.scale, bias=bias, alibi=alibi)
    assert not scores.query.is_contiguous()
    found = fused(replace(problem, scores=scores), everything(problem))
    assert_attended_close(found, fused(problem, everything(problem)))


def test_offsets_beyond_32_bits_are_reached() -> None:
    """Sequences 2^31 numbers apart, keys 2^30 apart: memory that is never touched costs nothing."""
    problem = small(batch=2, n_query=18, n_key=20)
    one = problem.scores
    assert one.value is not None

    def spread(tensor: Tensor, steps: tuple[int, ...]) -> Tensor:
        span = sum(step * (n - 1) for step, n in zip(steps, tensor.shape, strict=True)) + 1
        far = torch.empty(span, dtype=torch.float16, device=DEVICE).as_strided(tensor.shape, steps)
        far.copy_(tensor)
        return far

    n, d = one.query.shape[2:]
    query = spread(one.query, (2**31 + 64, n * d, d, 1))
    value = spread(one.value, (20 * 16, 20 * 16, 16, 1))
    key = spread(one.key[:, :, :3], (48, 48, 2**30 + 16, 1))
    layout = replace(problem.layout, key_pos=problem.layout.key_pos[:, :3])
    near = Scores(query.contiguous(), key.contiguous(), value[:, :, :3].contiguous(), one.scale)
    scores = Scores(query, key, value[:, :, :3], one.scale)
    want = Want(lse=True, top=True, column=True)
    found = attend(scores, layout, want, backend="triton")
    assert_attended_close(found, attend(near, layout, want, backend="triton"), tolerance=0.0)


def test_ids_of_any_size_are_compared() -> None:
    """Token ids that are 64-bit hashes match as small ones do; labels and positions that do not fit are refused."""
    problem = small()
    want = everything(problem)
    match = want.matches["token"]
    hashed = replace(match, query_ids=match.query_ids * 2**40 - 7, key_ids=match.key_ids * 2**40 - 7)
    found = fused(problem, Want(matches={"token": hashed}))
    assert_close(
        "matches", found.matches["token"], fused(problem, Want(matches={"token": match})).matches["token"]
    )
    far = replace(problem, layout=replace(problem.layout, key_pos=problem.layout.key_pos + 2**40))
    with pytest.raises(ValueError, match="32 bits"):
        fused(far, Want())


def test_answers_of_one_call_are_not_those_of_the_next() -> None:
    """Counts that are kept with a layout are given out as copies."""
    problem = small()
    first = fused(problem, Want(visible=True, column=True))
    assert first.visible is not None
    assert first.seen_by is not None
    first.visible.zero_()
    first.seen_by.zero_()
    agrees(problem, Want(visible=True, column=True))


def test_an_empty_batch_has_empty_answers() -> None:
    """No sequence at all: answers of the right shapes."""
    problem = small()
    one = problem.scores
    assert one.value is not None
    none = replace(one, query=one.query[:0], key=one.key[:0], value=one.value[:0])
    out = attend(none, problem.layout, put(Want(lse=True, column=True)), backend="triton")
    assert out.z is not None
    assert out.z.shape == (0, 2, 40, 16)
    assert out.column is not None
    assert out.column.shape == (0, 2, 40)
    assert launch.padded(80) == 128
