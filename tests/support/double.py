"""Models in float64 throughout, for identities that hold exactly."""

from typing import Any

import torch
from torch import nn


def in_double(model: Any) -> Any:
    """The model in float64: RMS norms that work in float32 by themselves are replaced by ones that do not."""
    model = model.double()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                weight = child.weight.detach()
                own = nn.RMSNorm(len(weight), eps=1e-6, dtype=torch.float64)
                # Gemma's norms hold what is added to 1.
                own.weight.data = weight + 1.0 if "Gemma" in type(child).__name__ else weight
                setattr(module, name, own)
    return model.eval()
