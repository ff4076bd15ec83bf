"""Weight surgery by hand: z and residual streams of a float64 copy of a model, read and replaced by plain hooks."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from probe.seam.places import places
from probe.seam.recorded import block_places, blocks

Layer = tuple[str, int]  # tower and layer
Change = Callable[[Tensor], Tensor]


def exact(model: nn.Module) -> nn.Module:
    """A float64 copy that attends in the plain way."""
    made = copy.deepcopy(model).double()
    made.set_attn_implementation("eager")
    made.config._experts_implementation = "eager"  # grouped matrix products know no float64
    return made


def _projections(model: nn.Module) -> dict[Layer, tuple[nn.Module, int]]:
    found = {}
    for name, place in places(model).items():
        attention = model.get_submodule(name)
        last = next(getattr(attention, n) for n in ("o_proj", "c_proj", "o") if hasattr(attention, n))
        config = model.config
        found[place.tower, place.layer] = (last, config.num_attention_heads)
    return found


@contextmanager
def z_changed(model: nn.Module, changes: dict[Layer, Change]) -> Iterator[None]:
    """While open, z ``[batch, head, token, d_head]`` of each named layer goes through its change."""
    handles = []
    for layer, (projection, n_heads) in _projections(model).items():
        if layer in changes:
            handles.append(projection.register_forward_pre_hook(_at_z(changes[layer], n_heads)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _at_z(change: Change, n_heads: int) -> Callable[..., tuple[Tensor]]:
    def hook(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        flat = args[0]
        z = flat.unflatten(-1, (n_heads, -1)).transpose(1, 2)
        return (change(z).transpose(1, 2).reshape(flat.shape),)

    return hook


@contextmanager
def stream_changed(model: nn.Module, changes: dict[Layer, Change]) -> Iterator[None]:
    """While open, the stream ``[batch, token, d_model]`` entering each named layer goes through its change."""
    found = blocks(model)
    where = block_places(found, places(model))
    handles = []
    for block in found:
        layer = (where[block.name].tower, where[block.name].layer)
        if layer in changes:
            handles.append(
                block.module.register_forward_pre_hook(_at_stream(changes[layer]), with_kwargs=True)
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _at_stream(change: Change) -> Callable[..., tuple[tuple[Tensor, ...], dict[str, Tensor]]]:
    def hook(_module, args, kwargs):  # type: ignore[no-untyped-def]
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    return hook


def z_of(model: nn.Module, **inputs: Tensor) -> dict[Layer, Tensor]:
    """z of every layer in one run."""
    kept: dict[Layer, Tensor] = {}
    with torch.no_grad(), z_changed(model, {layer: _keep(kept, layer) for layer in _projections(model)}):
        model(**inputs)
    return kept


def streams_of(model: nn.Module, **inputs: Tensor) -> dict[Layer, Tensor]:
    """The stream entering every layer in one run."""
    kept: dict[Layer, Tensor] = {}
    layers = [(place.tower, place.layer) for place in places(model).values() if place.tower != "cross"]
    with torch.no_grad(), stream_changed(model, {layer: _keep(kept, layer) for layer in layers}):
        model(**inputs)
    return kept


def _keep(kept: dict[Layer, Tensor], layer: Layer) -> Change:
    def keep(value: Tensor) -> Tensor:
        kept[layer] = value
        return value

    return keep


def with_heads(value: Tensor, heads: list[int]) -> Change:
    """A change that puts `value` (broadcast over the rest) in the place of some heads' z."""

    def change(z: Tensor) -> Tensor:
        changed = z.clone()
        changed[:, heads] = value.to(z.dtype).expand_as(z)[:, heads]
        return changed

    return change
