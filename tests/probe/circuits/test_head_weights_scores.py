"""Successor, copying and composed heads, found by their weights in models where they are hand-set."""

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from copier import POSITIONS, copier
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.circuits import composition, copying_heads, successor_heads
from probe.circuits.composing import composed, read, written
from probe.circuits.ov import eigenvalue_positivity
from probe.circuits.successors import read_lists
from probe.circuits.weights import HeadWeights
from probe.errors import InputError, UnknownNameError, UsageError
from probe.models import LoadedModel

WORDS = ["one", "two", "three", "four", "five", "six"]


def _planted(shift: int, sign: float = 1.0) -> LoadedModel:
    """A copier (layer 0 head 0 looks one back, layer 1 head 0 copies) whose last head says the word `shift` on."""
    loaded = copier(WORDS)
    model: Any = loaded.model
    attention, n = model.transformer.h[1].attn, len(loaded.tokenizer)
    width = model.config.n_embd
    d_head, each = width // 2, torch.arange(n)
    said = 2 * n + POSITIONS
    with torch.no_grad():
        attention.c_attn.weight[each, 2 * width + d_head + each] = 1.0
        attention.c_proj.weight[d_head + each, said + (each + shift) % n] = sign
    return loaded


def _map(report: Any, name: str | None = None) -> Any:
    answer = report.answers[0]
    return (answer.head_map if name is None else answer.extra[name]).values


def test_the_successor_head_is_found() -> None:
    """The head that moves every word to the next scores 1, one that copies and those that write nothing 0."""
    report = successor_heads(_planted(1), lists=[WORDS])
    np.testing.assert_array_equal(_map(report), [[0, 0], [0, 1]])
    np.testing.assert_array_equal(_map(report, "by_list")[:, :, 0], [[0, 0], [0, 1]])


def test_a_head_that_goes_back_is_no_successor() -> None:
    """Direction counts."""
    assert _map(successor_heads(_planted(-1), lists=[WORDS]))[1, 1] == 0


def test_the_copying_head_is_found() -> None:
    """The head that writes what it read scores 1 and has positive eigenvalues; others do not copy."""
    report = copying_heads(_planted(0, -1.0), top=1, sample=6)
    np.testing.assert_array_equal(_map(report), [[0, 0], [1, 0]])
    np.testing.assert_array_equal(_map(report, "negative"), [[0, 0], [0, 1]])
    positivity = _map(report, "positivity")
    assert positivity[1, 0] == pytest.approx(1, abs=1e-3)
    assert positivity[1, 1] == pytest.approx(-1, abs=1e-3)


def test_the_circuit_composes_through_keys() -> None:
    """Of all pairs, the one that an induction circuit is made of composes most, through the later head's keys."""
    pairs = composition(copier(WORDS)).answers[0].extra["pairs"]
    best = np.unravel_index(int(np.nanargmax(pairs.values)), pairs.shape)
    assert [str(pairs.kind.values[best[0]]), *best[1:]] == ["k", 0, 0, 1, 0]
    assert float(pairs.values[best]) > 0.2


def test_only_later_heads_receive() -> None:
    """Heads of one layer, and earlier ones, are no pairs."""
    answer = composition((tiny.llama(), None)).answers[0]
    pairs = answer.extra["pairs"]
    assert bool(pairs.sel(sender_layer=0, receiver_layer=1).notnull().all())
    for sender, receiver in ((0, 0), (1, 1), (1, 0)):
        assert bool(pairs.sel(sender_layer=sender, receiver_layer=receiver).isnull().all())
    own = pairs.sel(sender_layer=0, receiver_layer=1)
    np.testing.assert_allclose(answer.head_map[0], own.mean(("kind", "receiver_head")))
    np.testing.assert_allclose(answer.head_map[1], own.mean(("kind", "sender_head")))


