"""Encoders with a decoder that reads them through cross-attention."""

from functools import partial

from subjects import words
from subjects.subject import PAD, Subject, build

TOWERS = ("encoder", "decoder", "cross")
SPECIAL = {
    "vocab_size": 99,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
}
BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
}


def translator(name: str, prefix: str, entries: dict[str, object], **properties: object) -> Subject:
    """``<prefix>ForConditionalGeneration``; the encoder is padded, the decoder is not."""
    model = str(properties.pop("model", f"{prefix}ForConditionalGeneration"))
    make = partial(build, f"{prefix}Config", model, {**SPECIAL, **entries})
    base = {"family": "seq2seq", "kind": "seq2seq", "towers": TOWERS}
    return Subject(name=name, make=make, build_inputs=words.both_sides, **{**base, **properties})  # type: ignore[arg-type]


SUBJECTS = [
    translator("t5", "T5", T5, gain=0.8, features=("position bias",)),
    translator("mt5", "MT5", T5, gain=0.8, features=("position bias",)),
    translator("umt5", "UMT5", T5, gain=0.8, features=("position bias in each layer",)),
    translator(
        "switch",
        "SwitchTransformers",
        {**T5, "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
        cache=False,
        gain=0.8,
        features=("position bias", "moe"),
    ),
    translator("bart", "Bart", BART),
    translator("mbart", "MBart", BART),
    translator("pegasus", "Pegasus", BART),
    translator("marian", "Marian", BART, model="MarianMTModel"),
    translator("m2m100", "M2M100", BART),
    translator(
        "nllb-moe",
        "NllbMoe",
        {**BART, "num_experts": 4, "expert_capacity": 64},
        cache=False,
        features=("moe",),
    ),
    translator(
        "pegasus-x",
        "PegasusX",
        {**BART, "num_global_tokens": 4, "block_size": 8},
        fallback="some",
        partly=True,
        bypass=True,
        features=("block-local encoder",),
    ),
    translator(
        "t5gemma",
        "T5Gemma",
        {
            "encoder": {
                "vocab_size": 99,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "sliding_window": 5,
            },
            "decoder": {
                "vocab_size": 99,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "sliding_window": 5,
            },
        },
        features=("window", "softcap"),
    ),
]
