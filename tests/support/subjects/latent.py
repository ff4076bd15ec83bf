"""Multi-head latent attention (MLA): keys wider than values."""

from subjects.decoders import decoder

MLA = {
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "num_key_value_heads": 4,
}
ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}

SUBJECTS = [
    decoder("deepseek-v2", "DeepseekV2", {**MLA, **ROUTED}, family="latent", features=("mla",)),
    decoder("deepseek-v3", "DeepseekV3", {**MLA, **ROUTED}, family="latent", features=("mla",)),
    decoder("minicpm3", "MiniCPM3", MLA, family="latent", features=("mla",)),
    decoder("glm4-moe-lite", "Glm4MoeLite", {**MLA, **ROUTED}, family="latent", features=("mla",)),
]
