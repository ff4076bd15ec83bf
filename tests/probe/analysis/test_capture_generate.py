"""A generation that is captured step by step equals one forward over the whole text."""

from typing import Any

import numpy as np
import pytest
import torch
from subjects.catalogue import SUBJECTS

import probe
from probe.prompts import Prompt

EVERYTHING = [
    "pattern",
    "scores",
    "lse",
    "z",
    "head_out",
    "q",
    "k",
    "v",
    "resid_pre",
    "resid_post",
    "mlp_out",
]
TOKENS = [11, 12, 13, 11, 12, 17, 18, 19, 20, 21, 22, 23]


def generated(name: str, new_tokens: int) -> list[int]:
    """Prompt and greedy continuation as the model alone makes them."""
    model = SUBJECTS[name].model()
    out = model.generate(torch.tensor([TOKENS]), max_new_tokens=new_tokens, do_sample=False)  # type: ignore[operator]
    return out[0].tolist()


@pytest.mark.parametrize("mode", ["shadow", "fused"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "mistral-window", "gpt-oss"])
def test_steps_equal_one_forward_over_the_whole_text(name: str, mode: Any) -> None:
    """Rows, keys and absolute positions of every step are those of a forward over prompt and continuation."""
    whole = generated(name, 6)
    steps = probe.capture(SUBJECTS[name].model(), Prompt.of_tokens(TOKENS), EVERYTHING, mode=mode, generate=6)
    once = probe.capture(SUBJECTS[name].model(), Prompt.of_tokens(whole[:-1]), EVERYTHING, mode=mode)
    for array in EVERYTHING:
        mine, theirs = steps.layers(array), once.layers(array)
        for layer, expected in theirs.items():
            assert mine[layer].dims == expected.dims
            np.testing.assert_allclose(mine[layer].values, expected.values, rtol=1e-3, atol=1e-4)
            for axis in ("query_pos", "key_pos", "token"):
                if axis in expected.coords:
                    assert mine[layer].coords[axis].values.tolist() == list(range(len(whole) - 1))
    assert steps["pattern"].coords["query_token"].values.tolist() == [str(token) for token in whole[:-1]]


def test_rows_of_the_generation_alone() -> None:
    """Asking for positions beyond the prompt keeps the decode steps and nothing of the prefill."""
    whole = generated("llama", 5)
    n = len(TOKENS)
    steps = probe.capture(
        SUBJECTS["llama"].model(),
        Prompt.of_tokens(TOKENS),
        ["pattern", "z"],
        [1],
        [3],
        slice(n, None),
        generate=5,
    )
    assert steps["z"].coords["query_pos"].values.tolist() == list(range(n, len(whole) - 1))
    assert steps["pattern"].sizes["key_pos"] == len(whole) - 1
    np.testing.assert_allclose(steps["pattern"].sum("key_pos").values, 1.0, atol=1e-5)


def test_a_padded_batch_generates_with_true_positions() -> None:
    """In a left-padded batch every step of each prompt is what that prompt has alone."""
    model = SUBJECTS["llama"].model()
    short = TOKENS[:7]
    tokens = torch.tensor([[0] * 5 + short, TOKENS])
    mask = (torch.arange(12)[None] >= torch.tensor([[5], [0]])).long()
    inputs = {"input_ids": tokens, "attention_mask": mask}
    together = probe.capture(model, inputs, ["pattern", "z"], generate=3)
    for number, one in enumerate((short, TOKENS)):
        alone = probe.capture(model, Prompt.of_tokens(one), ["pattern", "z"], generate=3)
        mine = together.prompt(number)
        np.testing.assert_allclose(mine["pattern"].values, alone["pattern"].values, atol=1e-5)
        np.testing.assert_allclose(mine["z"].values, alone["z"].values, rtol=1e-4, atol=1e-4)
        for axis in ("query_token", "key_token"):
            assert (
                mine["pattern"].coords[axis].values.tolist() == alone["pattern"].coords[axis].values.tolist()
            )


def test_an_encoder_decoder_generates() -> None:
    """The encoder is kept once, the decoder and its cross-attention step by step over the same keys."""
    subject = SUBJECTS["t5"]
    inputs = {"input_ids": torch.tensor([TOKENS]), "attention_mask": torch.ones(1, 12, dtype=torch.int64)}
    maps = probe.capture(
        subject.model(), {**inputs, "decoder_input_ids": torch.tensor([[1]])}, ["pattern", "k"], generate=4
    )
    assert maps.tower("encoder")["pattern"].shape[2:] == (12, 12)
    rows = maps.tower("decoder")["pattern"].sizes["query_pos"]
    assert rows > 1
    assert maps.tower("cross")["pattern"].shape[2:] == (rows, 12)
    assert maps.tower("cross")["k"].sizes["key_pos"] == 12
    np.testing.assert_allclose(maps.tower("cross")["pattern"].sum("key_pos").values, 1.0, atol=1e-5)
