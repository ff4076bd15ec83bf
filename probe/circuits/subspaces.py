"""Orthonormal bases of what a head sees, and its queries, keys or values kept within the first of them."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from probe_kernels import pattern_block
from torch import Tensor

from probe.circuits.nodes import Node
from probe.circuits.trace import Trace
from probe.errors import CaptureError

Part = Literal["q", "k", "v"]
PARTS: tuple[Part, ...] = ("q", "k", "v")
Basis = Float[Tensor, "d d"]  # columns, the first ones kept first

#: What is written in the place of a part, so that the head's own kept part is seen by this head alone.
WRITTEN: dict[Part, Node] = {"q": "q", "k": "q", "v": "z"}


@dataclass(frozen=True)
class Space:
    """The mean of a head's queries, keys or values, and a basis of them."""

    part: Part
    mean: Float[Tensor, " d"]
    basis: Basis

    def projector(self, rank: int) -> Float[Tensor, "d d"]:
        """Onto the first `rank` columns."""
        kept = self.basis[:, :rank]
        return kept @ kept.T

    def kept(self, value: Float[Tensor, "*rows d"], rank: int) -> Float[Tensor, "*rows d"]:
        """``mean + P (x - mean)``."""
        return self.mean + (value - self.mean) @ self.projector(rank)


def principal(part: Part, values: Float[Tensor, "row d"]) -> Space:
    """Principal components of the rows, the one of most variance first; a full basis even of few rows."""
    mean = values.mean(0)
    _, vectors = torch.linalg.eigh((values - mean).T @ (values - mean))
    return Space(part, mean, vectors.flip(1))


def random(space: Space, generator: torch.Generator) -> Space:
    """The same mean with a basis drawn uniformly."""
    drawn = torch.randn(space.basis.shape, generator=generator, dtype=torch.float64)
    made, upper = torch.linalg.qr(drawn)
    return replace(space, basis=(made * upper.diagonal().sign()).to(space.basis.device))


def values_of(trace: Trace, part: Part, layer: int, head: int) -> Float[Tensor, "pair position d"]:
    """A head's queries, or the keys or values that it reads."""
    value = trace.value(part, layer)
    n_heads = trace.calls[layer].n_heads
    unit = head if part == "q" else head // (n_heads // value.shape[1])
    return value[:, unit].double()


def replaced(
    trace: Trace, space: Space, layer: int, head: int, rank: int
) -> Float[Tensor, "pair position d"]:
    """What stands in the place of the head's q or z so that its part is kept within the first dimensions.

    Keys are shared by the heads of a group, so they are cut where this head meets them: ``q · (mean + P (k - mean)) =
    (P q) · k + q · (mean - P mean)``, whose last term is the same for all keys of a row and leaves its softmax alone.
    Values likewise: ``Σ_j A_ij (mean + P (v_j - mean)) = P z_i + (mean - P mean) Σ_j A_ij``.
    """
    if space.part == "q":
        return space.kept(trace.value("q", layer)[:, head].double(), rank)
    if space.part == "k":
        return trace.value("q", layer)[:, head].double() @ space.projector(rank)
    held = space.projector(rank)
    mass = trace.value("pattern", layer)[:, head].double().sum(-1, keepdim=True)
    return trace.value("z", layer)[:, head].double() @ held + mass * (space.mean - space.mean @ held)


def cuts_keys(trace: Trace, layer: int) -> bool:
    """Whether keys can be cut for one head: with capped scores, or learned sinks, that term would not cancel."""
    scores = trace.calls[layer].scores
    return scores is not None and scores.softcap is None and scores.sinks is None


def moved(
    trace: Trace, space: Space, layer: int, head: int, value: Float[Tensor, "pair position d"]
) -> Tensor:
    """How far a replaced value moves what the head does, pair by pair, 0 to 1.

    For q and k: the total variation distance ``½ Σ_j |A'_ij - A_ij|``, mean over rows behind the first. For v: ``Σ_i
    ‖z'_i - z_i‖² / Σ_i ‖z_i - mean z‖²`` (it may pass 1 for bases that are not those of z).
    """
    if space.part == "v":
        z = trace.value("z", layer)[:, head].double()
        spread = (z - z.mean((0, 1))).square().sum((1, 2)).clamp_min(1e-12)
        return (value - z).square().sum((1, 2)) / spread
    call = trace.calls[layer]
    if call.scores is None:
        raise CaptureError(f"patterns of {call.place.module} were asked; it gave no queries and keys")
    query = call.scores.query.clone()
    query[:, head] = value.to(query)
    n_query, n_key = call.size[1:]
    made = pattern_block(replace(call.scores, query=query), call.layout, slice(0, n_query), slice(0, n_key))
    apart = (made[:, head] - trace.value("pattern", layer)[:, head]).double().abs().sum(-1) / 2
    return apart[:, 1:].mean(-1)
