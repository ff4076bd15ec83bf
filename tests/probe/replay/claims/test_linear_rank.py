"""The ranks that the claim compares are those of the model's own z, and of other attention on its q, k and v."""

import numpy as np
import pytest
import torch
from small_models import letters, llama

from probe.metrics import answers, make
from probe.metrics.linear_attention import LinearRank
from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt
from probe.replay.claims.linear_rank import NAMES, _of_passage, _share
from probe.seam.session import Session


def test_ranks_are_those_of_the_metrics() -> None:
    """Softmax as `effective_rank` has it, linear as `LinearRank`; every name has every head once."""
    small = LoadedModel(llama(), letters(), "small", ModelSource("given"))
    passage = Prompt.of_tokens(np.random.default_rng(0).integers(2, 50, 40).tolist(), id="p")
    found = _of_passage(small, passage)
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(NAMES, 8)
    metrics = [make("effective_rank"), LinearRank()]
    with Session(small.model, metrics), torch.no_grad():
        small.model(torch.tensor([passage.tokens]))
    for name, metric in zip(("softmax", "linear"), metrics, strict=True):
        wanted = answers(metric)[0].head_map.values.ravel()
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4)


def test_uniform_attention_is_the_running_mean() -> None:
    """Its rank is that of the cumulated values, and without the first token softmax rows are scaled to sum 1."""
    small = LoadedModel(llama(num_hidden_layers=1), letters(), "small", ModelSource("given"))
    attention = small.model.model.layers[0].self_attn
    attention.q_proj.weight.data.zero_()  # softmax is uniform then
    passage = Prompt.of_tokens(np.random.default_rng(1).integers(2, 50, 30).tolist(), id="p")
    found = _of_passage(small, passage)
    np.testing.assert_allclose(found["uniform"], found["softmax"], rtol=1e-4)


def test_the_share_counts_heads() -> None:
    """Heads whose mean over passages is higher under the first attention."""
    one, two = np.array([[2.0, 1.0], [2.0, 1.0]]), np.array([[1.0, 3.0], [2.5, 0.0]])
    assert _share(one, two).value == pytest.approx(0.5)
