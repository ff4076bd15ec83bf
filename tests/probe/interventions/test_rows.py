"""Edits of rows, held in float64 against dense attention whose rows are changed by hand."""

import math
from functools import cache

import pytest
import tiny
import torch
from dense_rows import Dense, changed_rows
from probe_kernels import sweep

import probe
from probe.interventions import (
    boost,
    drop,
    graft,
    isolate,
    pattern,
    segment_graph,
    temperature,
    to_bos,
    to_identity,
    uniform_cached,
    uniform_past,
)
from probe.seam.places import places

LENGTH, PAD = 12, 3
SUBJECTS = {
    "llama": ("llama", "decoder"),
    "mistral": ("mistral", "decoder"),
    "gpt_oss": ("gpt_oss", "decoder"),
    "bert": ("bert", "encoder"),
    "t5-encoder": ("t5", "encoder"),
    "t5-decoder": ("t5", "decoder"),
    "t5-cross": ("t5", "cross"),
}
HEADS = {0: (1,), 1: (0, 3)}  # layer -> edited heads
PREFIX = {"decoder": "", "encoder": "enc.", "cross": "cross."}


@cache
def model_of(kind, copy):
    """A float64 model; `copy` 1 is turned to eager by the judge, 0 stays as it is."""
    model = getattr(tiny, kind)().double()
    if kind == "gpt_oss":
        model.set_experts_implementation("eager")  # grouped products know no float64
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.sinks.copy_(torch.tensor([1.5, -0.5, 0.7, 2.0]))
    return model


def inputs_of(kind):
    """Two rows, the second padded: left in decoders, right in encoders."""
    ids, real = tiny.tokens(2, LENGTH), torch.ones(2, LENGTH, dtype=torch.int64)
    if kind in ("bert", "t5"):
        real[1, -PAD:] = 0
    else:
        real[1, :PAD] = 0
    given = {"input_ids": ids, "attention_mask": real}
    return {**given, "decoder_input_ids": tiny.tokens(2, LENGTH, seed=3)} if kind == "t5" else given


def read(output):
    """Logits, or the last hidden states of an encoder."""
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


def index_of(kind, tower, side):
    """Number of each token among the real ones, -1 for padding, ``[2, LENGTH]``."""
    real = inputs_of(kind)["attention_mask"].bool()
    if kind == "t5" and (tower == "decoder" or (tower == "cross" and side == "query")):
        real = torch.ones_like(real)
    return (real.cumsum(-1) - 1).masked_fill(~real, -1)


def by_hand(subject, change, rows=None):
    """Output of the judge with `change(dense, query index, key index) -> p` at the heads, and rows [2, LENGTH]."""
    kind, tower = SUBJECTS[subject]
    model = model_of(kind, 1)
    where = places(model)
    at = index_of(kind, tower, "query"), index_of(kind, tower, "key")

    def rewritten(dense: Dense):
        p, place = dense.softmax(dense.scores), where[dense.module]
        if place.tower != tower:
            return p
        chosen = torch.zeros(p.shape[1], dtype=torch.bool)
        chosen[list(HEADS[place.layer])] = True
        inside = chosen[None, :, None, None] & (True if rows is None else rows[:, None, :, None])
        return torch.where(inside, change(dense, *at), p)

    with changed_rows(model, rewritten), torch.no_grad():
        return read(model(**inputs_of(kind)))


@cache
def untouched(subject):
    """Output of the judge with nothing changed."""
    return by_hand(subject, lambda dense, _query, _key: dense.softmax(dense.scores))


def heads_of(subject):
    """The edited heads by name."""
    prefix = PREFIX[SUBJECTS[subject][1]]
    return [f"{prefix}L{layer}.H{head}" for layer, heads in HEADS.items() for head in heads]


def by_probe(subject, *interventions):
    """The same output under interventions."""
    kind, _ = SUBJECTS[subject]
    model = model_of(kind, 0)
    with probe.edit(model, list(interventions)), torch.no_grad():
        return read(model(**inputs_of(kind)))


def agree(subject, found, expected, places=1e-9):
    """Equal at the real tokens of the output."""
    kind, tower = SUBJECTS[subject]
    real = index_of(kind, "decoder" if kind == "t5" else tower, "query") >= 0
    torch.testing.assert_close(found[real], expected[real], atol=places, rtol=places)


def gap(query, key):
    """Query less key in real tokens, ``[2, 1, query, key]``."""
    return (query[:, :, None] - key[:, None, :])[:, None]


def cut(dense, keep):
    """The softmax, sink included, over the visible keys that are kept."""
    return dense.softmax(dense.scores.masked_fill(~keep, -torch.inf))


def flat(seen):
    """1 / number of seen keys."""
    return seen.double() / seen.sum(-1, keepdim=True).clamp_min(1)


def first(seen):
    """1 at the first seen key."""
    return (seen & (seen.cumsum(-1) == 1)).double()


def own(dense, query, key):
    """1 at the query's own place."""
    return torch.eye(LENGTH, dtype=torch.float64).expand_as(dense.scores) * dense.seen


def inside(index, start, stop):
    """Keys (last axis) of a span."""
    return ((index >= start) & (index < stop))[:, None, None]


def rows_in(index, start, stop):
    """Queries (third axis) of a span."""
    return ((index >= start) & (index < stop))[:, None, :, None]


