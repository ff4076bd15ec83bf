"""The float64 reference against formulas written out in plain Python, one number at a time."""

import math

import pytest
import torch
from attention_problems import make_problem, want_all
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_kernels import Mask, attend, reference
from probe_kernels.mask import Tile
from probe_kernels.testing import assert_close
from probe_kernels.types import Layout, Match, Scores, Want


def pattern_by_hand(scores: Scores, seen: torch.Tensor, layout: Layout) -> tuple[list, list]:
    """p[b][h][i][j] and lse[b][h][i] by loops."""
    batch, heads, n_query, width = scores.query.shape
    group, n_key = heads // scores.key.shape[1], scores.key.shape[2]
    patterns, sums = (
        torch.zeros(batch, heads, n_query, n_key).double(),
        torch.zeros(batch, heads, n_query).double(),
    )
    for b in range(batch):
        for h in range(heads):
            for i in range(n_query):
                s = {}
                for j in range(n_key):
                    if not seen[b, i, j]:
                        continue
                    q, k = scores.query[b, h, i].tolist(), scores.key[b, h // group, j].tolist()
                    x = scores.scale * sum(q[c] * k[c] for c in range(width))
                    if scores.softcap is not None:
                        x = scores.softcap * math.tanh(x / scores.softcap)
                    if scores.bias is not None:
                        x += float(scores.bias.expand(batch, heads, n_query, n_key)[b, h, i, j])
                    if scores.alibi is not None:
                        x -= float(scores.alibi[h]) * (
                            int(layout.query_pos[0, i]) - int(layout.key_pos[0, j])
                        )
                    s[j] = x
                sink = [] if scores.sinks is None else [float(scores.sinks[h])]
                total = sum(math.exp(x) for x in [*s.values(), *sink])
                sums[b, h, i] = math.log(total) if total else -math.inf
                for j, x in s.items():
                    patterns[b, h, i, j] = math.exp(x) / total
    return patterns, sums


def visible_by_hand(mask: Mask, layout: Layout, batch: int) -> torch.Tensor:
    """Each pair asked one by one."""
    n_query, n_key = layout.query_pos.shape[1], layout.key_pos.shape[1]
    seen = torch.ones(batch, n_query, n_key, dtype=torch.bool)
    for i in range(n_query):
        for j in range(n_key):
            segments = layout.query_segment, layout.key_segment
            tile = Tile(
                layout.query_pos[:, i : i + 1, None],
                layout.key_pos[:, None, j : j + 1],
                segments[0][:, i : i + 1, None],
                segments[1][:, None, j : j + 1],
                slice(i, i + 1),
                slice(j, j + 1),
            )
            answer = mask.visible(tile)
            if answer is not None:
                seen[:, i, j] &= answer[..., 0, 0]
            if layout.key_real is not None:
                seen[:, i, j] &= layout.key_real[:, j]
    return seen


@pytest.mark.parametrize("mask", ["none", "causal", "sliding", "chunked", "prefix", "packed", "rule"])
@pytest.mark.parametrize(
    "extra", [{}, {"padding": True, "batch": 2}, {"sinks": 1}, {"softcap": 2.0}, {"bias": True}]
)
def test_every_statistic_matches_the_formula(mask: str, extra: dict) -> None:
    """Each statistic of the reference equals its definition summed by hand."""
    problem = make_problem(mask=mask, n_query=7, n_key=9, width=3, value_width=2, **extra)
    scores, layout = problem.scores, problem.layout
    want = want_all(problem)
    out = attend(scores, layout, want, backend="reference")
    batch, heads = scores.query.shape[:2]
    seen = visible_by_hand(layout.mask, layout, batch)
    p, lse = pattern_by_hand(scores, seen, layout)
    real = torch.ones(batch, 7, dtype=torch.bool) if layout.query_real is None else layout.query_real
    counted = p * real[:, None, :, None]
    gap = (layout.query_pos[0][:, None] - layout.key_pos[0][None, :]).double()
    v = scores.value.double().repeat_interleave(2, dim=1)
    assert_close("lse", out.lse, lse, tolerance=1e-6)
    assert_close("z", out.z, torch.einsum("bhij,bhjd->bhid", p, v), tolerance=1e-6)
    sink = 1 - p.sum(-1) if scores.sinks is not None else torch.zeros(batch, heads, 7).double()
    logs = torch.where(p > 0, p.log(), 0.0)
    entropy = -(p * logs).sum(-1) - torch.where(sink > 0, sink * sink.clamp_min(1e-300).log(), 0.0)
    assert_close("entropy", out.entropy, entropy, tolerance=1e-6)
    assert_close("square", out.square, (p * p).sum(-1), tolerance=1e-6)
    assert_close("distance", out.distance, (p * gap.abs()).sum(-1), tolerance=1e-6)
    assert_close("visible", out.visible, seen.sum(-1))
    assert_close("column", out.column, counted.sum(2), tolerance=1e-6)
    assert_close("seen_by", out.seen_by, (seen & real[:, :, None]).sum(1))
    assert_close("top_p", out.top_p, p.max(-1).values, tolerance=1e-6)
    for offset in want.offsets:
        assert_close("offset", out.offsets[offset], (p * (gap == offset)).sum(-1), tolerance=1e-6)
    for lo, hi in want.bands:
        inside = (gap >= lo) & (gap <= hi)
        assert_close("band", out.bands[lo, hi], (counted * inside).sum(2), tolerance=1e-6)
        assert_close("band_seen_by", out.band_seen_by[lo, hi], (seen & real[:, :, None] & inside).sum(1))
    span = want.key_groups["span"]
    for g in range(3):
        inside = (span == g)[:, None, None, :].double()
        assert_close("group", out.key_groups["span"][..., g], (p * inside).sum(-1), tolerance=1e-6)
        part = torch.einsum("bhij,bhjd->bhid", p * inside, v)
        assert_close("part", out.parts["span"][..., g, :], part, tolerance=1e-6)
    assert out.key_groups["empty"].shape[-1] == 0


@pytest.mark.parametrize("mask", ["causal", "sliding", "rule"])
def test_first_keys_are_counted_by_position(mask: str) -> None:
    """`first` takes the visible keys with the lowest positions, whatever their order in storage."""
    problem = make_problem(mask=mask, n_query=8, n_key=8, shuffled=True)
    out = attend(problem.scores, problem.layout, Want(first=(2,)), backend="reference")
    seen = reference.visible(problem.layout, problem.scores)[0]
    p, _ = pattern_by_hand(problem.scores, seen[None], problem.layout)
    for i in range(8):
        order = sorted(range(8), key=lambda j: int(problem.layout.key_pos[0, j]))
        chosen = [j for j in order if seen[i, j]][:2]
        assert_close("first", out.first[2][:, :, i], p[:, :, i, chosen].sum(-1), tolerance=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 100))
