"""Attention modules, towers and layers are found without knowing any model by name."""

import tiny
import torch
from probe_kernels.types import Want
from transformers import AlbertConfig, AlbertModel, ViTConfig, ViTModel

from probe.seam import Session, places
from probe.seam.places import attention_modules


def found(model):
    """(tower, layer) of every attention module."""
    return sorted((place.tower, place.layer) for place in places(model).values())


def test_towers_and_layers():
    """Decoders, encoders, encoder-decoders and vision towers."""
    assert found(tiny.llama()) == [("decoder", 0), ("decoder", 1)]
    assert found(tiny.bert()) == [("encoder", 0), ("encoder", 1)]
    assert found(tiny.t5()) == [
        (tower, layer) for tower in ("cross", "decoder", "encoder") for layer in (0, 1)
    ]
    vit = ViTModel(ViTConfig(**{**tiny.SMALL, "vocab_size": None}, image_size=16, patch_size=8))
    assert found(vit) == [("vision", 0), ("vision", 1)]


def test_only_the_innermost_module_counts():
    """A wrapper around an attention module is not attention itself."""
    names = set(attention_modules(tiny.bert()))
    assert names == {"encoder.layer.0.attention.self", "encoder.layer.1.attention.self"}


class Layers:
    """Collects the layers that were called."""

    def __init__(self):
        self.seen = []

    def want(self, call):
        """Nothing."""
        return Want(z=False)

    def update(self, call, attended):
        """Note the layer."""
        self.seen.append(call.place.layer)


def test_shared_weights_are_one_layer_per_use():
    """A module that runs three times in a forward stands for three layers."""
    config = AlbertConfig(**{**tiny.SMALL, "num_hidden_layers": 3}, embedding_size=16)
    model = AlbertModel(config).eval()
    with torch.no_grad(), Session(model, [watch := Layers()], mode="fused"):
        model(tiny.tokens())
        model(tiny.tokens())
    assert watch.seen == [0, 1, 2, 0, 1, 2]
