"""Every statistic of the Triton kernels against float64: masks, head widths, ragged lengths, dtypes, score terms."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from fused_problems import agrees, everything, fused, poisoned_outputs, small
from probe_kernels import Want, attend
from probe_kernels.fused import launch, plan
from probe_kernels.testing import assert_close

BF16, F16 = torch.bfloat16, torch.float16
# Chosen so that masks, widths, group sizes, lengths, padding, dtypes and score terms meet in pairs.
CASES: dict[str, dict[str, Any]] = {
    "one query": {"mask": "causal", "width": 64, "value_width": 64, "n_query": 1, "n_key": 63, "group": 4},
    "bf16": {"mask": "sliding", "width": 64, "value_width": 64, "n_query": 63, "n_key": 63, "dtype": BF16},
    "80 wide": {
        "mask": "packed",
        "width": 80,
        "value_width": 80,
        "n_query": 45,
        "n_key": 70,
        "padding": True,
    },
    "128 wide": {"mask": "prefix", "width": 128, "value_width": 48, "n_query": 20, "n_key": 33, "dtype": F16},
    "several tiles": {"mask": "causal", "n_query": 130, "n_key": 139, "group": 1, "alibi": True},
    "chunks": {"mask": "chunked", "n_query": 40, "n_key": 75, "batch": 2, "sinks": 1, "dtype": F16},
    "no mask": {"mask": "none", "n_query": 17, "n_key": 66, "bias": True, "softcap": 3.0, "value_width": 24},
    "dense": {"mask": "dense", "n_query": 33, "n_key": 40, "batch": 2, "padding": True, "sinks": 2},
    "a rule": {"mask": "rule", "n_query": 30, "n_key": 41, "shuffled": True, "softcap": 3.0},
    "shuffled": {"mask": "sliding", "n_query": 18, "n_key": 70, "shuffled": True, "alibi": True, "sinks": 1},
    "nothing seen": {"mask": "nothing", "n_query": 17, "n_key": 20, "sinks": 1},
    "fewer keys": {"mask": "causal", "n_query": 37, "n_key": 20, "group": 3},
    "decoding": {"mask": "sliding", "n_query": 3, "n_key": 40, "bias": True, "sinks": 2, "dtype": BF16},
    "odd widths": {
        "mask": "causal",
        "width": 20,
        "value_width": 3,
        "n_query": 19,
        "n_key": 19,
        "padding": True,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_every_statistic_agrees_with_the_reference(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the tolerances of float32 of the dense float64 pattern; answers do not depend on what memory held."""
    problem = small(**CASES[case])
    with poisoned_outputs(monkeypatch) as started:
        found = agrees(problem, everything(problem, table=48 if case == "several tiles" else 16))
    assert {"attend_rows", "attend_columns"} <= set(started)
    assert found.z is not None
    assert found.z.dtype == problem.scores.query.dtype
    assert found.entropy is not None
    assert found.entropy.dtype == torch.float32


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
def test_extreme_scores_neither_overflow_nor_underflow(offset: float) -> None:
    """A constant of ±10 000 on every score of a row changes lse by it and nothing else."""
    problem = small()
    query, key = problem.scores.query.clone(), problem.scores.key.clone()
    query[..., -1], key[..., -1] = 100.0, offset / 100
    problem = replace(problem, scores=replace(problem.scores, query=query, key=key, scale=1.0))
    found = agrees(problem, Want(lse=True, entropy=True, square=True, distance=True, column=True, table=16))
    assert found.lse is not None
    assert found.lse.isfinite().all()


@pytest.mark.parametrize("scale", [0.0, -0.7])
def test_a_scale_that_is_not_positive_is_no_special_case(scale: float) -> None:
    """Scale 0 attends evenly; a negative one prefers what is least alike."""
    agrees(small(scale=scale), Want(lse=True, entropy=True, top=True, column=True))


@pytest.mark.parametrize("shape", [(1, 2, 30, 40), (1, 1, 30, 40), (2, 40), (30, 1), (2, 1, 1, 40)])
def test_a_bias_may_have_any_shape_that_broadcasts(shape: tuple[int, ...]) -> None:
    """Relative tables [1, H, Q, K], one for all heads, per key, per query, per sequence."""
    problem = small(batch=2, n_query=30)
    bias = torch.randn(shape if shape != (2, 40) else (40,), device=problem.scores.query.device)
    problem = replace(problem, scores=replace(problem.scores, bias=bias))
    agrees(problem, Want(lse=True, entropy=True, column=True))


def test_a_bias_that_hides_does_so_everywhere() -> None:
    """-inf and the dtype's lowest number hide keys, whole tiles and rows; ranks count what the mask shows."""
    problem = small(n_query=40, n_key=140, group=1, bias=True)
    assert problem.scores.bias is not None
    bias = problem.scores.bias.clone()
    bias[..., :130] = -torch.inf
    bias[..., 3, :] = torch.finfo(torch.float32).min
    bias[..., 5, :] = -torch.inf
    problem = replace(problem, scores=replace(problem.scores, bias=bias))
    agrees(problem, everything(problem))


def test_the_first_of_equal_keys_is_the_top_one() -> None:
    """Equal scores everywhere, within a tile and between tiles."""
    problem = small("none", n_query=17, n_key=150, group=1)
    same = torch.zeros_like(problem.scores.key)
    problem = replace(problem, scores=replace(problem.scores, key=same))
    found = fused(problem, Want(z=False, top=True))
    assert found.top_index is not None
    assert (found.top_index == 0).all()


def test_what_was_not_wanted_is_none_and_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare call is one launch over rows that yields z alone."""
    with poisoned_outputs(monkeypatch) as started:
        out = fused(small(), Want())
    assert started == ["attend_rows"]
    assert {name for name, one in vars(out).items() if isinstance(one, torch.Tensor)} == {"z"}


def test_answers_repeat_bit_by_bit() -> None:
    """Nothing is accumulated across programs."""
    problem = small(n_query=70, n_key=70)
    a, b = (fused(problem, Want(entropy=True, column=True)) for _ in range(2))
    assert_close("column", a.column, b.column, tolerance=0.0)
    assert_close("z", a.z, b.z, tolerance=0.0)


@pytest.mark.parametrize("splits", [2, 3, 5])
def test_decoding_in_any_number_of_shares_is_the_whole(splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that share a key head lie in one tile; the keys are dealt to several programs, some of them idle."""
    problem = small("sliding" if splits == 3 else "causal", n_query=2, n_key=90, group=3, sinks=1)
    chosen = plan.row_tiles

    def forced(one: Any, asked: launch.RowLaunch) -> tuple[plan.Tiles, int]:
        tiles, _ = chosen(one, asked)
        assert tiles.pack
        return replace(tiles, keys=16), 1 if asked.ranked else splits

    monkeypatch.setattr(plan, "row_tiles", forced)
    everything_but_columns = replace(
        everything(problem), column=False, bands=(), query_groups={}, parts=frozenset()
    )
    agrees(problem, everything_but_columns)


def test_mixed_dtypes_are_widened_and_z_has_the_values() -> None:
    """Under autocast q and k may come in float32 and v in bfloat16."""
    problem = small()
    assert problem.scores.value is not None
    low = problem.scores.value.bfloat16()
    problem = replace(problem, scores=replace(problem.scores, value=low))
    found = fused(problem, Want())
    wanted = attend(problem.scores, problem.layout, Want(), backend="reference")
    assert found.z is not None
    assert found.z.dtype == torch.bfloat16
    assert_close("z", found.z, wanted.z, tolerance=1e-2)
