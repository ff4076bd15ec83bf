"""How a model turns its queries and keys with their position (RoPE), found by its effect and proven per layer.

Nothing is read from names: every table of frequencies in the model is tried, in the known layouts, and the one that
turns each layer's keys at positions p into its keys at positions p + 5 is taken; where none does, the model is refused.
"""

import math
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from probe_kernels.types import Attended, Want
from torch import Tensor, nn

from probe.errors import InterventionError
from probe.interventions.order_free import output_of, require_attention_alone, some_tokens
from probe.interventions.positions import require_positions
from probe.seam.call import AttentionCall
from probe.seam.session import Session

_SHIFT = 5
# Largest error of a turned key over the largest key, by what the model computes in.
_SAME = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_CHANGING = ("dynamic", "longrope")  # frequencies that depend on how long the text has become

Rotations = Mapping[str, "Rotation | None"]


@dataclass(frozen=True)
class Rotation:
    """One layer's rotary embedding: pairs of dimensions, turned by position · frequency."""

    frequencies: Float[Tensor, "pair"]  # as the model keeps them
    scaling: float  # the model multiplies what it turns by this (YaRN's attention factor)
    interleaved: bool  # pairs are (0, 1), (2, 3), …; else (0, n/2), (1, n/2 + 1), …
    first: int  # the head's first turned dimension

    def turn(
        self, x: Float[Tensor, "*lead dim"], positions: Float[Tensor, "*lead"] | Tensor
    ) -> Float[Tensor, "*lead dim"]:
        """Turned by `positions` (which broadcast over the leading axes), to the precision of x; nothing is scaled."""
        angles = positions[..., None].to(x.dtype) * self.frequencies.to(x.device, x.dtype)
        return self._rotated(x, angles.cos(), angles.sin())

    def undone(
        self, x: Float[Tensor, "*lead dim"], positions: Tensor, dtype: torch.dtype
    ) -> Float[Tensor, "*lead dim"]:
        """What the model turned, before it did; `dtype` is what the model rounds its cosines to. Scaling stays."""
        angles = positions[..., None].float() * self.frequencies.to(x.device).float()
        factor = self.scaling
        cos, sin = ((factor * one).to(dtype).to(x.dtype) / factor for one in (angles.cos(), angles.sin()))
        size = cos.square() + sin.square()  # a rounded cosine and sine are not quite a rotation
        return self._rotated(x, cos / size, -sin / size)

    def _rotated(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        last = self.first + 2 * len(self.frequencies)
        head, part, tail = x[..., : self.first], x[..., self.first : last], x[..., last:]
        if self.interleaved:
            one, other = part[..., 0::2], part[..., 1::2]
            turned = torch.stack([one * cos - other * sin, other * cos + one * sin], dim=-1).flatten(-2)
        else:
            one, other = part.chunk(2, dim=-1)
            turned = torch.cat([one * cos - other * sin, other * cos + one * sin], dim=-1)
        return torch.cat([head, turned, tail], dim=-1)


_proven: "weakref.WeakKeyDictionary[nn.Module, tuple[torch.dtype, Rotations]]" = weakref.WeakKeyDictionary()


def rotations(network: nn.Module, what: str) -> Rotations:
    """Each decoder layer's rotation by the name of its attention module; None for a layer without positions.

    Four short forwards, once per model. `what` is who asks.

    Raises:
        InterventionError: a layer whose queries and keys no rotary embedding of the model explains (learned positions,
            a bias by distance, positions of several axes), tokens that reach one another without attention, or
            frequencies that change with the length of the text.
    """
    dtype = next(network.parameters()).dtype
    known = _proven.get(network)
    if known is not None and known[0] == dtype:
        return known[1]
    require_positions(network, what)
    require_attention_alone(network, what)
    near, far = _seen_at(network, 2), _seen_at(network, 2 + _SHIFT)
    name = type(network).__name__
    biased = next((module for module, one in near.items() if one.biased), None)
    if biased is not None:
        raise InterventionError(
            f"{what} was asked of {name}; {biased} adds a bias to its scores (ALiBi, relative positions), "
            "which does not move with the keys"
        )
    found = {module: _of_layer(network, module, near[module], far[module], what) for module in near}
    if not any(found.values()):
        raise InterventionError(
            f"{what} was asked of {name}; none of its layers turns its keys with their position"
        )
    _proven[network] = dtype, found
    return found


@dataclass(frozen=True)
class _Seen:
    """Queries and keys of one layer, and whether a bias is added to its scores."""

    query: Tensor
    key: Tensor
    biased: bool


class _Look:
    """Observes queries and keys of the decoder."""

    def __init__(self) -> None:
        self.layers: dict[str, _Seen] = {}

    def want(self, call: AttentionCall) -> Want:
        """Nothing but the call."""
        return Want(z=False)

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Keep them."""
        scores = call.scores
        if scores is not None and call.place.tower == "decoder":
            biased = scores.bias is not None or scores.alibi is not None
            self.layers[call.place.module] = _Seen(scores.query.double(), scores.key.double(), biased)


def _seen_at(network: nn.Module, start: int) -> dict[str, _Seen]:
    """What every decoder layer attends with, where the first token stands at `start`."""
    look, ids = _Look(), some_tokens(network, list(range(1, 9)))
    with Session(network, [look], mode="shadow"):
        output_of(network, ids, torch.arange(start, start + ids.shape[1], device=ids.device)[None])
    return look.layers


def _of_layer(network: nn.Module, module: str, near: _Seen, far: _Seen, what: str) -> Rotation | None:
    """The rotation that explains one layer; None where its keys do not move."""
    allowed = _SAME.get(next(network.parameters()).dtype, 1e-1)
    shift = torch.tensor(float(_SHIFT), device=near.key.device)
    tried: list[tuple[float, Rotation]] = []
    for one in candidates(network, near.key.shape[-1], what):
        turned = _Seen(one.turn(near.query, shift), one.turn(near.key, shift), biased=False)
        tried.append((_error(turned, far), one))
    still = _error(near, far)
    nearest = min((error for error, _ in tried), default=math.inf)
    if min(still, nearest) > allowed:
        why = f"the nearest of its tables of frequencies misses by {nearest:.0e}, allowed is {allowed:.0e}"
        raise InterventionError(
            f"{what} was asked of {type(network).__name__}; the keys of {module} do not turn with their position as a "
            f"rotary embedding does ({why if tried else 'it has no table of frequencies: learned positions?'})"
        )
    return None if still <= nearest else next(one for error, one in tried if error == nearest)


def _error(one: _Seen, other: _Seen) -> float:
    """Largest difference of queries or keys, over their size."""
    pairs = ((one.query, other.query), (one.key, other.key))
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)


def candidates(network: nn.Module, width: int, what: str) -> Iterator[Rotation]:
    """Every way in which a table of frequencies of the model could turn heads of this width.

    Raises:
        InterventionError: the frequencies of a table change with the length of the text.
    """
    for module in network.modules():
        for name, table in module.named_buffers(recurse=False):
            if not name.endswith("inv_freq") or name.endswith("original_inv_freq") or table.ndim != 1:
                continue
            if 2 * len(table) > width:
                continue
            _require_fixed(module, what)
            scaling = float(getattr(module, name.replace("inv_freq", "attention_scaling"), 1.0))
            for first in sorted({0, width - 2 * len(table)}):
                for interleaved in (False, True):
                    yield Rotation(table.detach(), scaling, interleaved, first)


def _require_fixed(module: nn.Module, what: str) -> None:
    kind = getattr(module, "rope_type", "default")
    kinds = [str(one) for one in (kind.values() if isinstance(kind, dict) else [kind])]
    for one in kinds:
        if any(word in one for word in _CHANGING):
            raise InterventionError(
                f"{what} was asked; the model's rotary embedding ({type(module).__name__}) is of the kind {one!r}, "
                "whose frequencies change with the length of the text, so keys cannot be turned again"
            )
