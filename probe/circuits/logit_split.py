"""The exact split of the logit difference into what everything that writes to the residual stream adds to it."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from probe.circuits.anatomy import Block
from probe.circuits.batches import Batch
from probe.circuits.lens import Answering, Lens, pulled, pulled_norm
from probe.circuits.logit_sources import Given, by_source
from probe.circuits.measures import measure_of
from probe.circuits.nodes import Node
from probe.circuits.trace import Trace
from probe.errors import CaptureError

PerPair = Float[Tensor, " pair"]

#: What has to be read for a split, and what else for source tokens.
READS: tuple[Node, ...] = ("resid_pre", "resid_post", "attn_out", "mlp_out", "z")
READS_OF_SOURCES: tuple[Node, ...] = (*READS, "v")


@dataclass
class Split:
    """Logits that each component adds, per pair; all but `accumulated`, `sources` and `whole` sum to the difference.

    `attention_bias` is what attention adds beside its heads; in a layer without heads of the seam, all that it adds.
    """

    embedding: PerPair
    norm_bias: PerPair
    unembedding_bias: PerPair
    whole: PerPair  # the difference itself, as the model's logits have it
    accumulated: Float[Tensor, "stream pair"]
    heads: dict[int, Float[Tensor, "head pair"]] = field(default_factory=dict)
    attention_bias: dict[int, PerPair] = field(default_factory=dict)
    mlp: dict[int, PerPair] = field(default_factory=dict)
    sources: dict[int, Float[Tensor, "head position pair"]] = field(default_factory=dict)

    @property
    def total(self) -> PerPair:
        """The sum of the parts."""
        once = self.embedding + self.norm_bias + self.unembedding_bias
        layers = [*(one.sum(0) for one in self.heads.values()), *self.attention_bias.values()]
        return once + torch.stack([*layers, *self.mlp.values()]).sum(0)


@torch.no_grad()
def split_difference(trace: Trace, batch: Batch, sources: bool) -> Split:
    """Split the logit difference of a recorded batch; all in float64.

    Raises:
        CaptureError: a block's sum, or what its heads add, cannot be told in this model.
    """
    anatomy = trace.anatomy
    layers = [block.place.layer for block in anatomy.blocks]
    last = trace.value("resid_post", layers[-1])[:, 0, -1]
    lens = Lens.of(anatomy, last)
    asked = lens.difference(batch)
    streams = [trace.value("resid_pre", layer)[:, 0, -1] for layer in layers] + [last]
    on_stream = torch.stack([_dot(one, asked) for one in streams])
    made = Split(
        embedding=on_stream[0],
        norm_bias=asked.norm_bias,
        unembedding_bias=asked.unembedding_bias,
        whole=_whole(trace, batch, lens, last),
        accumulated=on_stream + asked.norm_bias + asked.unembedding_bias,
    )
    for block in anatomy.blocks:
        layer = block.place.layer
        made.mlp[layer] = _dot(trace.value("mlp_out", layer)[:, 0, -1], asked)
        if block.attention is None:
            made.attention_bias[layer] = _dot(trace.value("attn_out", layer)[:, 0, -1], asked)
            continue
        given, made.attention_bias[layer] = before_projection(trace, block, asked)
        made.heads[layer] = (given.value * given.direction).sum(-1).T
        if sources:
            made.sources[layer] = by_source(trace, layer, given)
    return made


def before_projection(trace: Trace, block: Block, asked: Answering) -> tuple[Given, PerPair]:
    """What W_O is given at the last position with the direction asked for there, and what biases behind it add.

    Raises:
        CaptureError: what each head adds cannot be told.
    """
    layer, projection = block.place.layer, block.projection
    given = trace.given.get(layer)
    if projection is None or given is None or block.attn is None:
        raise CaptureError(
            f"what each head of layer {layer} adds was asked; W_O of {block.place.module} could not be told: use "
            "activation_patching of attn_out"
        )
    direction = asked.direction * block.attn.times
    biases = torch.zeros_like(asked.norm_bias)
    if block.post is not None:
        before, after = (one.reshape(*given.shape[:2], -1)[:, -1] for one in trace.normed[layer])
        biases = (direction * block.post.bias).sum(-1)
        direction = pulled_norm(block.post, direction, block.post.rate(before.double(), after))
    zero = torch.zeros_like(given[:1, :1])
    biases = biases + (direction * projection.module.forward(zero)[:, 0].double()).sum(-1)
    inner = pulled(projection.module, direction, given.shape[-1])
    heads = (projection.n_heads, projection.d_head)
    return Given(given[:, -1].double().reshape(-1, *heads), inner.reshape(-1, *heads)), biases


def _dot(state: Float[Tensor, "pair width"], asked: Answering) -> PerPair:
    return (state.double() * asked.direction).sum(-1)


def _whole(trace: Trace, batch: Batch, lens: Lens, last: Float[Tensor, "pair width"]) -> PerPair:
    """The difference of the model's own logits; of those before the cap where it has one."""
    logits = trace.logits
    if trace.anatomy.scale is None:
        final = trace.anatomy.final
        state = last[:, None] if final is None else final.module.forward(last[:, None])
        logits = trace.anatomy.unembed.forward(state)[:, 0]
    return measure_of("logit_difference")(logits.double(), batch, logits.double())