def test_matches_are_equal_ids(seed: int) -> None:
    """Match mass is the mass on visible keys with the query's id."""
    problem = make_problem(n_query=6, n_key=6, seed=seed)
    ids = torch.randint(0, 3, (1, 6), generator=torch.Generator().manual_seed(seed))
    want = Want(matches={"m": Match(ids, ids)})
    out = attend(problem.scores, problem.layout, want, backend="reference")
    p, _ = pattern_by_hand(problem.scores, reference.visible(problem.layout, problem.scores), problem.layout)
    assert_close(
        "matches", out.matches["m"], (p * (ids[0][:, None] == ids[0][None, :])).sum(-1), tolerance=1e-6
    )


def test_statistics_of_a_given_pattern_equal_those_of_its_scores() -> None:
    """The eager fallback's pattern gives what the scores give, z included."""
    problem = make_problem(padding=True, batch=2)
    want = Want(**{**vars(want_all(problem)), "lse": False, "table": 0})
    whole = attend(problem.scores, problem.layout, want, backend="reference")
    p, _ = pattern_by_hand(problem.scores, reference.visible(problem.layout, problem.scores), problem.layout)
    given_pattern = reference.statistics(p, problem.layout, want, problem.scores.value)
    for name in ("z", "entropy", "square", "top_p", "distance", "visible", "column", "seen_by"):
        assert_close(name, getattr(given_pattern, name), getattr(whole, name), tolerance=1e-6)


@pytest.mark.parametrize("want", [Want(z=False, lse=True), Want(z=False, table=4), Want()])
def test_a_pattern_cannot_tell_everything(want: Want) -> None:
    """Asking a bare pattern for lse, the table or z says what is missing."""
    problem = make_problem()
    with pytest.raises(ValueError, match=r"value|lse"):
        reference.statistics(torch.eye(20)[None, None].expand(1, 4, 20, 20), problem.layout, want)
