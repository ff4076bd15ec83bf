"""TransformerLens's run_with_cache, on the same tiny Llama, names and holds what capture holds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from subjects.catalogue import SUBJECTS
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import probe
from probe.prompts import Prompt

bridge = pytest.importorskip("transformer_lens.model_bridge", reason="needs the extra 'lens'")

HOOKS = {
    "pattern": "attn.hook_pattern",
    "scores": "attn.hook_attn_scores",
    "z": "attn.hook_z",
    "q": "attn.hook_rot_q",
    "resid_pre": "hook_resid_pre",
    "resid_post": "hook_resid_post",
    "mlp_out": "hook_mlp_out",
}


def test_capture_equals_run_with_cache(tmp_path: Path) -> None:
    """Every array that both know is the same, for grouped-query attention with RoPE."""
    tokens = [11, 12, 13, 11, 12, 17, 18, 19]
    model = SUBJECTS["llama"].model()
    model.save_pretrained(tmp_path)
    words = Tokenizer(models.WordLevel({str(i): i for i in range(99)}, unk_token="0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", unk_token="0")
    lens = bridge.TransformerBridge.boot_transformers(
        str(tmp_path), hf_model=SUBJECTS["llama"].model(), tokenizer=tokenizer
    )
    _, cache = lens.run_with_cache(torch.tensor([tokens]), prepend_bos=False)
    maps = probe.capture(model, Prompt.of_tokens(tokens), list(HOOKS))
    for name, hook in HOOKS.items():
        for layer in (0, 1):
            mine = maps[name].sel(layer=layer).values
            theirs = cache[f"blocks.{layer}.{hook}"][0].numpy()
            if name in ("z", "q"):  # TransformerLens puts the position before the head
                theirs = theirs.swapaxes(0, 1)
            seen = np.isfinite(mine)
            np.testing.assert_allclose(mine[seen], theirs[seen], rtol=1e-4, atol=1e-5)
