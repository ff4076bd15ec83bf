"""How a router's choice of experts is changed while it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probe.errors import InterventionError
from probe.interventions.routers import TOPK, Router, chosen_of

_LINEAR = (torch.nn.functional.linear, torch.matmul, torch.mm, Tensor.matmul, Tensor.__matmul__, Tensor.mm)


@dataclass(frozen=True)
class Switch:
    """What is done to one router's choice: experts out of it, or in it, at some rows."""

    router: Router
    off: tuple[int, ...] = ()
    on: tuple[int, ...] = ()


class Switching(TorchFunctionMode):
    """While a router runs: its logits are edited where they arise, and its choice follows.

    - off: logit := -inf; whatever a rule adds for its choice, the expert comes last in it.
    - on: the logit is raised just above the token's largest other logit (by 1/128 of it, at least of 1, which every
      dtype can tell apart), and the expert comes first in the choice. What the chosen experts weigh follows from the
      logits by the router's own rule.
    """

    def __init__(self, switch: Switch, rows: Bool[Tensor, "..."] | None) -> None:
        super().__init__()
        self.switch, self.experts = switch, switch.router.experts
        self.rows = rows  # over batch and tokens; None = all
        self.edited = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        keywords = kwargs or {}
        if self.edited and func in TOPK and isinstance(args[0], Tensor):
            return self._choose(func, args, keywords)
        out = func(*args, **keywords)
        if not self.edited and func in _LINEAR and isinstance(out, Tensor) and out.shape[-1] == self.experts:
            self.edited = True
            return self._logits(out)
        return out

    def _logits(self, logits: Tensor) -> Tensor:
        made = logits.clone()
        if self.switch.off:
            made[..., list(self.switch.off)] = float("-inf")
        if self.switch.on:
            others = made.clone()
            others[..., list(self.switch.on)] = float("-inf")
            top = (others if len(self.switch.on) < self.experts else made).amax(-1, keepdim=True)
            raised = top + top.abs().clamp_min(1.0) / 128
            made[..., list(self.switch.on)] = torch.maximum(made[..., list(self.switch.on)], raised)
        return self._at_rows(made, logits)

    def _choose(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value: Tensor = args[0]
        off, on = self._columns(value)
        if not (off or on):
            return func(*args, **kwargs)
        order = value.clamp_min(
            torch.finfo(value.dtype).min
        )  # experts of groups that were left out: before `off`
        order[..., off], order[..., on] = float("-inf"), float("inf")
        found = func(self._at_rows(order, value), *args[1:], **kwargs)
        return torch.return_types.topk((value.gather(-1, found.indices), found.indices))

    def _columns(self, value: Tensor) -> tuple[list[int], list[int]]:
        """The columns of a choice that come last and first: experts, or whole groups of them."""
        width = int(value.shape[-1])
        if width == self.experts:
            return list(self.switch.off), list(self.switch.on)
        if value.ndim != 2 or width < 2 or self.experts % width:
            return [], []
        size = self.experts // width
        off = set(self.switch.off)
        whole = [group for group in range(width) if off.issuperset(range(group * size, (group + 1) * size))]
        return whole, sorted({expert // size for expert in self.switch.on})

    def _at_rows(self, edited: Tensor, value: Tensor) -> Tensor:
        if self.rows is None:
            return edited
        return torch.where(self.rows.reshape(*value.shape[:-1], 1), edited, value)


def require_switched(output: Any, mode: Switching, name: str) -> None:
    """Raise `InterventionError` where a router did not follow: its map was not seen, or its choice is another."""
    module = mode.switch.router.place.module
    chosen = chosen_of(output, mode.switch.router)
    followed = mode.edited
    if followed and chosen is not None:
        if mode.rows is not None and mode.rows.numel() == chosen.shape[0]:
            chosen = chosen[mode.rows.reshape(-1)]
        kept = [bool((chosen == expert).any()) for expert in mode.switch.off]
        missing = [not bool((chosen == expert).any(-1).all()) for expert in mode.switch.on]
        followed = not any(kept) and not any(missing)
    if not followed:
        raise InterventionError(
            f"{name} was asked; router {module!r} did not follow: it chose otherwise than its logits say, so that "
            "experts cannot be switched in this layer: name experts of other layers"
        )


def wrap(module: nn.Module, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[], None]:
    """Put `around(forward)` in the place of a module's forward; what is returned takes it away."""
    before, original = module.__dict__.get("forward"), module.forward
    module.forward = around(original)

    def undo() -> None:
        if before is None:
            module.__dict__.pop("forward", None)
        else:
            module.forward = before

    return undo
