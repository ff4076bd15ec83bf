"""Text decoders that read images: a vision tower in front, or cross-attention layers inside."""

from functools import partial

import torch
from subjects import words
from subjects.subject import TINY, Inputs, Subject, build
from subjects.vision import VIT
from torch import nn

IMAGE, VISION_START, VISION_END, VIDEO = 3, 4, 5, 6


def _with_images(tokens: torch.Tensor, mask: torch.Tensor, patches: int, start: int = 4) -> Inputs:
    tokens[:, start : start + patches] = IMAGE
    return {"input_ids": tokens, "attention_mask": mask}


def llava(_model: nn.Module, batch: int, length: int, left_padding: bool) -> Inputs:
    """One image of 16 patches per prompt, inside words."""
    given = words.text(_model, batch, length + 16, left_padding)
    return {
        **_with_images(given["input_ids"], given["attention_mask"], 16),
        **words.pixels(16)(_model, batch, 0, False),
    }


def pixtral(model: nn.Module, batch: int, length: int, left_padding: bool) -> Inputs:
    """One image per prompt; the vision tower packs all images into one row with a block-diagonal mask."""
    return {**llava(model, batch, length, left_padding), "image_sizes": torch.tensor([[16, 16]] * batch)}


def paligemma(model: nn.Module, batch: int, length: int, left_padding: bool) -> Inputs:
    """An image and four words that see each other both ways, then words that see the past.

    Without token types, and without padding, transformers 5.23 gives sdpa and eager different patterns.
    """
    given = llava(model, batch, length, left_padding)
    types = (torch.arange(length + 16) >= length + 12).long().expand(batch, -1)
    return {**given, "token_type_ids": types}


def qwen_vl(_model: nn.Module, batch: int, length: int, left_padding: bool) -> Inputs:
    """Two images per prompt, of 2×2 and 2×1 merged patches, each between its markers."""
    given = words.text(_model, batch, length + 10, left_padding)
    tokens, at = given["input_ids"], 4
    grids = [(1, 4, 4), (1, 4, 2)] * batch
    for _, high, wide in grids[:2]:
        merged = high * wide // 4
        tokens[:, at] = VISION_START
        tokens[:, at + 1 : at + 1 + merged] = IMAGE
        tokens[:, at + 1 + merged] = VISION_END
        at += merged + 3
    patches = sum(high * wide for _, high, wide in grids)
    pixels = torch.randn(patches, 3 * 2 * 4 * 4, generator=torch.Generator().manual_seed(4))
    marks = (tokens == IMAGE).to(torch.int32)
    return {
        **given,
        "pixel_values": pixels,
        "image_grid_thw": torch.tensor(grids),
        "mm_token_type_ids": marks,
    }


def mllama(_model: nn.Module, batch: int, length: int, left_padding: bool) -> Inputs:
    """One image of one tile per prompt, read through cross-attention."""
    given = words.text(_model, batch, length, left_padding)
    pixels = torch.randn(batch, 1, 1, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    return {
        **given,
        "pixel_values": pixels,
        "aspect_ratio_ids": torch.ones(batch, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.ones(batch, 1, 1, dtype=torch.long),
        "cross_attention_mask": torch.ones(batch, length, 1, 1, dtype=torch.long),
    }


LLAMA_TEXT = {**TINY, "model_type": "llama"}
QWEN_VISION = {
    "depth": 2,
    "embed_dim": 32,
    "num_heads": 4,
    "hidden_size": 32,
    "patch_size": 4,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "mlp_ratio": 2,
    "in_channels": 3,
}
QWEN_TEXT = {
    **TINY,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
}
QWEN_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}
MLLAMA = {
    "text_config": {**TINY, "vocab_size": 99, "num_hidden_layers": 3, "cross_attention_layers": [1]},
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_global_layers": 1,
        "attention_heads": 4,
        "image_size": 16,
        "patch_size": 4,
        "max_num_tiles": 1,
        "vision_output_dim": 64,
        "intermediate_layers_indices": [0],
        "supported_aspect_ratios": [[1, 1]],
    },
    "image_token_index": IMAGE,
}
GEMMA4 = {
    **TINY,
    "num_hidden_layers": 4,
    "head_dim": 8,
    "global_head_dim": 16,
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 99,
}

SUBJECTS = [
    Subject(
        "pixtral",
        "multimodal",
        partial(
            build,
            "LlavaConfig",
            "LlavaForConditionalGeneration",
            {
                "text_config": {**TINY, "model_type": "mistral"},
                "vision_config": {**VIT, "model_type": "pixtral"},
                "image_token_id": IMAGE,
                "vision_feature_layer": -1,
                "vision_feature_select_strategy": "full",
            },
        ),
        pixtral,
        towers=("vision", "decoder"),
        features=("gqa", "packed images"),
    ),
    Subject(
        "llava",
        "multimodal",
        partial(
            build,
            "LlavaConfig",
            "LlavaForConditionalGeneration",
            {
                "text_config": LLAMA_TEXT,
                "vision_config": {**VIT, "model_type": "clip_vision_model"},
                "image_token_id": IMAGE,
                "vision_feature_layer": -1,
            },
        ),
        llava,
        towers=("vision", "decoder"),
        features=("gqa", "image"),
    ),
    Subject(
        "paligemma",
        "multimodal",
        partial(
            build,
            "PaliGemmaConfig",
            "PaliGemmaForConditionalGeneration",
            {
                "text_config": {**TINY, "model_type": "gemma", "num_key_value_heads": 1, "head_dim": 8},
                "vision_config": {**VIT, "model_type": "siglip_vision_model"},
                "image_token_id": IMAGE,
                "projection_dim": 32,
            },
        ),
        paligemma,
        unseen=("model.vision_tower.head.attention",),
        towers=("vision", "decoder"),
        features=("bidirectional prefix", "image"),
    ),
    Subject(
        "qwen2-vl",
        "multimodal",
        partial(
            build,
            "Qwen2VLConfig",
            "Qwen2VLForConditionalGeneration",
            {"text_config": QWEN_TEXT, "vision_config": QWEN_VISION, **QWEN_IDS},
        ),
        qwen_vl,
        cache_padding=False,
        towers=("vision", "decoder"),
        features=("gqa", "two images", "split by image"),
    ),
    Subject(
        "qwen2.5-vl",
        "multimodal",
        partial(
            build,
            "Qwen2_5_VLConfig",
            "Qwen2_5_VLForConditionalGeneration",
            {
                "text_config": QWEN_TEXT,
                "vision_config": {
                    "depth": 2,
                    "hidden_size": 32,
                    "intermediate_size": 48,
                    "num_heads": 4,
                    "patch_size": 4,
                    "out_hidden_size": 32,
                    "window_size": 16,
                    "fullatt_block_indexes": [1],
                },
                **QWEN_IDS,
            },
        ),
        qwen_vl,
        cache_padding=False,
        towers=("vision", "decoder"),
        features=("gqa", "two images", "window in vision"),
    ),
    Subject(
        "mllama",
        "multimodal",
        partial(build, "MllamaConfig", "MllamaForConditionalGeneration", MLLAMA),
        mllama,
        towers=("vision", "decoder", "cross"),
        features=("gqa", "cross layers"),
    ),
    Subject(
        "gemma4",
        "multimodal",
        partial(build, "Gemma4TextConfig", "Gemma4ForCausalLM", GEMMA4),
        words.text,
        features=("window", "kv sharing", "ragged head width"),
    ),
]
