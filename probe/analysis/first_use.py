"""Verification where a model is first observed by our kernel, or edited, and what it says about later runs."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from probe.seam.hub import hub_of
from probe.seam.places import submodels
from probe.seam.verify import Verification, verified, verify


def verify_on_first_use(network: nn.Module) -> Verification | None:
    """Verify a model once, on a few token ids; None where that must wait for inputs of its own.

    A model that needs more than token ids (pixels, an encoder's and a decoder's tokens) is verified by `analyze`, or by
    ``probe.verify(model, inputs)``. A model that is being observed is not run behind its observers' back.

    Raises:
        CaptureError: the model's output under probe is not its own, or edits would not take effect.
    """
    known = verified(network)
    if known is not None or hub_of(network) is not None or not _reads_tokens_alone(network):
        return known
    return verify(network)


def drift_of(network: nn.Module, mode: str) -> float | None:
    """The drift that a run of this mode has: none in shadow, the verified one in fused; None where nobody knows."""
    if mode == "shadow":
        return 0.0
    known = verified(network)
    return known.logit_drift if known is not None and mode == "fused" else None


def _reads_tokens_alone(network: nn.Module) -> bool:
    if not isinstance(network, PreTrainedModel) or network.main_input_name != "input_ids":
        return False
    config: Any = network.config
    beside = [sub for name, sub in submodels(network).items() if name and sub.main_input_name != "input_ids"]
    return not getattr(config, "is_encoder_decoder", False) and not beside
