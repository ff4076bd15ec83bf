"""What an attention module is given, and the norms in front of it and inside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probe.circuits.anatomy import Block
from probe.circuits.calls import Calls, same
from probe.circuits.norms import Norm, norm_of
from probe.errors import CaptureError
from probe.models import LoadedModel
from probe.readouts.evaluating import evaluating

_TOKENS = 5  # of the forward that is looked at


@dataclass(frozen=True)
class InputNorm:
    """The norm that made what attention is given (None: it reads the stream itself), and norms inside attention."""

    attention: nn.Module
    width: int
    norm: Norm | None
    inner: tuple[Norm, ...]


@torch.no_grad()
def attention_inputs(loaded: LoadedModel, blocks: Sequence[Block]) -> dict[int, InputNorm]:
    """By layer; raises `CaptureError` where what attention is given is neither the stream nor a norm of it."""
    model: Any = loaded.model
    attentions = {block.place.layer: model.get_submodule(block.attention) for block in blocks}
    widths = _Widths(attentions.values())
    ids = torch.arange(1, 1 + _TOKENS, device=loaded.device)[None]
    try:
        with evaluating(model), Calls(model) as calls:
            model(input_ids=ids % int(model.get_output_embeddings().weight.shape[0]))
    finally:
        widths.close()
    found = {}
    for block in blocks:
        attention = attentions[block.place.layer]
        inner = [norm_of(one, widths.seen[one]) for one in attention.modules() if one in widths.seen]
        norm, width = _norm(calls, block)
        found[block.place.layer] = InputNorm(
            attention, width, norm, tuple(one for one in inner if one is not None)
        )
    return found


def _norm(calls: Calls, block: Block) -> tuple[Norm | None, int]:
    whole, own = calls.of_module(block.module), calls.of(block.attention or "")
    if whole is None or own is None or own.given is None or whole.given is None:
        raise CaptureError(
            f"weights of {block.place.module} were asked; what its attention is given could not be seen"
        )
    width = int(own.given.shape[-1])
    if same(own.given, whole.given):
        return None, width
    for one in calls.within(whole.name):
        if one.ended < own.begun and one.made is not None and same(one.made, own.given):
            norm = norm_of(one.module, width)
            if norm is not None and one.given is not None and same(one.given, whole.given):
                return norm, width
    raise CaptureError(
        f"weights of {block.place.module} were asked; its attention reads neither the stream nor a norm of it: use "
        "methods that run the model"
    )


class _Widths:
    """The last axis of what each leaf of some modules is given."""

    def __init__(self, modules: Any) -> None:
        self.seen: dict[nn.Module, int] = {}
        leaves = [
            one for module in modules for one in module.modules() if not any(True for _ in one.children())
        ]
        self._handles = [one.register_forward_pre_hook(self._note) for one in leaves]

    def _note(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            self.seen[module] = int(args[0].shape[-1])

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
