"""Where a relevance rule acts in a model: its norms, its elementwise maps, and linear maps that are given a product.

Nothing here knows a module by name: norms by what they answer, elementwise maps by which outputs one changed input
moves, products by what a linear map was given in one forward.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from probe.circuits.anatomy import anatomy_of
from probe.circuits.norms import Norm, norm_of
from probe.models import LoadedModel
from probe.readouts.evaluating import evaluating
from probe.seam.points import first_tensor, hidden_input
from probe.seam.projection import widths

_TOKENS = 7  # of the forward that is looked at
_CHUNKS = (2,)  # a linear map that makes gate and value at once is split in two


@dataclass(frozen=True)
class Sites:
    """Modules by the rule that acts on them; the layers where a rule has nothing to act on, though an MLP is there."""

    norms: tuple[Norm, ...]
    elementwise: tuple[nn.Module, ...]
    products: tuple[nn.Module, ...]  # linear maps that are given an elementwise map's output times another's
    unread: tuple[
        int, ...
    ]  # layers with an MLP whose elementwise map is no module, or whose parts did not all run
    unmultiplied: tuple[
        int, ...
    ]  # layers whose elementwise map leads to no linear map: a product may lie there


@dataclass
class _Ran:
    """What leaf modules were given and made in one forward."""

    calls: dict[nn.Module, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)

    def hook(self, module: nn.Module) -> Callable[..., None]:
        def seen(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            given, made = hidden_input(args, kwargs), first_tensor(output)
            if given is not None and made is not None:
                self.calls.setdefault(module, []).append((given.detach(), made.detach()))

        return seen


_known: "weakref.WeakKeyDictionary[nn.Module, Sites]" = weakref.WeakKeyDictionary()


def sites_of(loaded: LoadedModel) -> Sites:
    """The sites of a decoder, found once per model; raises what `anatomy_of` does."""
    if loaded.model not in _known:
        _known[loaded.model] = _look(loaded)
    return _known[loaded.model]


def _look(loaded: LoadedModel) -> Sites:
    anatomy = anatomy_of(loaded)
    ran = _run(loaded)
    norms = [
        norm_of(module, int(calls[0][0].shape[-1])) for module, calls in ran.calls.items() if _alike(calls)
    ]
    elementwise: list[nn.Module] = []
    products: list[nn.Module] = []
    unread, unmultiplied = [], []
    for block in anatomy.blocks:
        leaves = [one for one in block.module.modules() if not list(one.children())]
        maps = [one for one in leaves if one in ran.calls and _elementwise(one, ran.calls[one])]
        given = {one: [x for x, _ in ran.calls[one]] for one in leaves if one in ran.calls and widths(one)}
        made = [y for one in given for _, y in ran.calls[one]]
        acted = [y for one in maps for _, y in ran.calls[one]]
        elementwise += maps
        found = [one for one, inputs in given.items() if _is_product(inputs, acted, made)]
        products += found
        asleep = any(widths(one) and one not in ran.calls for one in leaves)
        if block.mlp is not None and (not maps or asleep):
            unread.append(block.place.layer)
        plain = any(_same(x, y) for inputs in given.values() for x in inputs for y in acted)
        if block.mlp is not None and (asleep or not (found or plain)):
            unmultiplied.append(block.place.layer)
    kept = tuple(one for one in norms if one is not None)
    return Sites(kept, _once(elementwise), _once(products), tuple(unread), tuple(unmultiplied))


def _run(loaded: LoadedModel) -> _Ran:
    model: Any = loaded.model
    ran = _Ran()
    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [one.register_forward_hook(ran.hook(one), with_kwargs=True) for one in leaves]
    vocabulary = int(model.get_output_embeddings().weight.shape[0])
    ids = torch.arange(1, 1 + _TOKENS, device=loaded.device)[None] % vocabulary
    try:
        with evaluating(model), torch.no_grad():
            model(input_ids=ids)
    finally:
        for handle in handles:
            handle.remove()
    return ran


def _alike(calls: list[tuple[Tensor, Tensor]]) -> bool:
    return all(given.shape == made.shape for given, made in calls)


def _elementwise(module: nn.Module, calls: list[tuple[Tensor, Tensor]]) -> bool:
    """Without parameters, 0 at 0, not the identity, and one changed input moves one output."""
    given, made = calls[0]
    if next(module.parameters(), None) is not None or not _alike(calls) or torch.equal(given, made):
        return False
    changed = given.clone()
    changed[..., ::2] += 1
    try:
        with torch.no_grad():
            other, nothing = module(changed), module(torch.zeros_like(given))
    except (TypeError, RuntimeError, ValueError):
        return False
    if not isinstance(other, Tensor) or other.shape != made.shape:
        return False
    return bool(torch.equal(other[..., 1::2], made[..., 1::2]) and not nothing.any())


def _is_product(inputs: list[Tensor], acted: list[Tensor], made: list[Tensor]) -> bool:
    """Whether what a linear map was given is an elementwise map's output times a linear map's, or a part of one's."""
    for x in inputs:
        for a in acted:
            for u in made:
                if a.shape == x.shape and any(_same(a * part, x) for part in _parts(u, x)):
                    return True
    return False


def _parts(whole: Tensor, like: Tensor) -> list[Tensor]:
    if whole.shape == like.shape:
        return [whole]
    for count in _CHUNKS:
        if whole.shape[:-1] == like.shape[:-1] and whole.shape[-1] == count * like.shape[-1]:
            return list(whole.chunk(count, dim=-1))
    return []


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _once(modules: list[nn.Module]) -> tuple[nn.Module, ...]:
    return tuple(dict.fromkeys(modules))
