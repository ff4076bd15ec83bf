"""Weights that cannot be trusted are refused before any number is computed from them."""

import torch
from torch import nn

from probe.errors import ModelError


def check_weights(model: nn.Module) -> None:
    """Refuse weights that are not finite, or that were never loaded.

    Raises:
        ModelError: names the first tensor (and so the layer) that holds NaN or infinity, or is on the meta device.
    """
    for name, tensor in model.named_parameters():
        if tensor.is_meta:
            raise ModelError(f"{name} has no values (it is on the meta device): load the weights first")
        if not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
            continue
        nan = int(torch.isnan(tensor).sum())
        infinite = int(torch.isinf(tensor).sum())
        raise ModelError(
            f"{name} holds {nan} NaN and {infinite} infinite of {tensor.numel()} values: every number computed with "
            "it would be wrong. Fetch or save the weights again, or ask for a wider dtype."
        )
