"""A subject: one architecture built tiny from its config, with seeded random weights and inputs to run it on.

Nothing is downloaded. Weights are drawn large enough that patterns are far from uniform: freshly initialised
models attend almost uniformly, and a wrong mask or a forgotten bias would hide below the tolerance.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import transformers
from torch import Tensor, nn

VOCABULARY = 99
FIRST_WORD = 10  # ids below are special tokens: pad 0, bos 1, eos 2, image 3 and so on
PAD = 0

Kind = Literal["decoder", "encoder", "seq2seq", "vision", "audio", "pair"]
Inputs = dict[str, Tensor]
InputsBuilder = Callable[[nn.Module, int, int, bool], Inputs]

TINY: dict[str, object] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Subject:
    """One architecture and what a test may expect of it."""

    name: str
    family: str
    make: Callable[[], nn.Module]
    build_inputs: InputsBuilder
    kind: Kind = "decoder"
    towers: tuple[str, ...] = ("decoder",)
    features: tuple[str, ...] = ()
    bypass: bool = False  # at least one attention layer never reaches the registry
    fallback: Literal["all", "some", "none"] = "all"  # which layers of a bypassing model can still be seen
    partly: bool = False  # bypasses with some layers, and reaches the registry with the others
    gain: float = 1.2  # spread of the linear weights; lower where scores are not scaled by the head width
    unseen: tuple[str, ...] = ()  # attention that is not over tokens, or not through the registry
    padding: bool = True  # takes an attention_mask with left padding
    cache: bool = True  # continues from a KV cache
    cache_padding: bool = True  # continues from a KV cache with left padding, without help from generate()
    cache_exact: bool = True  # the model's own cached logits equal those of one whole forward
    generate: bool = True

    def model(self) -> nn.Module:
        """The model in eval mode, float32, with the same weights at every call."""
        torch.manual_seed(0)
        model = self.make()
        sharpen(model, self.gain)
        return model.eval().requires_grad_(False)

    def inputs(
        self, model: nn.Module, batch: int = 2, length: int = 12, left_padding: bool = False
    ) -> Inputs:
        """Keyword arguments for one forward of `model`; with `left_padding` row 0 starts with 3 pads."""
        return self.build_inputs(model, batch, length, left_padding)

    def __str__(self) -> str:
        return self.name


def sharpen(model: nn.Module, gain: float) -> None:
    """Redraw the weights so that scores, biases and sinks are of order one."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                spread = _spread(module, name, weight, gain)
                if spread is not None:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * spread)


def _spread(module: nn.Module, name: str, weight: Tensor, gain: float) -> float | None:
    kind = type(module).__name__
    if name in {"sinks", "sink", "attn_sink"}:
        return 1.0
    if isinstance(module, nn.Embedding):
        return 0.0 if "Sinusoidal" in kind else 1.0
    if kind == "Conv1D":  # GPT-2's transposed linear
        return float(weight.shape[0] ** -0.5) if name == "weight" else 0.1
    if isinstance(module, nn.Linear):
        return gain * float(weight.shape[1] ** -0.5) if name == "weight" else 0.1
    if weight.ndim == 3 and "proj" in name:  # fused experts
        return float(max(weight.shape[1:]) ** -0.5)
    return None


def tiny(overrides: Mapping[str, object] = {}, *, drop: tuple[str, ...] = ()) -> dict[str, object]:
    """The shared tiny sizes with a family's own entries on top."""
    return {k: v for k, v in {**TINY, **overrides}.items() if k not in drop}


def build(config: str, model: str, entries: Mapping[str, object]) -> nn.Module:
    """``transformers.<model>`` made from ``transformers.<config>(**entries)``."""
    cfg = getattr(transformers, config)(**entries)
    made: nn.Module = getattr(transformers, model)(cfg)
    return made
