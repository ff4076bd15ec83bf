"""Cascade importance adds up what tokens receive, layer after layer."""

import numpy as np
import pytest
import tiny
import torch

from probe.errors import UsageError
from probe.metrics import answers, make
from probe.seam.session import Session


@pytest.mark.parametrize("fair", [False, True])
def test_equals_sums_of_eager_weights(fair: bool) -> None:
    """Token maps are column sums of the eager patterns over heads and over the layers so far."""
    model, ids = tiny.gemma3(attn_implementation="eager"), tiny.tokens(1, 13)
    with torch.no_grad():
        layers = [one[0].sum(0) for one in model(ids, output_attentions=True).attentions]
    metric = make(f"cascade_importance:keep=0.3,fair={str(fair).lower()}")
    with Session(model, [metric], mode="fused"), torch.no_grad():
        model(ids)
    answer = answers(metric)[0]
    sums, seen = np.zeros(13), np.zeros(13)
    for layer, p in enumerate(layers):
        sums += p.sum(0).numpy()
        seen += (p > 0).sum(0).numpy()
        expected = sums / seen if fair else sums
        np.testing.assert_allclose(answer.token_maps[0][layer], expected, rtol=2e-5)
        best = np.sort(expected)[::-1][:4].sum() / expected.sum()
        assert float(answer.head_map[layer]) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("keep", [0.0, 1.5])
def test_no_share_of_tokens_is_refused(keep: float) -> None:
    """A share lies in (0, 1]."""
    with pytest.raises(UsageError, match="allowed is more than 0, at most 1"):
        make(f"cascade_importance:keep={keep}")
