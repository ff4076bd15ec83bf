"""On models, padded and cached, metrics equal loops over the eager weights of each prompt alone."""

import dense_metrics as dense
import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GptOssConfig, LlamaConfig

from probe.metrics import answers, make
from probe.seam.session import Session
from probe.testing import Sample

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 32,
    "vocab_size": 12,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "initializer_range": 0.4,
}
LOCAL_GLOBAL = ["sliding_attention", "full_attention"]
MODELS = {
    "llama": (LlamaConfig(**SIZES), (None, None)),
    "gemma3": (Gemma3TextConfig(**SIZES, sliding_window=4, layer_types=LOCAL_GLOBAL), (4, None)),
    "gpt-oss": (
        GptOssConfig(
            **SIZES, sliding_window=4, layer_types=LOCAL_GLOBAL, num_local_experts=2, num_experts_per_tok=1
        ),
        (4, None),
    ),
}
SPECS = [
    "entropy",
    "entropy:normalized=true",
    "sink",
    "received",
    "future_influence:lo=1,hi=4",
    "waad:window=3",
    "distance",
    "previous_token",
    "duplicate_token",
    "induction:norm=matched",
    "max_prob",
    "effective_keys",
]


def build(name: str) -> nn.Module:
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(MODELS[name][0], attn_implementation="eager").eval()


@pytest.mark.parametrize("name", MODELS)
def test_padded_and_cached_equals_each_prompt_alone(name: str) -> None:
    """Two prompts of different lengths, left-padded, in a prefill and cached steps."""
    model, windows = build(name), MODELS[name][1]
    prompts = [torch.randint(1, 12, (n,), generator=torch.Generator().manual_seed(n)) for n in (13, 9)]
    with torch.no_grad():
        eager = [model(input_ids=ids[None], output_attentions=True).attentions for ids in prompts]
    metrics = [make(spec) for spec in SPECS]
    with Session(model, metrics, mode="fused"), torch.no_grad():
        padded = torch.stack([nn.functional.pad(ids, (13 - len(ids), 0)) for ids in prompts])
        real = (padded != 0).long()
        cache = None
        for start, stop in ((0, 8), (8, 11), (11, 12), (12, 13)):
            places = (real.cumsum(1) - 1).clamp_min(0)[:, start:stop]
            out = model(
                input_ids=padded[:, start:stop],
                attention_mask=real[:, :stop],
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
            )
            cache = out.past_key_values
    for metric in metrics:
        found = answers(metric)[0].head_map.values
        for layer, window in enumerate(windows):
            for head in range(4):
                rows = [
                    dense.ORACLES[metric.spec](
                        _dense(weights[layer][0, head], ids, window, name == "gpt-oss")
                    )
                    for weights, ids in zip(eager, prompts, strict=True)
                ]
                wanted = sum(row[0] for row in rows) / sum(row[1] for row in rows)
                where = f"{metric.spec} of {name} L{layer}.H{head}"
                np.testing.assert_allclose(found[layer, head], wanted, rtol=1e-4, atol=2e-5, err_msg=where)


def _dense(weights: torch.Tensor, ids: torch.Tensor, window: int | None, sinks: bool) -> dense.Dense:
    n = len(ids)
    sample = Sample(torch.zeros(1, 4, n, 1), torch.zeros(1, 2, n, 1), torch.zeros(1, 2, n, 1), ids)
    return dense.Dense(weights.double().numpy(), sample, window, 0, sinks)
