"""Which module of a block is its MLP, found by what it returns, never by its name.

A direct child of the block that holds no attention, has weights, and returns ``[batch, token, d_model]``.
Where such a child has already added the residual (it returns the block's own output, as in T5 and BERT), the
search goes one level down, so that what is taken is what the MLP adds.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from probe.errors import CaptureError
from probe.seam.recorded import Recorded

Children = dict[str, nn.Module]


def mlp_candidates(found: list[Recorded], attention: set[str]) -> dict[str, Children]:
    """Per block, the direct children that could be its MLP.

    In blocks without registry attention (linear attention, state space), children whose name also occurs
    beside attention in other blocks go first, so that the token mixer is not taken for an MLP.
    """
    options = {block.name: _options(block, attention) for block in found}
    with_attention = [b.name for b in found if any(a.startswith(f"{b.name}.") for a in attention)]
    beside = {child for name in with_attention for child in options[name]}
    for name, children in options.items():
        shared = {child: module for child, module in children.items() if child in beside}
        if name not in with_attention and shared:
            options[name] = shared
    return options


def _options(block: Recorded, attention: set[str]) -> Children:
    return {
        name: child
        for name, child in _children(block.module)
        if _weights(child) and not any(f"{a}.".startswith(f"{block.name}.{name}.") for a in attention)
    }


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Direct children, looking through module lists."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            for inner_name, inner in _children(child):
                yield f"{name}.{inner_name}", inner
        else:
            yield name, child


def _weights(module: nn.Module) -> int:
    return sum(1 for weight in module.parameters() if weight.ndim >= 2)


class MlpWatch:
    """Finds a block's MLP in the block's first forward and sends that module's output on, every time."""

    def __init__(self, block: Recorded, candidates: Children, emit: Callable[[Tensor], None]) -> None:
        self.found = False
        self._block = block
        self._candidates = candidates
        self._emit = emit
        self._outputs: dict[int, Tensor] = {}
        inner = {id(m): m for child in candidates.values() for m in child.modules()}
        self._handles = [module.register_forward_hook(self._note) for module in inner.values()]
        self._handles.append(block.module.register_forward_hook(self._decide))

    def close(self) -> None:
        """Take the hooks off."""
        while self._handles:
            self._handles.pop().remove()
        self._outputs.clear()

    def _note(self, module: nn.Module, _args: object, output: Any) -> None:
        value = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(value, Tensor):
            self._outputs[id(module)] = value

    def _decide(self, _module: nn.Module, _args: object, output: Any) -> None:
        whole = output[self._block.index] if isinstance(output, tuple | list) else output
        mlp = self._search(self._candidates, whole)
        value = self._outputs.get(id(mlp)) if mlp is not None else None
        self.close()
        if mlp is None or value is None:
            return
        self.found = True
        self._handles = [
            mlp.register_forward_hook(self._note),
            self._block.module.register_forward_hook(self._send(mlp)),
        ]
        self._emit(value.reshape(whole.shape))

    def _send(self, mlp: nn.Module) -> Callable[..., None]:
        """Sends the MLP's output at the end of its block, when the shape of the hidden states is known."""

        def hook(_module: nn.Module, _args: object, output: Any) -> None:
            whole = output[self._block.index] if isinstance(output, tuple | list) else output
            value = self._outputs.pop(id(mlp), None)
            if value is not None:
                self._emit(value.reshape(whole.shape))

        return hook

    def _search(self, children: Children, whole: Tensor) -> nn.Module | None:
        """The one child that returns hidden states; inside it, if it already added the residual."""
        fits = {name: child for name, child in children.items() if self._fits(child, whole)}
        if len(fits) > 1:  # a gate or per-layer projection beside an MLP of several weights
            fits = {name: child for name, child in fits.items() if _weights(child) > 1} or fits
        if len(fits) > 1:
            names = ", ".join(f"{self._block.name}.{name}" for name in fits)
            raise CaptureError(
                f"mlp_out was asked; block {self._block.name!r} has several children that could be its MLP "
                f"({names}): hook the one you mean yourself"
            )
        for child in fits.values():
            if torch.equal(self._outputs[id(child)].reshape(whole.shape), whole):
                inner = {name: module for name, module in _children(child) if _weights(module)}
                return self._search(inner, whole) or child
            return child
        return None

    def _fits(self, child: nn.Module, whole: Tensor) -> bool:
        value = self._outputs.get(id(child))
        return value is not None and value.shape[-1] == whole.shape[-1] and value.numel() == whole.numel()
