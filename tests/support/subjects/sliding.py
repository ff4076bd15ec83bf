"""Sliding windows, alone or mixed with full layers. The window is shorter than the test inputs."""

from subjects.decoders import decoder

WINDOW = 5
MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}

SUBJECTS = [
    decoder(
        "mistral-window", "Mistral", {"sliding_window": WINDOW}, family="sliding", features=("window", "gqa")
    ),
    decoder(
        "starcoder2-window", "Starcoder2", {"sliding_window": WINDOW}, family="sliding", features=("window",)
    ),
    decoder(
        "qwen2-window", "Qwen2", {**MIXED, "use_sliding_window": True}, family="sliding", features=("window",)
    ),
    decoder(
        "gemma2",
        "Gemma2",
        {**MIXED, "head_dim": 16, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
        family="sliding",
        features=("window", "softcap", "own scale"),
    ),
    decoder(
        "gemma3",
        "Gemma3",
        {**MIXED, "head_dim": 16, "query_pre_attn_scalar": 8},
        config="Gemma3TextConfig",
        family="sliding",
        features=("window", "qk norm"),
    ),
    decoder("cohere2", "Cohere2", {**MIXED, "logit_scale": 1.0}, family="sliding", features=("window",)),
    decoder("olmo3", "Olmo3", MIXED, family="sliding", features=("window", "qk norm")),
    decoder("ministral", "Ministral", {**MIXED, "head_dim": 8}, family="sliding", features=("window",)),
    decoder(
        "vaultgemma",
        "VaultGemma",
        {**MIXED, "head_dim": 16, "attn_logit_softcapping": 2.0},
        family="sliding",
        features=("window", "softcap"),
    ),
    decoder(
        "gpt-oss",
        "GptOss",
        {**MIXED, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
        family="sliding",
        features=("window", "learned sink", "moe"),
    ),
    decoder("granite-swa", "GraniteSWA", MIXED, family="sliding", features=("window", "learned sink")),
    decoder(
        "laguna",
        "Laguna",
        {
            **MIXED,
            "head_dim": 8,
            "num_attention_heads_per_layer": [4, 6],
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
            "mlp_layer_types": ["dense", "sparse"],
        },
        family="sliding",
        features=("window", "ragged heads", "gated z"),
    ),
]
