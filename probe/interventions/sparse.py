"""A sparse pattern put on heads: what it does not keep is hidden, and the rest of the row is renormalised."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Unpack

import torch
from jaxtyping import Bool
from probe_kernels.mask import Mask, Predicate, Tile
from probe_kernels.select import Pattern
from probe_kernels.types import Edits
from torch import Tensor

from probe.errors import UsageError
from probe.interventions.editing import edit_scores
from probe.interventions.own_axis import refuse_cross
from probe.interventions.pattern_specs import inside, names_pattern, read_pattern
from probe.interventions.selecting import Selecting
from probe.interventions.sparse_rules import SparseRule, read_rules
from probe.interventions.target import Target, Where, name_of
from probe.seam.call import AttentionCall, Place
from probe.terms import HeadId

# Any rule of a user's own: (call, rows, keys) -> bool, broadcastable to [batch, heads or 1, rows, keys] or
# [batch, rows, keys]; rows and keys are storage slices.
OwnRule = Callable[[AttentionCall, slice, slice], Tensor]
Kept = SparseRule | Pattern | Predicate | Mask | OwnRule


@dataclass(frozen=True)
class SparsePattern:
    """s := -inf at every key that no rule keeps, at the chosen heads and rows; a row without a kept key gives z = 0.

    The model's own mask stays: a pattern only narrows. Distances and places are counted in real tokens, so that left
    padding changes nothing. A `Pattern` of the kernels selects anew in every call, decode steps included. Papers:
    sparse transformers (arXiv:1904.10509: stride), Longformer (arXiv:2004.05150: window, dilated), StreamingLLM
    (arXiv:2309.17453: sink+window), top-k attention (arXiv:2106.06899: topk).
    """

    target: Target
    keep: tuple[Kept, ...]
    narrow: ClassVar[bool] = True
    selecting: Selecting | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """How reports name it; a rule of one's own by its name."""
        return name_of("pattern", self.target, keep="+".join(_text(one) for one in self.keep))

    @property
    def may_rest(self) -> bool:
        """Whether it may change nothing: a pattern of the kernels keeps all of a short text."""
        return any(isinstance(one, Pattern) for one in self.keep)

    def live(self) -> "SparsePattern":
        """A copy for one session, in which patterns remember what they chose in earlier layers of a forward."""
        return replace(self, selecting=Selecting())

    def control(self, seed: int) -> "SparsePattern":
        """The same pattern, on as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def require(self, places: Mapping[str, Place], heads: Mapping[str, int]) -> None:
        """Raise `InterventionError` where a rule compares places of queries and keys that lie on different axes."""
        self.target.require(places, heads)
        if any(
            isinstance(one, Pattern) or (isinstance(one, SparseRule) and one.relative) for one in self.keep
        ):
            refuse_cross(self.name, self.target, places)

    def edits(self, call: AttentionCall) -> Edits:
        """Hide what no rule keeps."""
        if not self.target.applies(call):
            return Edits()
        query, key, heads = call.query_index, call.key_index, list(self.target.heads_of(call))
        selecting = self.selecting or Selecting()
        chosen = {id(one): selecting.of(one, call) for one in self.keep if isinstance(one, Pattern)}

        def cut(scores: Tensor, rows: slice, keys: slice) -> Tensor:
            kept = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=scores.device)
            for one in self.keep:
                if isinstance(one, Pattern):
                    seen = chosen[id(one)].visible(rows, keys)
                    kept = kept | (seen if seen.shape[1] == 1 else seen[:, heads])
                elif isinstance(one, SparseRule) and one.shown is None:
                    kept = kept | _largest(scores, one.count)
                elif isinstance(one, SparseRule | Predicate | Mask):
                    kept = kept | _by_place(one, call, (query, key), rows, keys)[:, None]
                else:
                    kept = kept | _own(one, call, scores, rows, keys)
            return scores.masked_fill(~kept, float("-inf"))

        return edit_scores(self.target, call, cut)


def _largest(scores: Tensor, count: int) -> Tensor:
    least = scores.topk(min(count, scores.shape[-1]), dim=-1).values[..., -1:]
    return scores >= least


def _by_place(
    one: SparseRule | Predicate | Mask,
    call: AttentionCall,
    index: tuple[Tensor, Tensor],
    rows: slice,
    keys: slice,
) -> Bool[Tensor, "batch rows keys"]:
    """A rule over places, asked with numbers of real tokens."""
    query, key = index[0][:, rows, None], index[1][:, None, keys]
    if isinstance(one, SparseRule) and one.shown is not None:
        return one.shown(query - key, query, key)
    layout = call.layout
    tile = Tile(
        query,
        key,
        None if layout.query_segment is None else layout.query_segment[:, rows, None],
        None if layout.key_segment is None else layout.key_segment[:, None, keys],
        rows,
        keys,
    )
    seen = one.visible(tile) if isinstance(one, Predicate | Mask) else None
    return torch.ones_like(query == key) if seen is None else seen


def _own(one: OwnRule, call: AttentionCall, scores: Tensor, rows: slice, keys: slice) -> Tensor:
    found = one(call, rows, keys)
    if not isinstance(found, Tensor) or found.dtype != torch.bool or found.ndim not in (2, 3, 4):
        raise UsageError(
            f"pattern was given the rule {_text(one)}; it answered {type(found).__name__} "
            f"{getattr(found, 'dtype', '')}: answer a bool tensor [batch, (heads,) rows, keys]"
        )
    shown = found[:, None] if found.ndim == 3 else found
    try:
        return shown.expand_as(scores)
    except RuntimeError as error:
        raise UsageError(
            f"pattern was given the rule {_text(one)}; it answered a tensor of shape {tuple(found.shape)} for scores "
            f"{tuple(scores.shape)} [batch, chosen heads, rows, keys]"
        ) from error


def _text(one: Kept) -> str:
    if isinstance(one, SparseRule):
        return one.text
    if isinstance(one, Pattern):
        return inside(one)
    if isinstance(one, Mask):
        return "mask(" + " and ".join(one.names) + ")"
    name = one.name if isinstance(one, Predicate) else getattr(one, "__name__", type(one).__name__)
    return f"rule({name})"


def pattern(
    keep: str | Pattern | Predicate | Mask | OwnRule | Sequence[str | Pattern | Predicate | Mask | OwnRule],
    heads: Iterable[str | HeadId] | None = None,
    **where: Unpack[Where],
) -> SparsePattern:
    """Put a sparse pattern on heads: keys that none of its rules keeps are hidden, the rest is renormalised.

    Args:
        keep: Text such as ``"window=128+sink=4"`` (a key is kept if any rule keeps it): ``window=W``, ``sink=N``,
            ``stride=S``, ``dilated=WxD``, ``block=B``, ``topk=K`` (`probe.interventions.sparse_rules`). Or the spec of
            one pattern of `probe_kernels.select`, ``"sink_recent:sinks=4,recent=256"``; inside another spec with ``;``
            in place of its commas. In Python also such a pattern itself, a `Predicate` or `Mask` of
            `probe_kernels.mask`, whose positions are numbers of real tokens, a function ``(call, rows, keys) -> bool``
            tile ``[batch, (heads,) rows, keys]``, or a list of all these.
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        **where: Layers, tower, query rows and phase: see `probe.interventions.target.Where`.

    Raises:
        UsageError: a pattern that cannot be read; a head, layer, span or phase that cannot be one.
    """
    return SparsePattern(Target.of(heads, where), _kept(keep))


def _kept(keep: object) -> tuple[Kept, ...]:
    if isinstance(keep, str):
        return (read_pattern(keep),) if names_pattern(keep) else read_rules(keep)
    if isinstance(keep, Pattern | Predicate | Mask) or callable(keep):
        return (keep,)
    if isinstance(keep, Sequence) and keep:
        return tuple(rule for one in keep for rule in _kept(one))
    raise UsageError(
        f"pattern with keep={keep!r} was asked; give text such as window=128+sink=4, a pattern or its spec, a "
        "Predicate, a Mask, a function (call, rows, keys) -> bool, or a list of them"
    )
