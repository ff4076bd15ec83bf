"""What an unfinished run must share with a call for that call to resume it."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from probe import __version__
from probe.analysis.inputs import Inputs
from probe.analysis.options import AnalyzeOptions
from probe.models import LoadedModel

_SAMPLE = 256  # values of every parameter that stand for it


def fingerprint(
    loaded: LoadedModel,
    inputs: Inputs,
    specs: Sequence[str],
    interventions: Sequence[Any],
    options: AnalyzeOptions,
) -> dict[str, Any]:
    """Everything that decides the numbers, by name, so that a difference can be named."""
    source = loaded.source
    return {
        "model": [loaded.name, source.revision, source.sha256 or weights_digest(loaded.model), source.dtype],
        "device": loaded.device.type,
        "prompts": inputs.digest(),
        "metrics": list(specs),
        "interventions": [repr(one) for one in interventions],
        "options": {
            name: getattr(options, name)
            for name in (
                "mode",
                "keep",
                "chunk",
                "batch_size",
                "seed",
                "deterministic",
                "kernels",
                "baseline",
            )
        },
        "versions": {"probe": __version__, "torch": torch.__version__},
    }


def weights_digest(model: nn.Module) -> str:
    """sha256 over the configuration and a sample of every parameter: cheap, and different for other weights."""
    total = hashlib.sha256()
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "to_dict"):
        total.update(json.dumps(config.to_dict(), sort_keys=True, default=str).encode())
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        step = max(1, flat.numel() // _SAMPLE)
        total.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        total.update(flat[::step].to("cpu", torch.float32).numpy().tobytes())
    return total.hexdigest()
