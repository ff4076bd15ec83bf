"""Small attention problems of every shape, for the tests of the kernels."""

from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from probe_kernels import Layout, Mask, Match, Scores, Want
from probe_kernels.mask import causal, dense, first, rule, same_chunk, same_segment, within
from torch import Tensor

MASKS = ("none", "causal", "sliding", "chunked", "prefix", "packed", "dense", "rule", "nothing")


@dataclass(frozen=True)
class Problem:
    """What to attend, and where it lies."""

    scores: Scores
    layout: Layout

    def keys(self, chosen: slice | Tensor, *, sinks: bool = True) -> "Problem":
        """The same queries over some of the keys (no bias)."""
        one, layout = self.scores, self.layout
        assert one.value is not None
        scores = replace(
            one, key=one.key[:, :, chosen], value=one.value[:, :, chosen], sinks=one.sinks if sinks else None
        )
        parts = {
            name: None if part is None else part[:, chosen]
            for name in ("key_pos", "key_segment", "key_real")
            for part in (getattr(layout, name),)
        }
        return Problem(scores, replace(layout, **parts))


def make_mask(kind: str, n_query: int, n_key: int, batch: int = 1, seed: int = 0) -> Mask:
    """A mask of a kind; positions decide, so that it may serve any layout but `dense`."""
    random = torch.Generator().manual_seed(seed)
    return {
        "none": Mask(),
        "causal": Mask((causal(),)),
        "sliding": Mask((causal(), within(5))),
        "chunked": Mask((causal(), same_chunk(7))),
        "prefix": Mask((), (causal(), first(4))),
        "packed": Mask((causal(), same_segment())),
        "dense": Mask((dense(torch.rand(batch, n_query, n_key, generator=random) > 0.4),)),
        "rule": Mask((rule("thirds", lambda t: (t.query_pos + t.key_pos) % 3 != 0), causal())),
        "nothing": Mask((rule("nothing", lambda t: (t.query_pos + t.key_pos) < 0),)),
    }[kind]


def make_problem(
    *,
    batch: int = 1,
    kv_heads: int = 2,
    group: int = 2,
    n_query: int = 20,
    n_key: int = 20,
    width: int = 8,
    value_width: int = 8,
    mask: str = "causal",
    padding: bool = False,
    sinks: int = 0,
    softcap: float | None = None,
    bias: bool = False,
    alibi: bool = False,
    scale: float | None = None,
    shuffled: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Problem:
    """Random scores and a layout in which the queries are the last tokens."""
    random = torch.Generator().manual_seed(seed)
    heads = kv_heads * group

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=random).to(dtype)

    scores = Scores(
        normal(batch, heads, n_query, width),
        normal(batch, kv_heads, n_key, width),
        normal(batch, kv_heads, n_key, value_width),
        scale=width**-0.5 if scale is None else scale,
        softcap=softcap,
        sinks=None if sinks == 0 else normal(heads) if sinks == 1 else normal(batch, heads, n_query),
        bias=normal(1, heads, n_query, n_key) if bias else None,
        alibi=torch.rand(heads, generator=random) if alibi else None,
    )
    key_pos = torch.randperm(n_key, generator=random)[None] if shuffled else torch.arange(n_key)[None]
    query_pos = torch.arange(n_key - n_query, n_key)[None]
    key_real = query_real = None
    if padding:
        key_real = torch.ones(batch, n_key, dtype=torch.bool)
        key_real[0, : n_key // 3] = False
        query_real = key_real[:, n_key - n_query :]
        query_real = key_real[:, :1].expand(-1, n_query) if n_query > n_key else query_real
    segments = torch.arange(max(n_key, n_query))[None] // 6
    layout = Layout(
        make_mask(mask, n_query, n_key, batch, seed),
        query_pos,
        key_pos,
        segments[:, -n_query:],
        segments[:, :n_key],
        query_real,
        key_real,
    )
    return Problem(scores, layout)


def want_all(problem: Problem, *, seed: int = 0) -> Want:
    """Every statistic at once."""
    random = torch.Generator().manual_seed(seed)
    batch, _, n_query, _ = problem.scores.query.shape
    n_key = problem.scores.key.shape[2]

    def ids(n: int, low: int, high: int) -> Tensor:
        return torch.randint(low, high, (batch, n), generator=random)

    return Want(
        z=True,
        lse=True,
        entropy=True,
        square=True,
        top=True,
        distance=True,
        visible=True,
        column=True,
        first=(1, 3),
        offsets=(0, 1, 4),
        bands=((0, 3), (2, 9), (-2, 2)),
        matches={"token": Match(ids(n_query, 0, 4), ids(n_key, 0, 4))},
        key_groups={"span": ids(n_key, -1, 3).to(torch.int16), "empty": torch.full((1, n_key), -1)},
        parts=frozenset({"span"}),
        query_groups={"turn": ids(n_query, -1, 2).to(torch.int16)},
        table=8,
    )


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Any mask, head shape and ragged length."""
    n_query = draw(st.sampled_from((1, 2, 17, 33, 70)))
    return make_problem(
        batch=draw(st.integers(1, 2)),
        kv_heads=draw(st.integers(1, 2)),
        group=draw(st.sampled_from((1, 3))),
        n_query=n_query,
        n_key=draw(st.sampled_from((1, 40, 75)))
        if draw(st.booleans())
        else n_query + draw(st.integers(0, 9)),
        width=draw(st.sampled_from((4, 8))),
        value_width=draw(st.sampled_from((3, 8))),
        mask=draw(st.sampled_from(MASKS)),
        padding=draw(st.booleans()),
        sinks=draw(st.sampled_from((0, 0, 1, 2))),
        softcap=draw(st.sampled_from((None, None, 3.0))),
        bias=draw(st.sampled_from((False, False, True))),
        alibi=draw(st.sampled_from((False, False, True))),
        scale=draw(st.sampled_from((None, 2.0))),
        shuffled=draw(st.sampled_from((False, False, True))),
        seed=draw(st.integers(0, 5)),
    )


def tolerance(problem: Problem) -> float:
    """5e-6·max(1, max|s|): the error of a float32 score goes with its size."""
    from probe_kernels.reference import dense_scores, visible

    s = dense_scores(problem.scores, problem.layout, visible(problem.layout, problem.scores))
    size = s[s.isfinite()].abs()
    return 5e-6 * max(1.0, float(size.max()) if size.numel() else 1.0)
