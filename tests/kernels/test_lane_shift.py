"""Lanes take weights without a shift where float32 bears them, and do the rest again: same answers, no overflow."""

import pytest
import torch
from attention_problems import make_problem
from probe_kernels import Attended, Layout, Mask, Scores, Want, reference, sweep
from probe_kernels.lane import Lane
from probe_kernels.mask import causal
from probe_kernels.testing import assert_attended_close

DEFAULTS = Want(lse=True, entropy=True, column=True, distance=True, first=(1,), offsets=(1,), visible=True)
EVERYTHING = Want(
    lse=True,
    entropy=True,
    square=True,
    top=True,
    distance=True,
    column=True,
    first=(1, 4),
    offsets=(0, 1),
    table=16,
)


def scaled(factors: torch.Tensor, n: int = 96) -> tuple[Scores, Layout]:
    """Causal attention whose scores grow with ``factors [H]`` or ``[H, Q]``, per head or per query."""
    make = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, h, n, 16, generator=make) for h in (6, 3, 3))
    query = query * factors.view(1, 6, -1, 1)
    positions = torch.arange(n)[None]
    return Scores(query, key, value, scale=0.25), Layout(Mask((causal(),)), positions, positions)


def shifts(monkeypatch: pytest.MonkeyPatch) -> list[set[tuple[int, int]]]:
    """Per lane of the calls to come, the heads that were done again."""
    seen: list[set[tuple[int, int]]] = []
    run = Lane.run

    def watched(lane: Lane, rows: list[slice]) -> None:
        run(lane, rows)
        seen.append(lane.shifted)

    monkeypatch.setattr(Lane, "run", watched)
    return seen


def both(scores: Scores, layout: Layout, want: Want) -> tuple[Attended, Attended, float]:
    """A lane's answers, the reference's, and the tolerance that rounding of the scores alone asks for."""
    found = sweep.attend(scores, layout, want, n_lanes=1)
    wanted = reference.attend(scores, layout, want)
    keys = scores.key.double().repeat_interleave(2, dim=1)
    largest = float((scores.query.double() @ keys.transpose(-1, -2)).abs().max()) * scores.scale
    return found, wanted, 5e-6 * max(1.0, largest)


@pytest.mark.parametrize("want", [DEFAULTS, EVERYTHING], ids=["defaults", "everything"])
@pytest.mark.parametrize("factor", [1e-3, 1.0, 10.0, 60.0, 1e4])
def test_scores_of_any_size_agree_with_the_reference(factor: float, want: Want) -> None:
    """From flat rows to scores of ±1e4 and beyond, within the rounding of the scores."""
    found, wanted, tolerance = both(*scaled(torch.full((6,), factor)), want)
    assert_attended_close(found, wanted, tolerance=tolerance)


@pytest.mark.parametrize("want", [DEFAULTS, EVERYTHING], ids=["defaults", "everything"])
def test_rows_of_very_different_size_share_a_chunk(want: Want) -> None:
    """A chunk may mix rows that overflow, that vanish and that do neither."""
    factors = torch.tensor([1.0, 1e4, 1e-2, 300.0]).repeat(24).expand(6, 96)
    found, wanted, tolerance = both(*scaled(factors), want)
    assert_attended_close(found, wanted, tolerance=tolerance)


@pytest.mark.parametrize("offset", [-1e4, -200.0, -60.0, 60.0, 200.0, 1e4])
def test_a_common_offset_of_a_row_changes_its_lse_alone(offset: float) -> None:
    """Rows far below or above zero keep their entropy, masses and z: neither underflow nor overflow shows."""
    scores, layout = scaled(torch.ones(6))
    ones = torch.ones(1, 1, 96, 1)
    query = torch.cat((scores.query, ones.expand(1, 6, 96, 1) * offset), dim=3)
    key = torch.cat((scores.key, ones.expand(1, 3, 96, 1)), dim=3)
    moved = Scores(query, key, scores.value, scale=0.25)
    found, wanted, tolerance = both(moved, layout, DEFAULTS)
    assert_attended_close(found, wanted, tolerance=tolerance)


def test_only_heads_out_of_range_are_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ordinary scores are never shifted; the blocks of a wild head are."""
    seen = shifts(monkeypatch)
    sweep.attend(*scaled(torch.ones(6)), DEFAULTS, n_lanes=1)
    monkeypatch.setattr(sweep, "_LANE_NUMBERS", 1)  # one key head per block
    sweep.attend(*scaled(torch.tensor([1.0, 1.0, 1e4, 1.0, 1.0, 1.0])), DEFAULTS, n_lanes=1)
    assert seen == [set(), {(0, 1)}]


def test_rows_without_a_key_are_no_reason_to_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding in front leaves rows that see nothing: their mass is 0 by right."""
    scores, layout = scaled(torch.ones(6))
    real = torch.arange(96)[None] >= 20
    layout = Layout(layout.mask, layout.query_pos, layout.key_pos, query_real=real, key_real=real)
    seen = shifts(monkeypatch)
    found, wanted, tolerance = both(scores, layout, EVERYTHING)
    assert seen == [set()]
    assert_attended_close(found, wanted, tolerance=tolerance)
    assert found.lse is not None
    assert bool((found.lse[:, :, :20] == -torch.inf).all())


def test_rows_hidden_by_a_bias_are_empty_after_the_shift() -> None:
    """A float mask that hides whole rows, beside rows of ordinary and of huge scores."""
    scores, layout = scaled(torch.tensor([1.0, 1e4]).repeat(48).expand(6, 96))
    bias = torch.zeros(1, 1, 96, 96)
    bias[..., 30:40, :] = -torch.inf
    bias[..., 50:60, :] = torch.finfo(torch.float32).min
    hidden = Scores(scores.query, scores.key, scores.value, scale=0.25, bias=bias)
    found, wanted, tolerance = both(hidden, layout, DEFAULTS)
    for name in ("lse", "entropy", "z"):
        one, other = getattr(found, name)[:, :, 30:40], getattr(wanted, name)[:, :, 30:40]
        assert torch.equal(one, other.to(one.dtype))
    assert_attended_close(found, wanted, tolerance=tolerance)


def test_sinks_beside_shifted_rows() -> None:
    """The sink's share is taken of the shifted rows as of the others."""
    scores, layout = scaled(torch.tensor([1.0, 200.0]).repeat(48).expand(6, 96))
    sunk = Scores(scores.query, scores.key, scores.value, scale=0.25, sinks=torch.linspace(-2, 5, 6))
    found, wanted, tolerance = both(sunk, layout, DEFAULTS)
    assert_attended_close(found, wanted, tolerance=tolerance)


def test_a_lane_is_deterministic() -> None:
    """The same call twice gives the same bits, whatever ran before in the same memory."""
    scores, layout = scaled(torch.tensor([1.0, 1e4]).repeat(48).expand(6, 96))
    once = sweep.attend(scores, layout, EVERYTHING, n_lanes=2)
    other = make_problem(n_query=70, n_key=70)
    sweep.attend(other.scores, other.layout, Want(entropy=True), n_lanes=2)
    again = sweep.attend(scores, layout, EVERYTHING, n_lanes=2)
    assert_attended_close(again, once, tolerance=0.0)
