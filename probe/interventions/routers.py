"""Routers of mixtures of experts: where they are, how many experts they choose, and how their choice is changed.

A router is what a model records as ``router_logits``: a module with one linear map from the residual stream to a score
per expert. Routing rules differ (softmax or sigmoid, a bias for the choice, groups of experts); what they share is that
map, and that experts are chosen by ``topk`` or ``argmax`` over the last axis. Both are watched while a router runs.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probe.errors import InterventionError, UnknownNameError, UsageError
from probe.interventions.writers import made_up_inputs
from probe.seam.call import Place
from probe.seam.places import places
from probe.seam.recorded import block_places, blocks, recorded
from probe.terms import TOWER_PREFIX

_EXPERT = re.compile(r"((?:[a-z]+\.)?)L(\d+)\.E(\d+)")
_PREFIX_TOWER = {prefix: tower for tower, prefix in TOWER_PREFIX.items()}
TOPK = (torch.topk, Tensor.topk)
_ARGMAX = (torch.argmax, Tensor.argmax)


@dataclass(frozen=True, order=True)
class ExpertId:
    """One routed expert of one layer, written ``L3.E7``; other towers take a prefix: ``enc.L3.E7``."""

    tower: str
    layer: int
    expert: int

    def __str__(self) -> str:
        return f"{TOWER_PREFIX.get(self.tower, self.tower + '.')}L{self.layer}.E{self.expert}"

    @classmethod
    def parse(cls, text: str) -> "ExpertId":
        """Read an expert's name; raises `UsageError` on anything else."""
        match = _EXPERT.fullmatch(text.strip())
        if match is None:
            raise UsageError(
                f"an expert was asked as {text!r}; experts are written like L3.E7 (or enc.L3.E7)"
            )
        return cls(_PREFIX_TOWER.get(match[1], match[1].rstrip(".")), int(match[2]), int(match[3]))


@dataclass(frozen=True)
class Router:
    """One layer's router: its module, its number of experts, and how many it chooses (None: not known)."""

    place: Place  # the router's own module
    experts: int
    chooses: int | None = None


def routers(model: nn.Module, name: str) -> list[Router]:
    """The routers of a model's feed-forward parts, in forward order; routed heads inside attention do not count.

    Raises:
        InterventionError: the model records no routers, or one that is not a single map to a score per expert.
    """
    attention = places(model)
    found = blocks(model)
    where = block_places(found, attention)
    made = []
    for one in recorded(model, "router_logits"):
        if any(f"{one.name}.".startswith(f"{inside}.") for inside in attention):
            continue
        owner = next((block for block in found if one.name.startswith(f"{block.name}.")), None)
        maps = [weight for weight in one.module.parameters() if weight.ndim >= 2]
        if owner is None or len(maps) != 1 or maps[0].ndim != 2:
            raise InterventionError(
                f"{name} was asked; router {one.name!r} of {type(model).__name__} is not one linear map from the "
                "residual stream to a score per expert, so its experts cannot be switched"
            )
        place = Place(one.name, where[owner.name].tower, where[owner.name].layer)
        made.append(Router(place, int(maps[0].shape[0])))
    if not made:
        raise InterventionError(
            f"{name} was asked; {type(model).__name__} records no router (`_can_record_outputs`): "
            "it has no experts that could be switched"
        )
    return made


def require_experts(found: Iterable[Router], asked: Iterable[ExpertId]) -> None:
    """Raise `UnknownNameError` for an expert that the model does not have."""
    known = [
        str(ExpertId(router.place.tower, router.place.layer, expert))
        for router in found
        for expert in range(router.experts)
    ]
    for one in asked:
        if str(one) not in known:
            raise UnknownNameError.of("expert", str(one), known)


def counts(model: nn.Module, found: Iterable[Router], name: str) -> dict[str, int]:
    """How many experts each router chooses per token, seen in one forward on made-up inputs.

    Routers that choose in another way than by ``topk`` or ``argmax``, and do not return their choice, are left out.
    """
    watched = list(found)
    seen = _Counting({router.place.module: router.experts for router in watched})
    handles = []
    for router in watched:
        module = model.get_submodule(router.place.module)
        handles.append(module.register_forward_pre_hook(functools.partial(_begin, seen, router)))
        handles.append(module.register_forward_hook(functools.partial(_end, seen, router)))
    try:
        with torch.no_grad(), seen:
            model(**made_up_inputs(model, name))
    finally:
        for handle in handles:
            handle.remove()
    return seen.chosen


def _begin(seen: "_Counting", router: Router, *_: object) -> None:
    seen.begin(router.place.module)


def _end(seen: "_Counting", router: Router, _module: object, _args: object, output: Any) -> None:
    seen.end(router, output)


class _Counting(TorchFunctionMode):
    """Counts, per router, how many experts are chosen after its map."""

    def __init__(self, experts: Mapping[str, int]) -> None:
        super().__init__()
        self.experts = experts
        self._by: dict[str, dict[str, int]] = {}
        self._current = ""

    def begin(self, module: str) -> None:
        self._current = module
        self._by[module] = {}

    def end(self, router: Router, output: Any) -> None:
        chosen = chosen_of(output, router)
        if chosen is not None:
            self._by[router.place.module]["output"] = int(chosen.shape[-1])

    @property
    def chosen(self) -> dict[str, int]:
        rank = ("topk", "output", "argmax")
        return {
            module: next(by[kind] for kind in rank if kind in by) for module, by in self._by.items() if by
        }

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        value = args[0] if args and isinstance(args[0], Tensor) else None
        if (
            self._current
            and value is not None
            and value.ndim
            and value.shape[-1] == self.experts[self._current]
        ):
            by = self._by[self._current]
            if func in TOPK:
                by.setdefault("topk", int(out.indices.shape[-1]))
            elif func in _ARGMAX:
                by["argmax"] = by.get("argmax", 0) + 1
        return out


def chosen_of(output: Any, router: Router) -> Tensor | None:
    """The numbers of the experts that a router's output says it chose, ``[token, chosen]``; None where it does not."""
    for one in output if isinstance(output, tuple | list) else ():
        if (
            isinstance(one, Tensor)
            and not one.is_floating_point()
            and one.ndim == 2
            and one.shape[-1] < router.experts
        ):
            return one
    return None
