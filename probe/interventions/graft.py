"""Other attention grafted onto layers: local or linear attention in the place of the model's own."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Unpack

import torch
from jaxtyping import Float
from probe_kernels.types import Edits
from torch import Tensor

from probe.errors import UnsupportedAttentionError, UsageError
from probe.interventions.editing import edit_scores
from probe.interventions.own_axis import refuse_cross
from probe.interventions.rewriting import rewrite_scores
from probe.interventions.target import Target, Where, name_of
from probe.seam.call import AttentionCall, Place
from probe.terms import HeadId

Kind = Literal["local", "linear"]


@dataclass(frozen=True)
class Graft:
    """Attention of the chosen layers (or of some of their heads) replaced; the model's mask stays.

    ``local``: keys `window` real tokens away or more are hidden (both sides in bidirectional attention).
    ``linear``: p_ij = phi(q_i)·phi(k_j) / Σ_j' phi(q_i)·phi(k_j') over visible keys, phi(x) = elu(x) + 1
    (Katharopoulos et al. 2020, arXiv:2006.16236). q and k are those that make the scores (after RoPE, with the key
    head of the group), and nothing else enters: no scale, softcap, position bias or learned sink. Both are computed
    inside the sweep, row by row, so that statistics follow: the result is that of linear attention, the cost is not.
    """

    target: Target
    kind: Kind
    window: int | None = None

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of("graft", self.target, kind=self.kind, window=self.window)

    @property
    def settles(self) -> dict[str, str]:
        """The chosen heads' pattern; a local graft only narrows it."""
        return {"pattern": "linear"} if self.kind == "linear" else {}

    @property
    def narrow(self) -> bool:
        """Whether it may hide nothing: a local graft of a wide window."""
        return self.kind == "local"

    def control(self, seed: int) -> "Graft":
        """The same, on as many other heads of each layer, drawn with `seed`; `UsageError` for whole layers."""
        return replace(self, target=self.target.control(seed))

    def require(self, places: Mapping[str, Place], heads: Mapping[str, int]) -> None:
        """Raise `InterventionError` for a local graft on cross-attention, where no key is near a query."""
        self.target.require(places, heads)
        if self.kind == "local":
            refuse_cross(self.name, self.target, places)

    def edits(self, call: AttentionCall) -> Edits:
        """The scores of the other attention."""
        if not self.target.applies(call):
            return Edits()
        return self._local(call) if self.kind == "local" else self._linear(call)

    def _local(self, call: AttentionCall) -> Edits:
        query, key, window = call.query_index, call.key_index, self.window or 1

        def cut(scores: Tensor, rows: slice, keys: slice) -> Tensor:
            far = (query[:, rows, None] - key[:, None, keys]).abs() >= window
            return scores.masked_fill(far[:, None], float("-inf"))

        return edit_scores(self.target, call, cut)

    def _linear(self, call: AttentionCall) -> Edits:
        scores = call.scores
        if scores is None:
            raise UnsupportedAttentionError(
                f"{call.place.module}: there are no queries and keys in this call"
            )
        heads = list(self.target.heads_of(call))
        shared = [head // (scores.query.shape[1] // scores.key.shape[1]) for head in heads]

        def linear(block: Tensor, rows: slice, keys: slice) -> Tensor:
            query = scores.query[:, heads, rows].to(block.dtype)
            return _log_products(query, scores.key[:, shared, keys].to(block.dtype))

        return rewrite_scores(self.target, call, linear)


def _log_products(
    query: Float[Tensor, "batch head rows d_qk"], key: Float[Tensor, "batch head keys d_qk"]
) -> Float[Tensor, "batch head rows keys"]:
    """log(phi(q)·phi(k)) up to a number per row, which no row's normalisation sees."""
    log_phi = _log_phi(query)
    level = (log_phi - log_phi.amax(-1, keepdim=True)).exp()
    weights = torch.matmul(level, _log_phi(key).exp().transpose(-1, -2))
    return weights.clamp_min(torch.finfo(weights.dtype).tiny).log()


def _log_phi(x: Tensor) -> Tensor:
    """log(elu(x) + 1), which is x itself below 0."""
    return torch.where(x > 0, x.clamp_min(0).log1p(), x)


def graft(
    kind: Kind,
    window: int | None = None,
    heads: Iterable[str | HeadId] | None = None,
    **where: Unpack[Where],
) -> Graft:
    """Replace the attention of layers by local (sliding-window) or linear (ELU + 1) attention.

    Args:
        kind: ``local`` or ``linear`` (Katharopoulos et al. 2020, arXiv:2006.16236).
        window: Of ``local``: how many tokens, the query's own included, a row sees; 1 or more.
        heads: Heads such as ``["L18.H6"]``, of which only those are replaced; whole layers if left out.
        **where: Layers, such as ``layers=[3, 4]``, which must be given where heads are not; tower, query rows and
            phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: neither layers nor heads, an unknown kind, a window that is missing, below 1 or of no use, a head,
            span or phase that cannot be one.
    """
    if where.get("layers") is None and heads is None:
        raise UsageError(
            "graft was asked without layers; name layers=[...] whose attention is replaced, or heads"
        )
    if kind not in ("local", "linear"):
        raise UsageError(f"graft with kind={kind!r} was asked; there are local and linear")
    if kind == "linear" and window is not None:
        raise UsageError(f"graft with kind=linear and window={window} was asked; only local has a window")
    if kind == "local" and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise UsageError(f"graft with kind=local and window={window!r} was asked; window is 1 token or more")
    return Graft(Target.of(heads, where), kind, window)
