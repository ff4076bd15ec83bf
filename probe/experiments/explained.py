"""What explanations by attention are made from: every layer's call, and the gradients of an answer."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from probe_kernels import gradient, pattern_block
from probe_kernels.types import Attended, Layout, Scores, Want
from torch import Tensor, nn

from probe.errors import UsageError
from probe.experiments.forwards import spans_of, watch
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.readouts.evaluating import evaluating
from probe.seam.call import AttentionCall
from probe.seam.hub import hub_of
from probe.seam.session import Session
from probe.seam.switch import switchable

Of = Literal["logit", "log_prob"]
_ROWS = 128  # rows of a pattern at a time


@dataclass(frozen=True)
class Layer:
    """One layer's attention over one prompt, as it can be computed again; `z_gradient` where gradients were asked."""

    number: int
    scores: Scores
    layout: Layout
    z_gradient: Float[Tensor, "head token d_v"] | None = None
    tower: str = "decoder"

    def rows(self, index: Int[Tensor, "row"]) -> Float[Tensor, "head row token"]:
        """Some rows of every head's pattern, float32."""
        return pattern_block(self.scores, self.layout, index, slice(0, self.scores.key.shape[2]))[0]

    def gradient_rows(self, index: Int[Tensor, "row"]) -> Float[Tensor, "head row token"]:
        """Some rows of the answer's gradient by the pattern: ∂y/∂p_ij = ∂y/∂z_i · v_j, for z_i = Σ_j p_ij v_j."""
        if self.z_gradient is None or self.scores.value is None:
            raise UsageError(f"the gradient of layer {self.number} was asked; it was read without gradients")
        value = self.scores.value[0].float()
        value = value.repeat_interleave(self.scores.query.shape[1] // len(value), 0)
        return self.z_gradient[:, index.to(self.z_gradient.device)].float() @ value.transpose(1, 2)


@dataclass(frozen=True)
class Explained:
    """One forward over a prompt: its layers, and what the answer at its last token owes to each input embedding."""

    layers: list[Layer]
    embedding: Float[Tensor, "token d_model"]
    gradient: Float[Tensor, "token d_model"]


def read_layers(loaded: LoadedModel, prompt: Prompt) -> list[Layer]:
    """One forward without gradients; q and k of every layer are kept, which is what a KV cache takes."""
    kept = _Kept(gradients=False)
    watch(loaded, prompt, [kept])
    return [kept.layers[number] for number in sorted(kept.layers)]


def explain(loaded: LoadedModel, prompt: Prompt, of: Of) -> Explained:
    """One forward and one backward: the gradients of the most likely next token's logit (or its log probability).

    Weights get no gradient, and the model is left as it was.
    """
    model, kept = loaded.model, _Kept(gradients=True)
    accepts = inspect.signature(model.forward).parameters
    frugal = {k: v for k, v in {"logits_to_keep": 1, "use_cache": False}.items() if k in accepts}
    ids = torch.tensor([prompt.tokens], device=loaded.device)
    with evaluating(model), torch.enable_grad(), _leaf(model) as leaves:
        with Session(model, [kept], mode="fused") as session:  # only there our z takes part in what follows
            session.announce([spans_of(prompt)])
            logits = model(input_ids=ids, **frugal).logits[0, -1].float()
            session.require_seen()
        answer = (logits if of == "logit" else logits.log_softmax(-1))[logits.argmax()]
        found = torch.autograd.grad(answer, [leaves[0], *kept.z.values()], allow_unused=True)
    zs = dict(zip(kept.z, found[1:], strict=True))
    layers = [
        replace(kept.layers[number], z_gradient=_some(zs[number], kept.z[number])[0])
        for number in sorted(kept.layers)
    ]
    return Explained(layers, leaves[0].detach()[0].float(), _some(found[0], leaves[0])[0].float())


def cannot_recompute(loaded: LoadedModel) -> str | None:
    """Why patterns of a model cannot be computed again from q and k, or None."""
    if not switchable(loaded.model):
        return "the model bypasses transformers' attention registry, so that q and k are not seen"
    hub = hub_of(loaded.model)
    edits = [one for member in hub.members for one in member.interventions] if hub is not None else []
    if not edits:
        return None
    return f"patterns are computed again from q and k, without {edits[0].name}: leave the interventions out"


def row_chain(
    layers: list[Layer], row: int, step: Callable[[Layer, Float[Tensor, "token"]], Float[Tensor, "token"]]
) -> Float[Tensor, "layer token"]:
    """What one output row owes to the stream of every token before each layer, the last layer first: e_row · M_L … M_l.

    `step` multiplies a row by one layer's matrix. Nothing larger than a block of rows is made.
    """
    length = layers[-1].layout.query_pos.shape[-1]
    credit = torch.zeros(length, dtype=torch.float64)
    credit[row] = 1.0
    chain = []
    for layer in reversed(layers):
        credit = step(layer, credit)
        chain.append(credit)
    return torch.stack(chain[::-1])


def blocks_of(weight: Float[Tensor, "token"]) -> Iterator[Int[Tensor, "row"]]:
    """The rows that have weight, some at a time."""
    rows = weight.nonzero()[:, 0]
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS]


class _Kept:
    """An observer that keeps every self-attention call, and z where gradients are asked."""

    def __init__(self, gradients: bool) -> None:
        self.gradients = gradients
        self.layers: dict[int, Layer] = {}
        self.z: dict[int, Tensor] = {}

    def want(self, call: AttentionCall) -> Want:
        return Want(z=self.gradients)

    def update(self, call: AttentionCall, attended: Attended) -> None:
        if call.place.tower not in ("decoder", "encoder"):
            return
        if call.scores is None:
            raise UsageError(
                f"{call.place.module} gave only its attention weights, not q and k; explanations compute rows again: "
                "use a model that reads its attention from transformers' registry"
            )
        scores = gradient.detached(call.scores)
        scores = scores if self.gradients else replace(scores, value=None)
        self.layers[call.place.layer] = Layer(call.place.layer, scores, call.layout, tower=call.place.tower)
        if self.gradients and attended.z is not None:
            self.z[call.place.layer] = attended.z


@contextmanager
def _leaf(model: nn.Module) -> Iterator[list[Tensor]]:
    """While open, the input embeddings start the graph; they are handed out."""
    leaves: list[Tensor] = []

    def cut(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_(True))
        return leaves[-1]

    table: Any = model
    handle = table.get_input_embeddings().register_forward_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()


def _some(gradient: Tensor | None, of: Tensor) -> Tensor:
    """A gradient; zero where the answer does not depend on it."""
    return torch.zeros_like(of) if gradient is None else gradient.detach()
