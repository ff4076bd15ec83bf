"""Dense decoders: one softmax attention per layer, with or without grouped key/value heads."""

from subjects.decoders import decoder

GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}

SUBJECTS = [
    decoder("gpt2", "GPT2", GPT2, model="GPT2LMHeadModel", features=("learned positions",)),
    decoder(
        "gpt2-scaled-by-layer",
        "GPT2",
        {**GPT2, "scale_attn_by_inverse_layer_idx": True},
        model="GPT2LMHeadModel",
    ),
    decoder("gpt-bigcode", "GPTBigCode", GPT2, features=("multi-query",)),
    decoder("opt", "OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32}, features=("scaled queries",)),
    decoder("gpt-neox", "GPTNeoX", {"rotary_pct": 0.5}, features=("partial rope",)),
    decoder("biogpt", "BioGpt", features=("scaled queries",)),
    decoder("phi", "Phi", {"partial_rotary_factor": 0.5}),
    decoder("phi3", "Phi3", {"sliding_window": None}, features=("gqa",)),
    decoder("llama", "Llama", features=("gqa",)),
    decoder("llama-mha", "Llama", {"num_key_value_heads": 4}),
    decoder("mistral", "Mistral", {"sliding_window": None}, features=("gqa",)),
    decoder("qwen2", "Qwen2", features=("gqa",)),
    decoder("qwen3", "Qwen3", {"head_dim": 16}, features=("gqa", "qk norm")),
    decoder("olmo", "Olmo", {"clip_qkv": 1.5}, features=("clipped qkv",)),
    decoder("olmo2", "Olmo2", features=("qk norm",)),
    decoder("stablelm", "StableLm", {"qk_layernorm": True}, features=("qk norm",)),
    decoder("starcoder2", "Starcoder2", {"sliding_window": None}, features=("gqa",)),
    decoder("granite", "Granite", {"attention_multiplier": 0.2}, features=("gqa", "own scale")),
    decoder("cohere", "Cohere", {"use_qk_norm": True, "logit_scale": 1.0}, features=("gqa", "qk norm")),
    decoder("smollm3", "SmolLM3", {"no_rope_layer_interval": 2}, features=("gqa", "layers without rope")),
    decoder("gemma", "Gemma", {"num_key_value_heads": 1, "head_dim": 16}, features=("multi-query",)),
    decoder("glm", "Glm", {"head_dim": 16}, features=("gqa", "partial rope")),
    decoder("glm4", "Glm4", {"head_dim": 16}, features=("gqa",)),
    decoder("nemotron", "Nemotron", features=("gqa",)),
    decoder(
        "exaone4",
        "Exaone4",
        {"sliding_window": None, "layer_types": ["full_attention"] * 2},
        features=("gqa",),
    ),
    decoder("bitnet", "BitNet", features=("gqa", "normed z")),
    decoder("diffllama", "DiffLlama", features=("two calls per layer",)),
    decoder("doge", "Doge", features=("own registry", "bias from values")),
    decoder("helium", "Helium", {"head_dim": 8}, features=("gqa",)),
    decoder("persimmon", "Persimmon", {"qk_layernorm": True}, features=("qk norm",)),
]
