"""Modules that a transformers model itself declares for a kind of output, found as transformers finds them.

`PreTrainedModel._can_record_outputs` maps ``hidden_states``, ``router_logits``, … to the classes whose
outputs they are. Reading it finds blocks and routers in every architecture without knowing any module's
name.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from probe.seam.call import Place


@dataclass(frozen=True)
class Recorded:
    """A module whose output a model declares: its name, itself, and the tensor's place in its output."""

    name: str
    module: nn.Module
    index: int


def recorded(model: nn.Module, key: str) -> list[Recorded]:
    """Every module of `model` that it declares under `key`, in forward order of the module tree.

    Each submodel's declaration holds for its own part of the tree, as in transformers' own output capturing.
    """
    return list(_walk(model, "", _specs(model, key), key))


def _walk(module: nn.Module, name: str, specs: list[Any], key: str) -> Iterator[Recorded]:
    for spec in specs:
        if _matches(spec, module, name):
            yield Recorded(name, module, _index(spec, key))
            break
    for child_name, child in module.named_children():
        inner = _specs(child, key) if isinstance(child, PreTrainedModel) else specs
        yield from _walk(child, f"{name}.{child_name}" if name else child_name, inner, key)


def _specs(model: nn.Module, key: str) -> list[Any]:
    declared = getattr(model, "_can_record_outputs", None) or {}
    specs = declared.get(key, [])
    return list(specs) if isinstance(specs, list | tuple) else [specs]


def _matches(spec: Any, module: nn.Module, name: str) -> bool:
    if isinstance(spec, str):
        return type(module).__name__ == spec
    if isinstance(spec, type):
        return isinstance(module, spec)
    named = spec.layer_name is None or f".{spec.layer_name.strip('.')}." in f".{name}."
    if spec.target_class is not None and isinstance(module, spec.target_class):
        return named
    return spec.class_name is not None and type(module).__name__ == spec.class_name and named


def _index(spec: Any, key: str) -> int:
    if isinstance(spec, str | type):
        return 0 if key == "hidden_states" else 1
    return int(spec.index)


def blocks(model: nn.Module) -> list[Recorded]:
    """The blocks of `model`: what it declares as ``hidden_states``, else its checkpointable layers."""
    found = recorded(model, "hidden_states")
    if found:
        return found
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, GradientCheckpointingLayer)]
    outer = [(n, m) for n, m in layers if not any(n.startswith(f"{other}.") for other, _ in layers)]
    return [Recorded(name, module, 0) for name, module in outer]


def block_places(found: list[Recorded], attention: dict[str, Place]) -> dict[str, Place]:
    """Tower and layer of each block, read off the attention inside it, or off its neighbours.

    A block with self- and cross-attention belongs to the tower of its self-attention.
    """
    places: dict[str, Place] = {}
    tower_of: dict[str, str] = {}
    for block in found:
        inner = [place for name, place in attention.items() if name.startswith(f"{block.name}.")]
        inner.sort(key=lambda place: place.tower == "cross")
        if inner:
            tower = "decoder" if inner[0].tower == "cross" else inner[0].tower
            places[block.name] = Place(block.name, tower, inner[0].layer)
            tower_of.setdefault(block.name.rpartition(".")[0], tower)
    for order, block in enumerate(found):
        if block.name not in places:
            siblings, _, last = block.name.rpartition(".")
            layer = int(last) if last.isdigit() else order
            places[block.name] = Place(block.name, tower_of.get(siblings, "decoder"), layer)
    return {block.name: places[block.name] for block in found}