def _heads(count: int, seed: int, width: int = 24) -> HeadWeights:
    drawn = torch.Generator().manual_seed(seed)
    shapes = ((width, 5), (width, 5), (width, 4), (4, width))
    w_q, w_k, w_v, w_o = (torch.randn(count, *shape, generator=drawn) for shape in shapes)
    return HeadWeights(w_q, w_k, w_v, w_o, normed=False)


@given(seed=st.integers(0, 1000), kind=st.sampled_from(["q", "k", "v"]))
@settings(max_examples=15, deadline=None)
def test_low_rank_composition_is_that_of_whole_matrices(seed: int, kind: str) -> None:
    """Norms of small products are those of the d_model × d_model ones."""
    early, late = _heads(2, seed), _heads(3, seed + 1)
    found = composed(written(early), read(late, kind))
    for a in range(2):
        for b in range(3):
            ov = (early.w_v[a] @ early.w_o[a]).double()
            inner = {
                "q": late.w_q[b] @ late.w_k[b].T,
                "k": late.w_k[b] @ late.w_q[b].T,
                "v": late.w_v[b] @ late.w_o[b],
            }[kind].double()
            wanted = torch.linalg.norm(ov @ inner) / torch.linalg.norm(ov) / torch.linalg.norm(inner)
            assert float(found[a, b]) == pytest.approx(float(wanted), rel=1e-4)


def test_random_heads_compose_by_chance() -> None:
    """In a random model the mean excess is near 0, and far below what a planted pair has."""
    excess = composition((tiny.llama(), None)).answers[0].head_map
    assert float(abs(excess).max()) < 0.05


@given(seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_small_eigenvalues_are_those_of_the_vocabulary(seed: int) -> None:
    """Positivity from a small matrix is that of the tokens × tokens one."""
    heads = _heads(2, seed)
    drawn = torch.Generator().manual_seed(seed)
    unembed, embed = torch.randn(24, 9, generator=drawn), torch.randn(9, 24, generator=drawn)
    found = eigenvalue_positivity(heads, unembed @ embed)
    for head in range(2):
        whole = torch.linalg.eigvals((embed @ heads.w_v[head] @ heads.w_o[head] @ unembed).double())
        assert float(found[head]) == pytest.approx(float(whole.real.sum() / whole.abs().sum()), abs=1e-4)


def test_lists_are_cut_where_items_are_no_token() -> None:
    """An item behind a gap is not the successor of the one before it; what is left out is named."""
    tokenizer = copier(WORDS).tokenizer
    found, notes = read_lists(tokenizer, [["one", "two", "zwei", "three", "four", "five"], ["un", "deux"]])
    assert [one.tokens for one in found] == [
        tuple(tokenizer.convert_tokens_to_ids(["three", "four", "five"]))
    ]
    assert "zwei" in notes[0]
    assert "'one', 'two'" in notes[0]
    assert "'un', 'deux'" in notes[1]
    with pytest.raises(InputError, match="no three items"):
        read_lists(tokenizer, [["un", "deux", "trois"]])


def test_the_sample_is_seeded() -> None:
    """The same seed draws the same tokens, another one others."""
    model = (tiny.llama(), None)
    first, again, other = (_map(copying_heads(model, sample=8, top=8, seed=seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("method", "changes", "error"),
    [
        (copying_heads, {"top": 0}, UsageError),
        (copying_heads, {"sample": 0}, UsageError),
        (copying_heads, {"states": "embedding"}, UnknownNameError),
        (successor_heads, {"states": "embedding"}, UnknownNameError),
        (successor_heads, {}, UsageError),
        (composition, {"draws": 3}, UnknownNameError),
        (composition, {}, UsageError),
    ],
)
def test_bad_input(method: Any, changes: dict[str, Any], error: type[Exception]) -> None:
    """What cannot be asked is refused: a model without a tokenizer, or of one layer, among it."""
    with pytest.raises(error):
        method((tiny.llama(num_hidden_layers=1), None), **changes)
