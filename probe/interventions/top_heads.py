"""Per token only the largest heads write; the others are silenced."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Unpack, get_args

import numpy as np
import torch
from jaxtyping import Bool
from probe_kernels.types import Attended
from torch import Tensor, nn

from probe.errors import InterventionError, UsageError
from probe.interventions.editing import edit_z
from probe.interventions.head_norms import largest, query_norms, z_norms
from probe.interventions.target import Target, Where, name_of
from probe.interventions.write_norms import Factor, write_factors, write_norms
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.call import AttentionCall, Place
from probe.seam.places import places
from probe.terms import HeadId

By = Literal["query_norm", "z_norm", "write_norm"]

_PROBE_TOKENS = 4  # enough to see what a projection is given


@dataclass(frozen=True)
class TopHeads:
    """z_h := 0 unless h is among the `keep` largest of the chosen heads at that token.

    With `drawn` set, the heads to keep are drawn at random for every layer and token: the control.
    """

    target: Target
    keep: int
    by: By
    drawn: int | None = None
    factors: Mapping[str, Factor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of("top_heads", self.target, k=self.keep, by=self.by, control=self.drawn)

    def control(self, seed: int) -> "TopHeads":
        """As many heads at every token, drawn at random with `seed`.

        The draw depends on the layer and on the token's number in its prompt alone, so that a cached continuation, a
        batch and padding draw alike. Heads of the edit itself may be drawn: more than half may be kept.
        """
        return replace(self, drawn=seed)

    def require(self, where: Mapping[str, Place], heads: Mapping[str, int]) -> None:
        """Raise `UsageError` where a layer has no head to silence."""
        self.target.require(where, heads)
        for module, place in where.items():
            require_fewer(self.name, self.keep, self.target, (module, place), heads)

    def prepare(self, loaded: LoadedModel, prompts: Sequence[Prompt] | None) -> "TopHeads":
        """Find W_O of every chosen layer, where norms after it are asked for."""
        if self.by != "write_norm" or self.drawn is not None:
            return self
        wanted = [name for name, place in places(loaded.model).items() if self.target.covers(place)]
        _require_text(loaded.model, self.name)
        tokens = prompts[0].tokens[:_PROBE_TOKENS] if prompts else tuple(range(_PROBE_TOKENS))
        return replace(self, factors=write_factors(loaded, tokens, wanted, self.name))

    def attended(self, call: AttentionCall, attended: Attended) -> Attended:
        """The result with the smaller heads of every token silenced."""
        heads = self.target.heads_of(call)
        if len(heads) <= self.keep or attended.z is None:
            return attended
        kept = self._kept(call, attended, heads)
        return edit_z(
            self.target, call, attended, lambda z: torch.where(kept[..., None], z, torch.zeros_like(z))
        )

    def _kept(
        self, call: AttentionCall, attended: Attended, heads: tuple[int, ...]
    ) -> Bool[Tensor, "batch chosen query_pos"]:
        if self.drawn is not None:
            return drawn_heads(self.drawn, call, len(heads), self.keep)
        if self.by == "query_norm":
            return largest(query_norms(call, heads), self.keep)
        if self.by == "z_norm":
            return largest(z_norms(attended, heads), self.keep)
        factor = self.factors.get(call.place.module)
        if factor is None:
            raise InterventionError(
                f"{self.name} was asked of {call.place.module}, whose output projection is not known: "
                "give it to probe.edit, analyze or observe, which prepare it"
            )
        return largest(write_norms(attended, factor, heads), self.keep)


def drawn_heads(
    seed: int, call: AttentionCall, n_heads: int, keep: int
) -> Bool[Tensor, "batch chosen query_pos"]:
    """`keep` of `n_heads` heads per token, at random; the same for the same layer and the same token number."""
    index = call.query_index
    tower = sum(call.place.tower.encode())
    draw = np.random.default_rng([seed, call.place.layer, tower])
    values = torch.from_numpy(draw.random((int(index.amax()) + 1, n_heads)))
    picked = values.to(index.device)[index.clamp_min(0)]
    return largest(picked.transpose(1, 2), keep)


def require_fewer(
    asked: str, keep: int, target: Target, where: tuple[str, Place], heads: Mapping[str, int]
) -> None:
    """Raise `UsageError` where a chosen layer has at most `keep` heads to choose from."""
    module, place = where
    if module not in heads or not target.covers(place):
        return
    there = len(target.among(place, heads[module]))
    if keep >= there:
        raise UsageError(
            f"{asked} was asked; layer {place.layer} ({place.tower}) has {there} heads to choose from, so none would "
            f"be silenced: keep fewer than {there}"
        )


def checked_keep(keep: object, what: str) -> int:
    """The number of heads to keep; raises `UsageError` unless a whole number of at least 1."""
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise UsageError(f"{what}={keep!r} was asked; it is the number of heads to keep, 1 or more")
    return keep


def _require_text(model: nn.Module, asked: str) -> None:
    if getattr(model, "main_input_name", "input_ids") != "input_ids":
        raise InterventionError(
            f"{asked} was asked; {type(model).__name__} reads no token ids, so its output projections cannot be found "
            "beforehand: choose by z_norm or query_norm"
        )


def top_heads(
    k: int, by: By = "query_norm", heads: Iterable[str | HeadId] | None = None, **where: Unpack[Where]
) -> TopHeads:
    """Keep the `k` largest heads of every token and set the z of the others to zero.

    Heads compete within a layer, anew at every token, prompt and generated ones alike. After the observation that
    not every token needs every head (Jin et al. 2024, MoH, arXiv:2410.11842); without their training.

    Args:
        k: Heads that stay per layer and token, at least 1.
        by: ``query_norm`` ‖q_h‖ (q as scores are made from it, after RoPE and any norm of q), ``z_norm`` ‖z_h‖, or
            ``write_norm`` ‖W_O[h] z_h‖, what the head adds to the residual stream (without the bias).
        heads: Heads that compete, such as ``["L18.H6"]``; heads left out always write. All of them if not given.
        **where: Layers, tower, query rows and phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: a number, norm, head, layer, span or phase that cannot be one.
        InterventionError: ``write_norm`` on a model whose W_O is not found or is not given z itself.
    """
    if by not in get_args(By):
        raise UsageError(f"by={by!r} was asked; there are {', '.join(get_args(By))}")
    return TopHeads(Target.of(heads, where, selects=("per_step",)), checked_keep(k, "k"), by)
