"""Every module's first hidden-state input and output in one forward, in the order in which they ran."""

from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from probe.seam.points import first_tensor, hidden_input


@dataclass(frozen=True)
class Call:
    """What one module was given and made: its first floating tensors, where they have three axes."""

    name: str
    module: nn.Module
    given: Tensor | None
    made: Tensor | None
    begun: int  # order in which modules began
    ended: int


class Calls:
    """Hooks every module while open; of a module that runs several times the last call is kept."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._handles: list[Any] = []
        self._begun: dict[str, int] = {}
        self._clock = 0
        self.all: dict[str, Call] = {}

    def __enter__(self) -> "Calls":
        for name, module in self._model.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._begin(name), with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._end(name), with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def of(self, name: str) -> Call | None:
        """The call of a module, by name."""
        return self.all.get(name)

    def of_module(self, module: nn.Module) -> Call | None:
        """The call of a module."""
        return next((one for one in self.all.values() if one.module is module), None)

    def within(self, name: str) -> list[Call]:
        """Calls of the modules inside another, outermost first, then as they began."""
        inner = [one for one in self.all.values() if one.name.startswith(f"{name}.")]
        return sorted(inner, key=lambda one: (one.name.count("."), one.begun))

    def after(self, name: str) -> list[Call]:
        """Calls that began after a module had ended."""
        end = self.all[name].ended
        return [one for one in self.all.values() if one.begun > end]

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _begin(self, name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, _kwargs: Any) -> None:
            self._begun[name] = self._tick()

        return hook

    def _end(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            given, made = hidden_input(args, kwargs), first_tensor(output)
            self.all[name] = Call(
                name, module, _states(given), _states(made), self._begun.get(name, 0), self._tick()
            )

        return hook


def _states(value: Tensor | None) -> Tensor | None:
    if value is None or value.ndim not in (2, 3):
        return None
    # Some blocks flatten batch and tokens for a while; the forward that is looked at has one sequence.
    return value.detach() if value.ndim == 3 else value.detach()[None]


def same(one: Tensor, other: Tensor) -> bool:
    """The same numbers, up to what adding in another order changes; in half precision, the very same."""
    if one.shape != other.shape:
        return False
    if is_half(other):
        return torch.equal(one, other)
    size = float(other.abs().max())
    return bool((one - other).abs().max() <= 64 * torch.finfo(other.dtype).eps * max(size, 1e-6))


def is_half(value: Tensor) -> bool:
    """Whether numbers are rounded as coarsely as what small parts add to large ones (float16, bfloat16 and below)."""
    return torch.finfo(value.dtype).eps > 1e-4
