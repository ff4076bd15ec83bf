"""Which modules of a decoder write to its residual stream, found by what one forward's sums come out to.

Nothing here knows a module by name. The MLP's writer is the module whose output, added to what another module read,
gives what the block returned; attention's is the one whose output, added to what the block was given, gives what was
read there. Where attention and MLP read the same stream (parallel blocks), both outputs and the block's input sum to
its output. A constant that multiplies what is added is found with it.
"""

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import log2
from typing import Any

import torch
from torch import Tensor, nn

from probe.circuits.calls import Call, Calls, same
from probe.circuits.norms import Norm, norm_of
from probe.circuits.projections import projections_of
from probe.circuits.writers import Writer, writers
from probe.errors import CaptureError, UsageError
from probe.models import LoadedModel
from probe.readouts.evaluating import evaluating
from probe.seam.call import Place
from probe.seam.places import places
from probe.seam.projection import Projection
from probe.seam.recorded import Recorded, block_places, blocks

_TOKENS = 7  # of the forward that is looked at
_LOUD = 1024.0  # of its largest logit


@dataclass(frozen=True)
class Block:
    """One block: its attention (None where nothing of it passes the seam), and who writes to the stream."""

    place: Place
    module: nn.Module
    index: int  # of the hidden states in what the block returns
    attention: str | None
    attn: Writer | None
    mlp: Writer | None
    parallel: bool  # attention and MLP read the same stream
    projection: Projection | None  # W_O; None where it could not be told
    post: Norm | None  # the norm between W_O and the stream, where there is one


@dataclass(frozen=True)
class Anatomy:
    """A decoder's blocks in order, its final norm (None where there is none) and its output embedding."""

    blocks: tuple[Block, ...]
    final: Norm | None
    unembed: nn.Module
    scale: (
        float | None
    )  # logits = scale · unembedding of the final norm's output; None: not a multiple of it (softcap)

    def block(self, layer: int) -> Block:
        """The block of a layer; raises `UsageError` for one that is not there."""
        for one in self.blocks:
            if one.place.layer == layer:
                return one
        first, last = self.blocks[0].place.layer, self.blocks[-1].place.layer
        raise UsageError(
            f"layer {layer} was asked; the model has layers {first} to {last}: name one of these"
        )

    def writer(self, layer: int, part: str) -> Writer:
        """Who adds ``attn_out`` or ``mlp_out`` in a layer; raises `CaptureError` where nothing was found to."""
        block = self.block(layer)
        found = block.attn if part == "attn_out" else block.mlp
        if found is None:
            raise CaptureError(
                f"{part} of {block.place.module} was asked; what the block returns is no sum of its input and of what "
                "its modules return: use resid_pre, resid_post or z"
            )
        return found


_known: "weakref.WeakKeyDictionary[nn.Module, Anatomy]" = weakref.WeakKeyDictionary()


def anatomy_of(loaded: LoadedModel) -> Anatomy:
    """The anatomy of a decoder, found once per model.

    Raises:
        UsageError: a model that is no decoder with an output embedding.
        CaptureError: it declares no blocks.
    """
    if loaded.model not in _known:
        _known[loaded.model] = _look(loaded)
    return _known[loaded.model]


def _look(loaded: LoadedModel) -> Anatomy:
    model: Any = loaded.model
    get = getattr(model, "get_output_embeddings", None)
    unembed = None if get is None else get()
    if unembed is None or getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise UsageError(
            f"a circuit of {loaded.name} was asked; circuits are found in decoders that predict the next token"
        )
    towers = block_places(blocks(model), places(model))
    found = [one for one in blocks(model) if towers[one.name].tower == "decoder"]
    if not found:
        raise CaptureError(f"a circuit of {loaded.name} was asked; it declares no blocks of a decoder")
    ids = torch.arange(1, 1 + _TOKENS, device=loaded.device)[None] % int(unembed.weight.shape[0])
    with evaluating(model), torch.no_grad(), _loud(unembed), Calls(model) as calls:
        logits = model(input_ids=ids).logits
    projections = projections_of(loaded, ids)
    attention = {name: place for name, place in places(model).items() if place.tower == "decoder"}
    made = tuple(_block(one, towers[one.name], list(attention), calls, projections) for one in found)
    return Anatomy(made, *_head(calls, found[-1], unembed, logits))


def _block(
    one: Recorded, place: Place, attention: list[str], calls: Calls, projections: Mapping[str, Projection]
) -> Block:
    own = next((name for name in attention if name.startswith(f"{one.name}.")), None)
    whole = calls.of(one.name)
    attn, mlp, parallel = None, None, False
    if whole is not None and whole.given is not None and whole.made is not None:
        attn, mlp, parallel = writers(calls.within(one.name), whole, own)
    projection = projections.get(own or "")
    post = None
    if attn is not None and projection is not None and not projection.name.startswith(f"{attn.name}"):
        post = norm_of(attn.module, int(whole.made.shape[-1])) if whole and whole.made is not None else None
        # Whatever stands between W_O and the stream, if it is no norm: what a head adds cannot be told.
        projection = None if post is None else projection
    return Block(place, one.module, one.index, own, attn, mlp, parallel, projection, post)


def _head(
    calls: Calls, last: Recorded, unembed: nn.Module, logits: Tensor
) -> tuple[Norm | None, nn.Module, float | None]:
    """The norm between the last block and the output embedding, and what its logits are multiplied by."""
    block, head = calls.of(last.name), calls.of_module(unembed)
    if block is None or block.made is None or head is None or head.given is None or head.made is None:
        raise CaptureError(
            "the output embedding did not run on the last block's states: circuits need a plain head"
        )
    norm: Norm | None = None
    if not same(block.made, head.given):
        between = [one for one in calls.after(last.name) if _leads(one, block.made, head.given)]
        norm = norm_of(between[0].module, int(head.given.shape[-1])) if between else None
        if norm is None:
            raise CaptureError(
                "between the last block and the output embedding something else than a norm was found: circuits need "
                "a model whose logits are those of its final norm"
            )
    return norm, unembed, _scale(head.made, logits)


@contextmanager
def _loud(unembed: nn.Module) -> Iterator[None]:
    """While open, what the output embedding makes is large, by a power of two: a softcap is seen whatever its size."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        size = float(output.abs().max()) if isinstance(output, Tensor) else 0.0
        return output * 2.0 ** round(log2(_LOUD / size)) if 0 < size < _LOUD else None

    handle = unembed.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _scale(made: Tensor, logits: Tensor) -> float | None:
    """What the output embedding's answer was multiplied by; None where something else was done to it."""
    given, answer = made.double(), logits.double()
    ratio = float((answer * given).sum() / given.square().sum())
    eps = max(torch.finfo(one.dtype).eps for one in (made, logits))
    return ratio if torch.allclose(ratio * given, answer, rtol=4 * eps, atol=0) else None


def _leads(one: Call, given: Tensor, made: Tensor) -> bool:
    return one.given is not None and one.made is not None and same(one.given, given) and same(one.made, made)
