"""W_Q, W_K, W_V and W_O of every head, read off what attention does with unit vectors; no module is known by name.

Every attention module of a decoder is given each unit vector as a prompt of one token, all layers in the same forwards;
queries, keys and values pass the seam. Such a token stands at position 0, where rotary positions turn nothing. A norm
in front of attention, one on queries or keys, and one behind W_O are taken with their gains, but with a scale of 1.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe.circuits.anatomy import Anatomy, Block, anatomy_of
from probe.circuits.attention_input import InputNorm, attention_inputs
from probe.circuits.norms import Norm
from probe.circuits.taps import Taps
from probe.errors import CaptureError
from probe.models import LoadedModel
from probe.readouts.evaluating import evaluating
from probe.seam.points import hidden_input
from probe.seam.projection import Projection, matrix
from probe.seam.session import Session

_ROWS = 128  # unit vectors per forward


@dataclass(frozen=True)
class HeadWeights:
    """One layer's attention as linear maps by head, from the residual stream (its norm's scale 1) to the stream.

    Key/value heads are repeated for the heads that share them. Biases are left out.
    """

    w_q: Float[Tensor, "head d_model d_head"]
    w_k: Float[Tensor, "head d_model d_head"]
    w_v: Float[Tensor, "head d_model d_value"]
    w_o: Float[Tensor, "head d_value d_model"]
    normed: bool  # queries or keys pass a norm of their own, whose scale is left out

    @property
    def n_heads(self) -> int:
        """How many heads there are."""
        return int(self.w_q.shape[0])


@torch.no_grad()
def head_weights(loaded: LoadedModel) -> dict[int, HeadWeights]:
    """The weights of every layer with attention of the seam, in float32.

    Raises:
        CaptureError: W_O, or what attention reads, cannot be told; or queries, keys or values are not linear in it.
    """
    anatomy = anatomy_of(loaded)
    blocks = [block for block in anatomy.blocks if block.attention is not None]
    for block in blocks:
        if block.projection is None or block.attn is None:
            raise CaptureError(
                f"weights of the heads of {block.place.module} were asked; its W_O could not be told: use methods that "
                "run the model"
            )
    inputs = attention_inputs(loaded, blocks)
    width = {layer: one.width for layer, one in inputs.items()}
    if len(set(width.values())) != 1:
        raise CaptureError(
            f"weights of heads were asked; attention reads states of different widths: {width}"
        )
    maps = _linear_maps(loaded, anatomy, blocks, inputs)
    return {block.place.layer: _weights(block, inputs[block.place.layer], maps) for block in blocks}


def _weights(
    block: Block, entering: InputNorm, maps: Mapping[tuple[str, int], Float[Tensor, "head d_model _"]]
) -> HeadWeights:
    layer = block.place.layer
    w_q, w_k, w_v = (_folded(entering.norm, maps[name, layer]) for name in ("q", "k", "v"))
    if block.projection is None or block.attn is None:  # checked by the caller
        raise CaptureError(f"W_O of {block.place.module} could not be told")
    w_o = _output(block.projection)
    if block.post is not None:
        w_o = block.post.part(w_o, torch.ones(1, device=w_o.device)).float()
    group = len(w_q) // len(w_k)
    w_k, w_v = w_k.repeat_interleave(group, 0), w_v.repeat_interleave(group, 0)
    return HeadWeights(w_q, w_k, w_v, w_o * block.attn.times, bool(entering.inner))


def _folded(norm: Norm | None, weight: Float[Tensor, "head d_model d_head"]) -> Tensor:
    """A map from what a norm makes, as one from what it is given."""
    if norm is None:
        return weight
    scaled = norm.gain.float()[:, None] * weight
    return scaled - scaled.mean(1, keepdim=True) if norm.centres else scaled


def _output(projection: Projection) -> Float[Tensor, "head d_value d_model"]:
    weight, width = matrix(projection.module), projection.n_heads * projection.d_head
    if weight is None:
        like = next((p for p in projection.module.parameters() if p.is_floating_point()), torch.empty(0))
        eye = torch.eye(width, dtype=like.dtype, device=like.device)[None]
        weight = (projection.module.forward(eye) - projection.module.forward(torch.zeros_like(eye)))[0]
    return weight.float().reshape(projection.n_heads, projection.d_head, -1)


def _linear_maps(
    loaded: LoadedModel, anatomy: Anatomy, blocks: list[Block], inputs: Mapping[int, InputNorm]
) -> dict[tuple[str, int], Float[Tensor, "head d_model _"]]:
    """Queries, keys and values of unit vectors, less those of the zero vector; held against those of a mixture."""
    width = next(iter(inputs.values())).width
    mixture = torch.randn(1, width, generator=torch.Generator().manual_seed(0))
    rows = torch.cat([torch.zeros(1, width), mixture, torch.eye(width)]).to(loaded.device)
    taps = Taps(anatomy)
    model: Any = loaded.model
    found: dict[tuple[str, int], list[Tensor]] = {}
    with (
        evaluating(model), Session(model, (), [taps], mode="fused"), _given(blocks, inputs) as give,
    ):  # fmt: skip
        for start in range(0, len(rows), _ROWS):
            few = give(rows[start : start + _ROWS])
            taps.ready(["q", "k", "v"])
            model(input_ids=torch.ones(len(few), 1, dtype=torch.int64, device=loaded.device))
            for (name, layer), seen in taps.seen.items():
                found.setdefault((name, layer), []).append(seen.value[:, :, 0].float())
    maps: dict[tuple[str, int], Tensor] = {}
    for block in blocks:
        for name in ("q", "k", "v"):
            key = (name, block.place.layer)
            if key not in found:
                raise CaptureError(
                    f"weights of the heads of {block.place.module} were asked; its {name} does not pass the seam"
                )
            values = torch.cat(found[key])
            linear = (values[2:] - values[0]).transpose(0, 1)
            _require_linear(
                values[1] - values[0], mixture.to(linear) @ linear, f"{name} of {block.place.module}"
            )
            maps[key] = linear
    return maps


def _require_linear(made: Tensor, wanted: Tensor, what: str) -> None:
    if not torch.allclose(made, wanted[:, 0], rtol=0, atol=2e-2 * float(made.abs().max()) + 1e-9):
        raise CaptureError(
            f"weights were asked; {what} is not linear in what attention is given: use methods that run the model"
        )


@contextmanager
def _given(blocks: list[Block], inputs: Mapping[int, InputNorm]) -> Iterator[Any]:
    """While open, attention modules are given the rows told last, and norms inside them keep a scale of 1."""
    told: list[Tensor] = []
    handles: list[Any] = []

    def give(rows: Tensor) -> Tensor:
        told[:] = [rows]
        return rows

    def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = hidden_input(args, kwargs)
        if value is None:
            return None
        made = told[0].to(value).reshape(value.shape)
        return (
            tuple(made if one is value else one for one in args),
            {key: made if one is value else one for key, one in kwargs.items()},
        )

    try:
        for block in blocks:
            one = inputs[block.place.layer]
            handles.append(one.attention.register_forward_pre_hook(enter, with_kwargs=True))
            handles += [inner.module.register_forward_hook(_unscaled(inner)) for inner in one.inner]
        yield give
    finally:
        for handle in handles:
            handle.remove()


def _unscaled(norm: Norm) -> Any:
    def hook(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return norm.part(args[0], torch.ones_like(args[0][..., :1])).to(output)

    return hook
