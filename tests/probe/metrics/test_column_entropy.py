"""Column entropy of columns that can be written down, in pieces and with edits."""

import math

import numpy as np
import pytest
import torch
from planted import HEADS, planted, repeated_tokens
from small_models import llama

from probe.errors import UsageError
from probe.interventions import zero
from probe.metrics import answers, make
from probe.seam.session import Session
from probe.testing import feed, on_pattern


def test_a_column_shared_by_half_of_its_queries() -> None:
    """Key 0 is read by rows 0..3 alike and by none of rows 4..7: log 4 / log 8; each of the others by its own row."""
    pattern = torch.eye(8)
    pattern[:4] = 0
    pattern[:4, 0] = 1
    assert on_pattern(make("column_entropy"), pattern[None])[0] == pytest.approx(
        math.log(4) / math.log(8), abs=1e-6
    )


def test_planted_sink_is_even_and_the_local_head_is_not() -> None:
    """The sink head's first column is uniform; the local head's columns each come from one row."""
    found = answers(feed(make("column_entropy"), [planted(repeated_tokens(8))]))[0].head_map.values[0]
    assert found[HEADS.index("sink")] == pytest.approx(1.0, abs=1e-6)
    assert found[HEADS.index("local")] == pytest.approx(0.0, abs=1e-6)


def test_keys_that_few_queries_see_do_not_count_if_asked() -> None:
    """Two queries that share a key make an entropy of 1, which `least` leaves out."""
    pattern = torch.eye(8)
    pattern[7] = torch.tensor([0.0] * 6 + [1.0, 0.0])
    assert on_pattern(make("column_entropy"), pattern[None])[0] == pytest.approx(1.0, abs=1e-6)
    assert on_pattern(make("column_entropy:least=3"), pattern[None])[0] == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(UsageError, match="least"):
        make("column_entropy:least=1")


def test_a_prompt_of_one_token_is_undefined() -> None:
    """One query has no entropy over queries."""
    assert np.isnan(on_pattern(make("column_entropy"), torch.ones(1, 1, 1))[0])


def test_on_a_model_it_is_the_pattern_that_the_model_used() -> None:
    """In a forward that another intervention edits, it equals loops over the eager weights."""
    model, ids = llama(attn_implementation="eager"), torch.tensor([[5, 9, 3, 7, 5, 9, 2, 8]])
    metric = make("column_entropy")
    with torch.no_grad():
        weights = model(ids, output_attentions=True).attentions
        with Session(model, [metric], [zero(heads=["L1.H0"])]):
            model(ids)
    found = answers(metric)[0].token_maps[0].values
    for layer, p in enumerate(weights):
        column = p[0].double() / p[0].double().sum(-2, keepdim=True)
        entropy = -torch.special.xlogy(column, column).sum(-2) / torch.arange(8, 0, -1).double().log()
        np.testing.assert_allclose(found[layer, :, :7], entropy[:, :7].numpy(), rtol=2e-5, atol=2e-5)
