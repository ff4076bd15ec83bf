"""A pattern drawn towards the identity: every token attends to itself."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Unpack

import torch
from probe_kernels.types import Edits
from torch import Tensor

from probe.errors import UsageError
from probe.interventions.editing import edit_probs, visible_to
from probe.interventions.own_axis import refuse_cross
from probe.interventions.target import Target, Where, name_of
from probe.seam.call import AttentionCall, Place
from probe.terms import HeadId


@dataclass(frozen=True)
class ToIdentity:
    """p := (1 - u)·p + u at the key of the query's own position, so that z becomes (1 - u)·z + u·v_i.

    A row whose own key is hidden from it (padding, keys chosen by an indexer) stays as it is. A learned sink's mass is
    scaled by 1 - u, so that rows keep their sum with it. Paper: SoftPAG (HeadHunter, arXiv:2506.10978); u = 1 is
    perturbed attention guidance (arXiv:2403.17377).
    """

    target: Target
    u: float

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of("to_identity", self.target, u=self.u)

    @property
    def settles(self) -> dict[str, str]:
        """The chosen heads' pattern, where nothing of it is left."""
        return {"pattern": "the query's own key"} if self.u == 1 else {}

    def control(self, seed: int) -> "ToIdentity":
        """The same, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def require(self, places: Mapping[str, Place], heads: Mapping[str, int]) -> None:
        """Raise `InterventionError` for cross-attention, where no key is the query's own."""
        self.target.require(places, heads)
        refuse_cross(self.name, self.target, places)

    def edits(self, call: AttentionCall) -> Edits:
        """Mix the identity into the probabilities."""
        if not self.target.applies(call):
            return Edits()
        at, of = call.layout.query_pos, call.layout.key_pos
        heads = self.target.heads_of(call)

        def mix(p: Tensor, rows: slice, keys: slice) -> Tensor:
            at_own = (of[:, None, keys] == at[:, rows, None])[:, None]
            own = at_own & visible_to(call, heads, rows, keys)
            mixed = (1 - self.u) * p + self.u * own.to(p.dtype)
            return torch.where(own.any(-1, keepdim=True), mixed, p)

        return edit_probs(self.target, call, mix, sink=1 - self.u)


def to_identity(
    u: float = 1.0, heads: Iterable[str | HeadId] | None = None, **where: Unpack[Where]
) -> ToIdentity:
    """Interpolate a pattern to the identity: A' = (1 - u)·A + u·I.

    SoftPAG (HeadHunter, arXiv:2506.10978). The identity is the key at the query's own position.

    Args:
        u: Share of the identity, 0 to 1; 1 lets every token see itself only.
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        **where: Layers, tower, query rows and phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: u outside [0, 1]; a head, layer, span or phase that cannot be one.
    """
    if not (isinstance(u, int | float) and 0 <= u <= 1):
        raise UsageError(f"to_identity with u={u!r} was asked; u is a share, from 0 to 1")
    return ToIdentity(Target.of(heads, where), float(u))
