"""Decoders with any shape of block, made from their configurations with a seed: what many of these have in common."""

from typing import Any

import tiny
import torch

SIZES: dict[str, Any] = {**tiny.SMALL, **tiny.IDS}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip


def made(kind: type, config: Any) -> Any:
    """A random model as its class makes it: gains are 1, biases 0."""
    torch.manual_seed(0)
    return kind(config).eval()


def rough(kind: type, config: Any, *, biased: bool = True) -> Any:
    """A random model in which no gain is 1 and, where it is `biased`, no bias 0."""
    model = made(kind, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if biased or parameter.ndim == 2 or float(parameter.abs().max()) > 0:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model
