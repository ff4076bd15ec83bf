"""Per source token: what each key's value, through its head and W_O, adds to a number of the last position's logits."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from probe_kernels import pattern_block
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.engine import Engine
from probe.circuits.taps import Write
from probe.circuits.trace import Trace
from probe.errors import CaptureError, UnsupportedAttentionError


class Given(NamedTuple):
    """What W_O is given at the last position, and the direction there that the number asks for, by head."""

    value: Float[Tensor, "pair head d_head"]
    direction: Float[Tensor, "pair head d_head"]


@torch.no_grad()
def by_source(trace: Trace, layer: int, given: Given) -> Float[Tensor, "head position pair"]:
    """``A_ij · (ratio ⊙ v_j) · direction_h`` for the last position i: the sum over j is the head's own number.

    ``ratio`` is what W_O is given over z, elementwise, held at its value; 1 where it is given z itself.

    Raises:
        UnsupportedAttentionError: the layer's keys and values did not pass the seam.
    """
    call = trace.calls.get(layer)
    if call is None or call.scores is None or call.scores.value is None:
        raise UnsupportedAttentionError(
            f"source tokens of layer {layer} were asked; its values do not pass the seam: leave sources out"
        )
    n_query, n_key = call.size[1:]
    mass = pattern_block(call.scores, call.layout, slice(n_query - 1, n_query), slice(0, n_key))[:, :, 0]
    values = call.scores.value.double().repeat_interleave(call.n_heads // call.n_kv_heads, 1)
    asked = given.direction * _ratio(trace, layer, given.value)
    parts = mass.double() * torch.einsum("phkd,phd->phk", values, asked)
    # Keys are told by their storage position: a layer with a window may hold fewer of them than there are tokens.
    made = torch.zeros(parts.shape[1], n_query, parts.shape[0], dtype=parts.dtype, device=parts.device)
    made[:, call.layout.key_pos[0]] = parts.permute(1, 2, 0)
    return made


def _ratio(trace: Trace, layer: int, given: Float[Tensor, "pair head d_head"]) -> Tensor:
    projection = trace.anatomy.block(layer).projection
    if projection is not None and projection.exact:
        return torch.ones_like(given)
    z = trace.value("z", layer)[:, :, -1].double()
    return torch.where(z == 0, torch.zeros_like(z), given / z)


@torch.no_grad()
def require_elementwise(engine: Engine, batch: Batch, trace: Trace) -> list[int]:
    """The layers whose z is gated or normalised before W_O: where z's entries change sign, so must what W_O is given.

    One forward of one pair for each such layer.

    Raises:
        CaptureError: something else is done to z, so that what W_O is given cannot be split by source.
    """
    alone = Batch(batch.numbers[:1], batch.pairs[:1])
    changed = []
    for block in trace.anatomy.blocks:
        layer, projection = block.place.layer, block.projection
        if projection is None or projection.exact:
            continue
        z = trace.value("z", layer)[:1]
        signs = torch.ones_like(z)
        signs[..., ::2] = -1
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool)
        seen = engine.record(alone, "clean", ["z"], {("z", layer): Write(z * signs, mask)}).given[layer]
        wanted = trace.given[layer][:1] * signs.transpose(1, 2).flatten(2)
        if not torch.allclose(seen, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())):
            raise CaptureError(
                f"source tokens of {block.place.module} were asked; what its W_O is given is not z times a number per "
                "entry, so it cannot be split by source: leave sources out"
            )
        changed.append(layer)
    return changed
