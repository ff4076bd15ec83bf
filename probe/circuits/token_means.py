"""Context-aware means: a state on average over the prompts that have the same token at the same position."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.engine import Engine
from probe.circuits.nodes import Side
from probe.circuits.trace import Trace
from probe.errors import InputError

SIDES: tuple[Side, Side] = ("clean", "corrupt")


@dataclass(frozen=True)
class Own:
    """One prompt of each pair with its states, to be left out of the means that are given to that pair."""

    ids: Int[Tensor, "pair position"]
    trace: Trace


@dataclass(frozen=True)
class TokenMeans:
    """Sums of the states entering each layer, over reference prompts of one length, by position and token."""

    vocab: int
    keys: Int[Tensor, " known"]  # position · vocab + token, ascending
    count: Int[Tensor, " known"]
    by_token: Mapping[int, Float[Tensor, "known d_model"]]  # by layer
    by_position: Mapping[int, Float[Tensor, "position d_model"]]  # by layer
    prompts: int

    def given_token(
        self, layer: int, ids: Int[Tensor, "pair position"], own: Sequence[Own] = ()
    ) -> tuple[Float[Tensor, "pair position d_model"], Bool[Tensor, "pair position"]]:
        """``E[h(x', t) | x'_t = x_t]``, and where a reference prompt has that token there; else the position's mean."""
        key = torch.arange(ids.shape[1], device=ids.device) * self.vocab + ids
        at = torch.searchsorted(self.keys, key).clamp_max(len(self.keys) - 1)
        found = self.keys[at] == key
        count = (self.count[at] * found).double()
        total = self.by_token[layer][at] * found[..., None]
        for one in own:
            same = (one.ids == ids).double()
            count = count - same
            total = total - same[..., None] * _entering(one.trace, layer)
        seen = count > 0.5
        mean = total / count.clamp_min(1)[..., None]
        return torch.where(seen[..., None], mean, self.at_position(layer, own)), seen

    def at_position(self, layer: int, own: Sequence[Own] = ()) -> Float[Tensor, "#pair position d_model"]:
        """``E[h(x', t)]``, whatever the token."""
        total, count = self.by_position[layer][None], self.prompts
        for one in own:
            total, count = total - _entering(one.trace, layer), count - 1
        return total / count


def _entering(trace: Trace, layer: int) -> Float[Tensor, "pair position d_model"]:
    return trace.value("resid_pre", layer)[:, 0].double()


def token_means(engine: Engine, reference: Sequence[Batch], length: int, vocab: int) -> TokenMeans:
    """The means over both prompts of every reference pair of this length.

    Raises:
        InputError: no reference prompt is that long.
    """
    fitting = [batch for batch in reference if batch.length == length]
    if not fitting:
        raise InputError(
            f"means over prompts of {length} tokens were asked; no reference prompt is that long, so that positions do "
            "not correspond: raise reference=, or give pairs of one length"
        )
    device = engine.loaded.device
    position = torch.arange(length, device=device) * vocab
    told = [batch.ids(side, device) + position for batch in fitting for side in SIDES]
    keys, count = torch.unique(torch.cat(told), return_counts=True)
    by_token: dict[int, Tensor] = {}
    by_position: dict[int, Tensor] = {}
    for batch in fitting:
        for side in SIDES:
            trace = engine.record(batch, side, ["resid_pre"])
            at = torch.searchsorted(keys, batch.ids(side, device) + position).flatten()
            for layer in trace.layers("resid_pre"):
                states = _entering(trace, layer)
                empty = states.new_zeros(len(keys), states.shape[-1])
                by_token.setdefault(layer, empty).index_add_(0, at, states.flatten(0, 1))
                by_position[layer] = by_position.get(layer, 0) + states.sum(0)
    return TokenMeans(vocab, keys, count, by_token, by_position, 2 * sum(len(batch) for batch in fitting))
