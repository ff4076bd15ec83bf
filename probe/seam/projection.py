"""The output projection of an attention module, W_O, found by shape and by what it is given; never by name.

A head's output in the residual stream is ``head_out[h] = x_h · W_O[h]``, where x is what the projection is
given and x_h its slice for head h. In most models x is z itself; some gate or normalise z first, then x is
what counts, and Σ_h head_out[h] + bias is the attention module's output in every case (Elhage et al. 2021, A
Mathematical Framework for Transformer Circuits).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from probe.errors import CaptureError
from probe.seam.recorded import blocks
from probe.shapes import Z


def head_slices(n_heads: int, d_head: int) -> list[slice]:
    """Where each head's part lies in the projection's input."""
    return [slice(head * d_head, (head + 1) * d_head) for head in range(n_heads)]


@dataclass(frozen=True)
class Projection:
    """W_O of one attention module; `exact` says that it is given z itself, unchanged."""

    name: str
    module: nn.Module
    n_heads: int
    d_head: int
    exact: bool

    def head_out(
        self, given: Float[Tensor, "batch query_pos width"], heads: list[int]
    ) -> Float[Tensor, "batch head query_pos d_model"]:
        """What each of `heads` adds to the residual stream, without the bias, from the projection's input.

        Weights that are not a plain matrix (quantised, adapters) are applied one head at a time.
        """
        weight = matrix(self.module)
        slices = head_slices(self.n_heads, self.d_head)
        if weight is not None:
            return torch.stack([given[..., slices[h]] @ weight[slices[h]] for h in heads], dim=1)
        zero = self.module.forward(torch.zeros_like(given[:1, :1]))
        parts = []
        for head in heads:
            alone = torch.zeros_like(given)
            alone[..., slices[head]] = given[..., slices[head]]
            parts.append(self.module.forward(alone) - zero)
        return torch.stack(parts, dim=1)


def matrix(module: nn.Module) -> Float[Tensor, "width d_model"] | None:
    """The weight as ``x @ matrix``; None unless the module is exactly a linear map by one floating matrix."""
    if type(module) is nn.Linear and module.weight.is_floating_point():
        return module.weight.T
    if type(module) is Conv1D:
        return cast(Tensor, module.weight)
    return None


def widths(module: nn.Module) -> tuple[int, int] | None:
    """``(input, output)`` width of a linear map, None for any other module."""
    if isinstance(module, Conv1D):
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    given, made = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return (given, made) if isinstance(given, int) and isinstance(made, int) else None


def linear_maps(model: nn.Module, attention: str) -> dict[str, nn.Module]:
    """The linear maps among which an attention module's output projection is found.

    They are those of the block's child that holds the attention (BERT keeps the projection beside the
    attention module, not in it); of the module and its parent where the model declares no blocks.
    """
    scope = _scope(model, attention)
    found = {f"{scope}.{name}": m for name, m in model.get_submodule(scope).named_modules() if widths(m)}
    outer = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    return {name: found[name] for name in outer}


def _scope(model: nn.Module, attention: str) -> str:
    owner = next((b.name for b in blocks(model) if attention.startswith(f"{b.name}.")), None)
    if owner is None:
        return attention.rpartition(".")[0] or attention
    steps = attention[len(owner) + 1 :].split(".")
    depth = 1
    while depth < len(steps) and isinstance(
        model.get_submodule(".".join([owner, *steps[:depth]])), nn.ModuleList
    ):
        depth += 1
    return ".".join([owner, *steps[:depth]])


Given = Callable[[str, Projection, Tensor], None]


class ProjectionWatch:
    """Watches what output projections are given: once a layer's z was `seen`, the input goes to `sink`.

    `sink(attention, projection, x)` gets ``x [batch, query_pos, width]``, at the end of the block's child
    that holds the attention. Raises `CaptureError` there if no linear map, or more than one, could be the
    projection.
    """

    def __init__(self, model: nn.Module, attention: list[str], sink: Given) -> None:
        self._sink = sink
        self._waiting: dict[str, Z] = {}
        self._given: dict[str, dict[str, tuple[nn.Module, Tensor, Tensor]]] = {}
        self._handles: list[Any] = []
        self.projections: dict[str, Projection] = {}
        for name in attention:
            for inner, module in linear_maps(model, name).items():
                self._handles.append(module.register_forward_hook(self._note(name, inner)))
            scope = model.get_submodule(_scope(model, name))
            self._handles.append(scope.register_forward_hook(self._finish(name)))

    def seen(self, attention: str, z: Z) -> None:
        """Tell that `attention` has just made `z`; linear maps called from now on count."""
        self._waiting[attention] = z
        self._given[attention] = {}

    def close(self) -> None:
        """Take every hook off."""
        while self._handles:
            self._handles.pop().remove()
        self._waiting.clear()
        self._given.clear()

    def _note(self, attention: str, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            z = self._waiting.get(attention)
            fits = widths(module)
            if z is None or fits is None or not args or not isinstance(output, Tensor):
                return
            if fits[0] == z.shape[1] * z.shape[3]:
                rows = (z.shape[0], z.shape[2])
                self._given[attention][name] = (module, args[0].reshape(*rows, -1), output)

        return hook

    def _finish(self, attention: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: object, output: Any) -> None:
            z = self._waiting.pop(attention, None)
            given = self._given.pop(attention, {})
            if z is None:
                return
            name, exact = choose(attention, z, {n: (x, y) for n, (_, x, y) in given.items()}, output)
            projection = Projection(name, given[name][0], z.shape[1], z.shape[3], exact)
            self.projections[attention] = projection
            self._sink(attention, projection, given[name][1])

        return hook


def choose(attention: str, z: Z, given: Mapping[str, tuple[Tensor, Tensor]], output: Any) -> tuple[str, bool]:
    """Which linear map is the projection, and whether it was given z itself.

    `given` maps names to (input, output) of the maps of fitting width that ran after z was made. The one
    that was given z wins; else the one that made the module's output; else the only one; else
    `CaptureError`.
    """
    flat = z.transpose(1, 2).flatten(2)
    for name, (x, _) in given.items():
        if x.shape == flat.shape and torch.allclose(x, flat.to(x.dtype), rtol=1e-5, atol=1e-6):
            return name, True
    whole = output[0] if isinstance(output, tuple | list) else output
    made = [
        n
        for n, (_, y) in given.items()
        if isinstance(whole, Tensor) and y.shape == whole.shape and torch.equal(y, whole)
    ]
    if len(made) == 1:
        return made[0], False
    if len(given) == 1:
        return next(iter(given)), False
    found = ", ".join(given) if given else "none"
    raise CaptureError(
        f"head_out was asked of {attention!r}; linear maps that take its {z.shape[1]} heads × {z.shape[3]} "
        f"after attention are: {found}. One is needed: capture z instead"
    )
