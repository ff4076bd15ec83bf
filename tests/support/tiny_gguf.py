"""A tiny quantised GGUF file with a byte-level tokenizer, and what its tensors de-quantise to."""

from pathlib import Path

import gguf
import numpy as np
from tokenizers import pre_tokenizers

D_MODEL, D_FF, HEADS, KV_HEADS, LAYERS = 64, 96, 4, 2, 2


def write_gguf(path: Path) -> dict[str, np.ndarray]:
    """Write the file; return every tensor by its GGUF name, de-quantised by the gguf package."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(D_MODEL)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(D_FF)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(D_MODEL // HEADS)
    words = ["<|start|>", "<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the"]
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types([3, 3, *[1] * (len(words) - 2)])
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    made = {}
    for name, shape, kind in _tensors(len(words)):
        values = np.random.default_rng(len(made)).normal(0, 0.5, shape).astype(np.float32)
        packed = gguf.quants.quantize(values, kind)
        writer.add_tensor(name, packed, raw_dtype=None if kind == gguf.GGMLQuantizationType.F32 else kind)
        made[name] = gguf.quants.dequantize(packed, kind).reshape(shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


def _tensors(vocabulary: int) -> list[tuple[str, tuple[int, ...], gguf.GGMLQuantizationType]]:
    plain, packed, wide = (gguf.GGMLQuantizationType[name] for name in ("F32", "Q4_1", "Q8_0"))
    d_kv = D_MODEL // HEADS * KV_HEADS
    listed = [("token_embd.weight", (vocabulary, D_MODEL), wide), ("output_norm.weight", (D_MODEL,), plain)]
    for layer in range(LAYERS):
        listed += [
            (f"blk.{layer}.attn_norm.weight", (D_MODEL,), plain),
            (f"blk.{layer}.ffn_norm.weight", (D_MODEL,), plain),
            (f"blk.{layer}.attn_q.weight", (D_MODEL, D_MODEL), packed),
            (f"blk.{layer}.attn_k.weight", (d_kv, D_MODEL), packed),
            (f"blk.{layer}.attn_v.weight", (d_kv, D_MODEL), packed),
            (f"blk.{layer}.attn_output.weight", (D_MODEL, D_MODEL), packed),
            (f"blk.{layer}.ffn_gate.weight", (D_FF, D_MODEL), packed),
            (f"blk.{layer}.ffn_up.weight", (D_FF, D_MODEL), packed),
            (f"blk.{layer}.ffn_down.weight", (D_MODEL, D_FF), packed),
        ]
    return listed
