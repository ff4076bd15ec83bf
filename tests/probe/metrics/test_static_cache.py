"""A static cache holds slots that no token has filled: statistics are those of one forward over the same tokens."""

import numpy as np
import pytest
import tiny
import torch

import probe

METRICS = ["entropy", "sink", "received", "distance", "previous_token", "value_norm", "induction", "waad"]
NEW = 6


def padded():
    """Two prompts, the first one padded on the left."""
    ids = tiny.tokens(2, 12)
    mask = torch.ones_like(ids)
    ids[0, :4] = mask[0, :4] = 0
    return ids, mask


def whole(model, ids, mask):
    """One forward over everything but the last new token, which no generation step reads."""
    longer = torch.cat([mask, mask.new_ones(len(mask), NEW)], dim=1)
    with torch.no_grad(), probe.observe(model, metrics=METRICS) as run:
        model(ids[:, :-1], attention_mask=longer[:, :-1])
    return run.report()


@pytest.mark.parametrize("mode", ["shadow", "fused"])
@pytest.mark.parametrize("rows", [slice(0, 2), slice(1, 2)], ids=["left padding", "no padding"])
def test_generating_with_a_static_cache_equals_one_forward(mode, rows):
    """Head maps and token maps agree, with masks that generate() makes before the forward that uses them."""
    model, (ids, mask) = tiny.llama(), padded()
    ids, mask = ids[rows], mask[rows]
    with torch.no_grad(), probe.observe(model, metrics=METRICS, mode=mode) as run:
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False,
            cache_implementation="static",
        )  # fmt: skip
    found, wanted = run.report(), whole(model, out, mask)
    for key in METRICS:
        np.testing.assert_allclose(found[key].values, wanted[key].values, atol=2e-4, err_msg=key)
        for prompt, tokens in wanted.answer(key).token_maps.items():
            mine = found.answer(key).token_maps[prompt]
            np.testing.assert_allclose(mine.values, tokens.values, atol=2e-4, err_msg=f"{key}, tokens")
