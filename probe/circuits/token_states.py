"""Tokens by themselves, as heads may read them: their embedding, and the stream behind the first block's MLP."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.circuits.anatomy import anatomy_of
from probe.circuits.nodes import Node
from probe.circuits.taps import Taps, Write
from probe.errors import UnknownNameError
from probe.models import LoadedModel
from probe.readouts.evaluating import evaluating
from probe.seam.session import Session

States = Literal["stream", "mlp"]
STATES: tuple[States, ...] = get_args(States)
_ROWS = 64  # tokens per forward


def states_of(name: str) -> States:
    """The way to take states that a name stands for; raises `UnknownNameError`."""
    for one in STATES:
        if one == name:
            return one
    raise UnknownNameError.of("states", name, STATES)


@dataclass(frozen=True)
class TokenStates:
    """Every token alone at position 0; `effective` is what heads behind the first block read of it."""

    embedding: Float[Tensor, "token d_model"]
    effective: Float[Tensor, "token d_model"]
    first: int  # the first block's layer

    def of(self, layer: int) -> Float[Tensor, "token d_model"]:
        """What a layer's heads read: the embedding in the first block, the effective one behind it."""
        return self.embedding if layer == self.first else self.effective


@torch.no_grad()
def token_states(
    loaded: LoadedModel, tokens: Int[Tensor, " token"], states: States = "stream"
) -> TokenStates:
    """Run the first block on single tokens with its attention adding nothing; ``mlp`` is what its MLP adds alone.

    Raises:
        CaptureError: who writes to the stream in the first block could not be told.
    """
    anatomy = anatomy_of(loaded)
    first = anatomy.blocks[0].place.layer
    one = torch.zeros(1, 1, 1, 1, device=loaded.device)
    nothing = Write(one, one == 0)
    wanted: Node = "resid_post" if states == "stream" else "mlp_out"
    taps = Taps(anatomy)
    model: Any = loaded.model
    parts: dict[Node, list[Tensor]] = {"resid_pre": [], wanted: []}
    with evaluating(model), Session(model, (), [taps], mode="fused"):
        for few in torch.split(tokens.to(loaded.device), _ROWS):
            taps.ready(parts, {("attn_out", first): nothing})
            model(input_ids=few[:, None])
            for name, found in parts.items():
                found.append(taps.seen[name, first].value[:, 0, 0].float())
    return TokenStates(torch.cat(parts["resid_pre"]), torch.cat(parts[wanted]), first)