def linear(dense, query, key):
    """ELU + 1 attention over the visible keys."""
    phi_q, phi_k = (torch.nn.functional.elu(x) + 1 for x in (dense.query, dense.key))
    weights = (phi_q @ phi_k.transpose(-1, -2)).masked_fill(~dense.seen, 0.0)
    return weights / weights.sum(-1, keepdim=True).clamp_min(1e-300)


def by_row_length(dense, query, key):
    """The position-aware temperature with beta 0.2."""
    length = dense.seen.sum(-1, keepdim=True).clamp_min(1).double()
    t = 1 + math.exp(-math.exp(0.2)) * length.log()
    return dense.softmax(torch.where(dense.seen, t * dense.scores, -torch.inf))


def largest(dense, query, key):
    """The two largest scores of a row."""
    return cut(dense, dense.scores >= dense.scores.topk(2, dim=-1).values[..., -1:])


def boosted(dense, query, key):
    """Scores of keys 2..6 raised by 0.7 of their size."""
    raised = dense.scores + 0.7 * dense.scores.abs()
    return dense.softmax(torch.where(inside(key, 2, 6) & dense.seen, raised, dense.scores))


def graph(dense, query, key):
    """0..3 sees 3..6, nothing else between 0..3, 3..6 and 6..8."""
    part = [(0, 3), (3, 6), (6, 8)]
    barred = torch.zeros_like(dense.seen)
    for a, one in enumerate(part):
        for b, other in enumerate(part):
            if a != b and (a, b) != (0, 1):
                barred = barred | (rows_in(query, *one) & inside(key, *other))
    return cut(dense, ~barred)


def isolated(dense, query, key):
    """Tokens 2..9 see two of each other."""
    far = rows_in(query, 2, 9) & inside(key, 2, 9) & ((gap(query, key) < 0) | (gap(query, key) >= 2))
    return cut(dense, ~far)


CASES = {
    "uniform_past": (uniform_past, lambda d, q, k: flat(d.seen)),
    "to_bos": (to_bos, lambda d, q, k: first(d.seen)),
    "drop": (lambda h: drop("all", (2, 5), h), lambda d, q, k: d.softmax(d.scores) * ~inside(k, 2, 5)),
    "boost": (lambda h: boost((2, 6), 0.7, h, queries="all"), boosted),
    "temperature": (
        lambda h: temperature(0.5, h),
        lambda d, q, k: d.softmax(torch.where(d.seen, d.scores * 0.5, -torch.inf)),
    ),
    "temperature-by-row": (lambda h: temperature(heads=h, beta=0.2), by_row_length),
    "segment_graph": (lambda h: segment_graph({(0, 3): [(3, 6)], (6, 8): []}, h), graph),
    "topk": (lambda h: pattern("topk=2", h), largest),
    "sink": (lambda h: pattern("sink=3", h), lambda d, q, k: cut(d, inside(k, 0, 3))),
    "linear": (lambda h: graft(kind="linear", heads=h), linear),
}
BY_PLACE = {
    "to_identity": (
        lambda h: to_identity(0.3, h),
        lambda d, q, k: 0.7 * d.softmax(d.scores) + 0.3 * own(d, q, k),
    ),
    "isolate": (lambda h: isolate((2, 9), 2, h), isolated),
    "window": (
        lambda h: pattern("window=3+sink=1", h),
        lambda d, q, k: cut(d, (gap(q, k).abs() < 3) | inside(k, 0, 1)),
    ),
    "dilated": (
        lambda h: pattern(["dilated=2x3", "stride=5"], h),
        lambda d, q, k: cut(d, ((gap(q, k) % 3 == 0) & (gap(q, k).abs() < 6)) | (gap(q, k) % 5 == 0)),
    ),
    "block": (
        lambda h: pattern("block=4", h),
        lambda d, q, k: cut(d, (q // 4)[:, None, :, None] == (k // 4)[:, None, None, :]),
    ),
    "local": (lambda h: graft("local", 2, h), lambda d, q, k: cut(d, gap(q, k).abs() < 2)),
}


PAIRS = [(case, subject) for subject in SUBJECTS for case in (*CASES, *BY_PLACE)]


@pytest.fixture(autouse=True)
def _in_chunks(monkeypatch):
    """Sweep five rows at a time, so that edits are given parts of rows and keys."""
    monkeypatch.setattr(sweep, "_BLOCK_NUMBERS", 5 * 2 * 4 * LENGTH)


@pytest.mark.parametrize(
    ("case", "subject"), [pair for pair in PAIRS if pair[1] != "t5-cross" or pair[0] not in BY_PLACE]
)
def test_edited_rows_are_those_of_dense_attention(case, subject):
    """Padding, windows, learned sinks, position bias and shared keys included, logits equal the recomputation."""
    make, change = {**CASES, **BY_PLACE}[case]
    expected = by_hand(subject, change)
    agree(subject, by_probe(subject, make(heads_of(subject))), expected)
    assert float((expected - untouched(subject)).abs().max()) > 1e-4


@pytest.mark.parametrize("subject", SUBJECTS)
def test_uniform_over_the_cache_ignores_windows(subject):
    """Chosen heads see every real key at or before the query; the other heads of the layer keep their window."""
    causal = SUBJECTS[subject][1] == "decoder"

    def change(dense, query, key):
        seen = (key >= 0)[:, None, None].expand_as(dense.scores)
        return flat(seen & torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril() if causal else seen)

    found = by_probe(subject, uniform_cached(heads_of(subject), phase="both"))
    agree(subject, found, by_hand(subject, change))
