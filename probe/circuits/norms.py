"""A norm as a linear map: its scale held at what it was, as direct attribution and the LN rule ask for it.

Nothing here knows a norm by its class. A module is one where its answer does not change with the length of its input;
gain, bias and whether it subtracts the mean are read off its answers to vectors of signs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from probe.errors import CaptureError

_LONG = 1e3  # of the vectors that a norm is asked with: its epsilon is nothing beside them


@dataclass(frozen=True)
class Norm:
    """``y = gain · (x - mean) · rate(x) + bias``; the mean is subtracted only where `centres`."""

    module: nn.Module
    gain: Float[Tensor, " width"]
    bias: Float[Tensor, " width"]
    centres: bool

    def centred(self, x: Float[Tensor, "*any width"]) -> Float[Tensor, "*any width"]:
        """The input as the norm scales it, in float32 or finer."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x - x.mean(-1, keepdim=True) if self.centres else x

    def rate(
        self, x: Float[Tensor, "*rows width"], y: Float[Tensor, "*rows width"]
    ) -> Float[Tensor, "*rows 1"]:
        """What the norm multiplied each row by, beside its gain: read off its answer, as it was rounded.

        Raises:
            CaptureError: the answer is not that of such a map.
        """
        scaled, answer = self.gain * self.centred(x), y - self.bias
        square = (scaled * scaled).sum(-1, keepdim=True)
        found = (scaled * answer).sum(-1, keepdim=True) / square.clamp_min(torch.finfo(x.dtype).tiny)
        slack = max(1e-3, 2 * torch.finfo(y.dtype).eps)
        size = float(answer.detach().abs().max())
        if not torch.allclose(scaled * found, answer.to(scaled), rtol=slack, atol=slack * size + 1e-9):
            raise CaptureError(
                f"{type(self.module).__name__} was taken for a norm; its output is not its input times a number per row"
            )
        return found

    def part(
        self, part: Float[Tensor, "*parts width"], rate: Float[Tensor, "*#rows 1"]
    ) -> Float[Tensor, "*parts width"]:
        """What a part of the input adds to the output while the scale is held; parts sum to ``y - bias``."""
        return self.gain * self.centred(part) * rate

    def held(
        self, x: Float[Tensor, "*rows width"], y: Float[Tensor, "*rows width"]
    ) -> Float[Tensor, "*rows width"]:
        """The output `y` itself, but with a gradient that takes the scale for a constant (the LN rule)."""
        linear = self.part(x, self.rate(x.detach(), y.detach())).to(y.dtype)
        return y.detach() + (linear - linear.detach())


def norm_of(module: nn.Module, width: int) -> Norm | None:
    """The module as a norm over the last `width` entries; None where it is none."""
    weights = list(module.parameters())
    if any(True for _ in module.children()) or any(w.ndim != 1 or len(w) != width for w in weights):
        return None
    like = weights[0] if weights else torch.empty(0)
    if not like.is_floating_point() or width < 2:
        return None
    # In half precision nothing could be told from an answer: the same map is asked with its weights in float32.
    precise = torch.promote_types(like.dtype, torch.float32)
    held = dict((*module.named_parameters(), *module.named_buffers()))
    state = {name: one.to(precise) for name, one in held.items() if one.is_floating_point()}
    signs = torch.ones(1, 1, width, dtype=precise, device=like.device)
    signs[..., ::2] = -1
    signs[..., : width // 3] *= 2
    with torch.no_grad():
        try:
            return _read(module, partial(functional_call, module, state), signs)
        except (TypeError, RuntimeError, ValueError, AttributeError):
            return None


def _read(module: nn.Module, ask: Callable[[Tensor], Tensor], signs: Tensor) -> Norm | None:
    plain = ask(_LONG * signs)
    if not isinstance(plain, Tensor) or plain.shape != signs.shape:
        return None
    longer, shifted = ask(3 * _LONG * signs), ask(_LONG * (signs + 1))
    size = float(plain.abs().max())
    if size == 0 or not torch.allclose(plain, longer, atol=1e-4 * size):
        return None
    centres = torch.allclose(plain, shifted, atol=1e-4 * size)
    given = signs - signs.mean(-1, keepdim=True) if centres else signs
    bias = (ask(_LONG * given) + ask(-_LONG * given)) / 2
    root = given.square().mean(-1, keepdim=True).sqrt()
    gain = (ask(_LONG * given) - bias) * root / given
    made = Norm(module, gain[0, 0], bias[0, 0], bool(centres))
    # One more answer, which the reading did not use: an elementwise map would not be told from a norm by signs alone.
    other = torch.linspace(0.5, 2.0, signs.shape[-1], dtype=signs.dtype, device=signs.device) * signs
    try:
        made.rate(other, ask(other))
    except CaptureError:
        return None
    return made
