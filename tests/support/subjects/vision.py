"""Image and video encoders, and audio encoders with or without a text decoder."""

from functools import partial

import torch
from subjects import words
from subjects.seq2seq import BART, SPECIAL
from subjects.subject import Inputs, Subject, build
from torch import nn

VIT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}
ALONE = {"cache": False, "generate": False, "padding": False}


def viewer(name: str, prefix: str, entries: dict[str, object] | None = None, **properties: object) -> Subject:
    """``<prefix>Model`` on two images of 16 × 16 pixels: 16 patches, and whatever tokens the model adds."""
    model = str(properties.pop("model", f"{prefix}Model"))
    make = partial(build, f"{prefix}Config", model, {**VIT, **(entries or {})})
    base = {"family": "vision", "kind": "vision", "towers": ("vision",), **ALONE}
    return Subject(name=name, make=make, build_inputs=words.pixels(16), **{**base, **properties})  # type: ignore[arg-type]


def clip(_model: nn.Module, batch: int, length: int, left_padding: bool) -> Inputs:
    """Images and captions."""
    pictures = words.pixels(16)(_model, batch, length, left_padding)
    return {**words.text(_model, batch, length, left_padding), **pictures}


def pair(name: str, prefix: str, **properties: object) -> Subject:
    """A text tower beside a vision tower."""
    text = {
        **{k: v for k, v in VIT.items() if "size" in k and k not in {"image_size", "patch_size"}},
        "vocab_size": 99,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "projection_size": 32,
    }
    make = partial(
        build,
        f"{prefix}Config",
        f"{prefix}Model",
        {"text_config": text, "vision_config": VIT, "projection_dim": 16},
    )
    base = {
        "family": "vision",
        "kind": "pair",
        "towers": ("encoder", "vision"),
        "cache": False,
        "generate": False,
    }
    return Subject(name=name, make=make, build_inputs=clip, **{**base, **properties})  # type: ignore[arg-type]


def mels(model: nn.Module, batch: int, length: int, _left_padding: bool) -> Inputs:
    """Log-mel frames for the encoder and words for the decoder."""
    generator = torch.Generator().manual_seed(5)
    return {
        "input_features": torch.randn(batch, 8, 40, generator=generator),
        "decoder_input_ids": words.ids(batch, length, seed=3),
    }


def waves(_model: nn.Module, batch: int, _length: int, _left_padding: bool) -> Inputs:
    """Raw sound, unpadded."""
    return {"input_values": torch.randn(batch, 400, generator=torch.Generator().manual_seed(6))}


def frames(_model: nn.Module, batch: int, _length: int, _left_padding: bool) -> Inputs:
    """Mel frames, time first."""
    return {"input_features": torch.randn(batch, 64, 16, generator=torch.Generator().manual_seed(7))}


CONFORMER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_mel_bins": 16,
    "subsampling_factor": 4,
    "subsampling_conv_channels": 8,
    "conv_kernel_size": 5,
    "layerdrop": 0.0,
    "max_position_embeddings": 64,
}
WHISPER = {
    **SPECIAL,
    **BART,
    "num_mel_bins": 8,
    "max_source_positions": 20,
    "max_target_positions": 64,
    "begin_suppress_tokens": None,
}
SOUND = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "conv_dim": [16, 16],
    "conv_kernel": [8, 4],
    "conv_stride": [4, 4],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 99,
}

SUBJECTS = [
    viewer("vit", "ViT"),
    viewer("deit", "DeiT"),
    viewer("dinov2", "Dinov2"),
    viewer("dinov2-registers", "Dinov2WithRegisters"),
    viewer("dinov3-vit", "DINOv3ViT"),
    viewer("ijepa", "IJepa"),
    viewer(
        "siglip-vision",
        "SiglipVision",
        unseen=("head.attention",),
        features=("pooling head outside the registry",),
    ),
    viewer("clip-vision", "CLIPVision"),
    pair("clip", "CLIP", features=("causal text tower",)),
    pair(
        "siglip",
        "Siglip",
        unseen=("vision_model.head.attention",),
        features=("pooling head outside the registry",),
    ),
    Subject(
        "whisper",
        "audio",
        partial(build, "WhisperConfig", "WhisperForConditionalGeneration", WHISPER),
        mels,
        kind="audio",
        towers=("encoder", "decoder", "cross"),
        padding=False,
        features=("scaled queries",),
    ),
    Subject(
        "wav2vec2",
        "audio",
        partial(build, "Wav2Vec2Config", "Wav2Vec2Model", SOUND),
        waves,
        kind="audio",
        towers=("audio",),
        **ALONE,
    ),
    Subject(
        "parakeet",
        "audio",
        partial(build, "ParakeetEncoderConfig", "ParakeetEncoder", CONFORMER),
        frames,
        kind="audio",
        towers=("audio",),
        features=("query, key and value by keyword", "position bias"),
        **ALONE,
    ),
]
