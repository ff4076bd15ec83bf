"""Finding a layer's output projection W_O by what it is given: the linear map that the model applies to z.

No name is read and no order of modules is trusted. After a layer's attention, the first linear module near it whose
input *is* z (same width, same numbers) is its output projection.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

Z = Float[Tensor, "batch head query_pos d_v"]
Projection = Float[Tensor, "head d_v d_model"]

_SAME = 0.05  # relative distance up to which an input is z: covers the model's own kernel in half precision


@dataclass
class OutputProjections:
    """The output projections of one model, found layer by layer as the model runs."""

    model: nn.Module
    found: dict[str, nn.Module] = field(default_factory=dict)
    _hooks: list[Callable[[], None]] = field(default_factory=list)

    def after(self, module: str, z: Z, then: Callable[[Projection], None]) -> None:
        """Call `then` with W_O of the attention module: at once where it is known, else when the model applies it."""
        if module in self.found:
            then(matrix(self.found[module], z))
            return
        hooks: list[Callable[[], None]] = []

        def given(candidate: nn.Module, args: tuple[object, ...]) -> None:
            if module in self.found or not _is(args[0] if args else None, z):
                return
            self.found[module] = candidate
            for remove in hooks:
                remove()
            then(matrix(candidate, z))

        for candidate in self._near(module):
            hooks.append(candidate.register_forward_pre_hook(given).remove)
        self._hooks += hooks

    def close(self) -> None:
        """Remove whatever still waits in the model."""
        while self._hooks:
            self._hooks.pop()()

    def _near(self, module: str) -> list[nn.Module]:
        """Linear modules under the attention module's parent."""
        parent = self.model.get_submodule(module.rpartition(".")[0])
        return [one for one in parent.modules() if _linear(one)]


def matrix(projection: nn.Module, z: Z) -> Projection:
    """W_O of each head, whatever way the module stores its weight: what it makes of the identity, less its bias."""
    _, heads, _, width = z.shape
    with torch.no_grad():
        if isinstance(projection, nn.Linear) and projection.weight.is_floating_point():
            weight = projection.weight.T
        else:
            eye = torch.eye(heads * width, device=z.device, dtype=z.dtype)
            weight = projection.forward(eye) - projection.forward(torch.zeros_like(eye[:1]))
        return weight.float().reshape(heads, width, -1)


def _linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding)


def _is(value: object, z: Z) -> bool:
    if not isinstance(value, Tensor) or value.numel() != z.numel():
        return False
    batch, heads, queries, width = z.shape
    seen = value.detach().reshape(batch, queries, heads, width).transpose(1, 2).float()
    mine = z.detach().float()
    return bool((seen - mine).norm() <= _SAME * mine.norm())
