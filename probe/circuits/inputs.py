"""How the measure depends on the stream that one part reads, through that part alone."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probe.circuits.anatomy import Anatomy
from probe.circuits.gradients import GradientRun
from probe.circuits.nodes import Key, Node
from probe.circuits.senders import Senders

READS: tuple[Node, ...] = ("resid_pre", "attn_out", "mlp_out", "q", "k", "v", "resid_post")
_UNITS: dict[Node, str] = {"q": "H", "k": "KV", "v": "KV"}


@dataclass(frozen=True)
class Input:
    """One reader of the stream: ``L3.H5.q``, ``L3.KV1.k``, ``L3.MLP`` or ``logits``.

    `gradient` is the measure's gradient at what it reads, through it alone; it reads what the first `senders` write.
    """

    name: str
    senders: int
    gradient: Float[Tensor, "pair position d_model"]


def inputs_of(anatomy: Anatomy, run: GradientRun, senders: Senders, beyond: int = 0) -> Iterator[Input]:
    """Every reader of more than `beyond` senders, in the order in which it reads; the run's graph must have been kept.

    A head's queries, keys and values and an MLP's output have a gradient from the one backward pass; from there it is
    taken back to the stream that they are made of, and no further.
    """
    for block in anatomy.blocks:
        layer = block.place.layer
        entering: Key = ("resid_pre", layer)
        before = senders.before(layer)
        for node in _UNITS:
            if (node, layer) in run.gradients and before > beyond:
                for unit, gradient in enumerate(_by_unit(run, (node, layer), entering)):
                    yield Input(f"L{layer}.{_UNITS[node]}{unit}.{node}", before, gradient)
        before = senders.before(layer, heads=not block.parallel)
        if ("mlp_out", layer) in run.gradients and before > beyond:
            # Attention's output goes on through the sum that the MLP reads alone: they have one gradient.
            read: Key = entering if block.parallel else ("attn_out", layer)
            gradient = _back(run, ("mlp_out", layer), run.gradients["mlp_out", layer], read)
            yield Input(f"L{layer}.MLP", before, gradient)
    last = anatomy.blocks[-1].place.layer
    yield Input("logits", len(senders.members), run.gradients["resid_post", last][:, 0])


def _by_unit(run: GradientRun, made: Key, read: Key) -> Iterator[Tensor]:
    whole = run.gradients[made]
    for unit in range(whole.shape[1]):
        alone = torch.zeros_like(whole)
        alone[:, unit] = whole[:, unit]
        yield _back(run, made, alone, read)


def _back(run: GradientRun, made: Key, gradient: Tensor, read: Key) -> Float[Tensor, "pair position d_model"]:
    """A gradient at a node as one at the stream that the node is made of."""
    output, stream = run.trace.seen[made], run.trace.seen[read]
    if not output.raw.requires_grad:
        return torch.zeros_like(stream.value[:, 0])
    given = (gradient * output.times).reshape(output.raw.shape).to(output.raw.dtype)
    (found,) = torch.autograd.grad(output.raw, stream.raw, given, retain_graph=True, allow_unused=True)
    return stream.shaped(torch.zeros_like(stream.raw) if found is None else found)[:, 0]
