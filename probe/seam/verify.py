"""Proof, once per model, that what the seam sees is what the model computes, and that edits take effect."""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from probe_kernels.types import Attended, Want
from torch import Tensor, nn

from probe.errors import CaptureError, ModelError
from probe.seam.call import AttentionCall
from probe.seam.session import Session

# Largest drift of the outputs, over `Verification.output_size`, by what the model computes in.
_DRIFT = {torch.float64: 1e-6, torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 6e-2}


@dataclass(frozen=True)
class Verification:
    """What was measured on one short input."""

    logit_drift: float  # max |output under probe − native output|, at real positions
    row_sum_error: float  # max |Σ pattern + sink mass − 1| over real rows
    edit_moves: float  # max change of the output when one layer's heads are zeroed
    output_size: float  # largest |native output|, at least 1
    layers: int  # attention layers that ran
    seen: int  # of which reached the seam
    mode: str
    heads: Mapping[str, int] = field(default_factory=dict)  # attention module -> number of query heads


class _RowSums:
    """Observes the mass of every row, and the first layer whose z is not finite."""

    def __init__(self) -> None:
        self.worst = 0.0
        self.broken: str | None = None
        self.heads: dict[str, int] = {}

    def want(self, call: AttentionCall) -> Want:
        """One group that holds every key, so that its mass is the row's sum."""
        everything = torch.zeros(1, call.size[2], dtype=torch.int16, device=call.layout.key_pos.device)
        return Want(z=False, visible=True, key_groups={"verify": everything})

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Keep the worst row."""
        self.heads[call.place.module] = call.n_heads
        if self.broken is None and attended.z is not None and not bool(torch.isfinite(attended.z).all()):
            self.broken = f"the attention of layer {call.place.layer} ({call.place.module})"
        total = attended.key_groups["verify"][..., 0]
        if attended.sink_mass is not None:
            total = total + attended.sink_mass
        visible = attended.visible
        live = call.query_real if visible is None else call.query_real & (visible > 0)
        error = (total - 1).abs().masked_fill(~live[:, None], 0.0)
        self.worst = max(self.worst, float(error.max()) if error.numel() else 0.0)


class _ZeroLayer:
    """Zeroes the output of every head of one attention layer."""

    name = "verify"

    def __init__(self, module: str) -> None:
        self.module = module

    def attended(self, call: AttentionCall, attended: Attended) -> Attended:
        """Set z to 0 in one layer."""
        if call.place.module != self.module or attended.z is None:
            return attended
        return replace(attended, z=torch.zeros_like(attended.z))


_verified: "weakref.WeakKeyDictionary[nn.Module, Verification]" = weakref.WeakKeyDictionary()


def verified(network: nn.Module) -> Verification | None:
    """What an earlier verification of this model found; None if there was none."""
    return _verified.get(network)


def verify(model: Any, inputs: Mapping[str, Any] | None = None, *, again: bool = False) -> Verification:
    """Check a model on one short input: outputs equal native, rows sum to one less sink mass, an edit moves outputs.

    `inputs` are the keyword arguments of one forward (default: 16 fixed token ids). The answer is kept per model.
    Raises `CaptureError` naming what failed, `UnseenLayersError` where no layer is seen, `ModelError` where the model's
    own output is not finite, naming the first layer whose attention is not.
    """
    network: nn.Module = model.model if hasattr(model, "tokenizer") and hasattr(model, "model") else model
    if not again and network in _verified:
        return _verified[network]
    keywords = dict(inputs) if inputs is not None else {"input_ids": _some_tokens(network)}
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            found = _measure(network, keywords)
    finally:
        for module, training in modes:
            module.training = training
    _judge(network, found)
    _verified[network] = found
    return found


def _measure(network: nn.Module, keywords: dict[str, Any]) -> Verification:
    native = _output(network(**keywords))
    rows = _RowSums()
    with Session(network, [rows], mode="fused") as session:
        ours = _output(network(**keywords))
        session.require_seen()
        ran, seen, mode = len(session.hub.ran), len(session.census), session.mode
    if not bool(torch.isfinite(_real(native, keywords)).all()):
        where = "after attention that was finite" if rows.broken is None else f"from {rows.broken} on"
        raise ModelError(
            f"{type(network).__name__} was verified; its own output is NaN or infinite, {where}: "
            "check its weights, or compute in float32 (--dtype float32)"
        )
    moved = float("nan")
    if mode == "fused":
        with Session(network, [], [_ZeroLayer(_last_layer(session))]):
            moved = _distance(_output(network(**keywords)), ours, keywords)
    size = max(1.0, float(_real(native, keywords).abs().max()))
    drift = _distance(ours, native, keywords)
    return Verification(drift, rows.worst, moved, size, ran, seen, mode, rows.heads)


def _last_layer(session: Session) -> str:
    """The last layer that was seen, in the decoder if there is one: its output goes straight into the model's."""
    places = session.hub.places
    names = list(session.census)
    return next((name for name in reversed(names) if places[name].tower == "decoder"), names[-1])


def _judge(network: nn.Module, found: Verification) -> None:
    name = type(network).__name__
    allowed = _DRIFT.get(next(network.parameters()).dtype, 6e-2) * found.output_size
    if not found.logit_drift <= allowed:
        raise CaptureError(
            f"{name} was verified; its output under probe differs from its own by {found.logit_drift:.2e} "
            f"(allowed {allowed:.0e}): its attention does something the seam does not know; "
            "use mode='shadow'"
        )
    if found.row_sum_error > 5e-3:
        raise CaptureError(
            f"{name} was verified; rows of its pattern miss a sum of one by {found.row_sum_error:.2e}; "
            "please report the model"
        )
    if found.edit_moves == 0.0:
        raise CaptureError(
            f"{name} was verified; zeroing a whole layer of heads did not move its output: "
            "edits do not take effect; please report the model"
        )


def _output(out: Any) -> Tensor:
    for name in ("logits", "last_hidden_state", "logits_per_image", "pooler_output", "image_embeds"):
        value = getattr(out, name, None)
        if isinstance(value, Tensor):
            return value.detach().float()
    first = out[0] if isinstance(out, tuple | list) or hasattr(out, "__getitem__") else out
    if not isinstance(first, Tensor):
        raise CaptureError(
            f"verify was asked of a model whose output {type(out).__name__} holds no logits or states"
        )
    return first.detach().float()


def _distance(one: Tensor, other: Tensor, keywords: dict[str, Any]) -> float:
    """Largest difference at real positions."""
    gap = _real((one - other).abs(), keywords)
    return float(gap.max()) if gap.numel() else 0.0


def _real(output: Tensor, keywords: dict[str, Any]) -> Tensor:
    """The output at real positions, where a padding mask tells them."""
    mask = keywords.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2 and output.ndim == 3 and mask.shape == output.shape[:2]:
        return output[mask.bool()]
    return output


def _some_tokens(network: nn.Module) -> Tensor:
    """Sixteen token ids, within the model's vocabulary."""
    size = getattr(getattr(network, "config", None), "vocab_size", None) or 17
    return (torch.arange(1, 17, device=next(network.parameters()).device) % size)[None]
