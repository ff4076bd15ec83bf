"""Mixtures of experts: attention as in dense decoders, the feed-forward part routed."""

from subjects.decoders import decoder

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

SUBJECTS = [
    decoder("mixtral", "Mixtral", {"num_local_experts": 4}, family="moe", features=("gqa",)),
    decoder("qwen2-moe", "Qwen2Moe", {**EXPERTS, "shared_expert_intermediate_size": 16}, family="moe"),
    decoder("qwen3-moe", "Qwen3Moe", {**EXPERTS, "head_dim": 8}, family="moe", features=("gqa", "qk norm")),
    decoder("olmoe", "Olmoe", EXPERTS, family="moe", features=("qk norm",)),
    decoder("granite-moe", "GraniteMoe", {"num_local_experts": 4}, family="moe", features=("own scale",)),
    decoder("phimoe", "Phimoe", {"num_local_experts": 4}, family="moe"),
    decoder(
        "jetmoe",
        "JetMoe",
        {"num_local_experts": 4, "kv_channels": 8},
        family="moe",
        features=("routed heads",),
    ),
    decoder(
        "dbrx",
        "Dbrx",
        {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 64,
            "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        },
        family="moe",
        features=("gqa", "clipped qkv"),
    ),
]
