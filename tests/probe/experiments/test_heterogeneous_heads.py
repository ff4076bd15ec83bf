"""Heterogeneous heads: by loops over eager weights, and the counts of the paper's formula."""

import numpy as np
import pytest
import tiny
import torch
from given import given, prompt

from probe.errors import UsageError
from probe.experiments.base import Ask
from probe.experiments.heterogeneous_heads import (
    HeterogeneousHeads,
    farthest,
    head_counts,
    semantic_vectors,
)


def test_distances_equal_loops_over_eager_weights() -> None:
    """The last queries' columns, pooled, the best tokens, their values, the distance from the mean."""
    model, one = tiny.llama(attn_implementation="eager"), prompt(20)
    ids = torch.tensor([one.tokens])
    values = []
    hooks = [
        layer.self_attn.v_proj.register_forward_hook(lambda _m, _a, out: values.append(out[0].view(20, 2, 8)))
        for layer in model.model.layers
    ]
    with torch.no_grad():
        attentions = model(ids, output_attentions=True).attentions
    for hook in hooks:
        hook.remove()
    answer = HeterogeneousHeads(window=5, top=6, kernel=3).run(Ask(given(tiny.llama()), (one,)))[0]
    for layer, (a, v) in enumerate(zip(attentions, values, strict=True)):
        vectors = []
        for head in range(4):
            c = a[0, head, -5:].double().mean(0).numpy()
            pooled = np.array([c[max(0, j - 1) : j + 2].max() for j in range(20)])
            best = np.argsort(-pooled, kind="stable")[:6]
            vectors.append(sum(pooled[j] * v[j, head // 2].double().numpy() for j in best))
        expected = np.linalg.norm(np.array(vectors) - np.mean(vectors, 0), axis=-1)
        np.testing.assert_allclose(answer.head_map[layer], expected, rtol=1e-4)


def test_the_head_that_reads_something_else_is_found() -> None:
    """Of four heads three read token 0 and one token 5: it is the farthest, by three quarters of the difference."""
    received = torch.zeros(4, 8, dtype=torch.float64)
    received[:3, 0] = 1.0
    received[3, 5] = 1.0
    value = torch.zeros(1, 8, 2, dtype=torch.float64)
    value[0, 0], value[0, 5] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    vectors = semantic_vectors(received, value, top=1, kernel=1, pool="avg")
    distance = (vectors - vectors.mean(0)).norm(dim=-1).numpy()
    np.testing.assert_allclose(distance, [np.sqrt(2) / 4] * 3 + [3 * np.sqrt(2) / 4])
    assert farthest(distance, 1, nearest=False).tolist() == [0, 0, 0, 1]
    assert farthest(distance, 1, nearest=True).sum() == 2


def test_counts_fall_from_a_share_to_m() -> None:
    """f(r) of Llama-2-7B as the paper sets it: 8 of 32 heads in the first layer, 4 in the last."""
    counts = head_counts([32] * 32, 0.25, 4)
    assert (counts[0], counts[-1]) == (8, 4)
    assert counts == sorted(counts, reverse=True)
    assert head_counts([9], 0.3, 1) == [3]
    assert head_counts([2, 2], 0.5, 5) == [1, 2]  # never more than there are


def test_flags_follow_the_counts() -> None:
    """As many heads of a layer are flagged as its count says."""
    answer = HeterogeneousHeads(beta=0.5, m=1).run(Ask(given(tiny.llama()), (prompt(12),)))[0]
    flags = answer.extra["heterogeneous"]
    assert flags.sum("head").values.tolist() == answer.extra["count"].values.tolist() == [2, 1]
    assert float(answer.head_map[1].where(flags[1] == 1).max()) == float(answer.head_map[1].max())


@pytest.mark.parametrize("changes", [{"kernel": 4}, {"beta": 1.5}, {"window": 0}, {"top": 0}])
def test_bad_parameters_are_refused(changes: dict[str, float]) -> None:
    """An even kernel, shares above 1, nothing to look at."""
    with pytest.raises(UsageError, match="allowed is"):
        HeterogeneousHeads(**changes)
