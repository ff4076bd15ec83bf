"""Documents that see one another both ways: the first half of position-invariant inference (PINE)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Unpack

from probe_kernels.mask import Predicate, Span, Tile
from probe_kernels.types import Edits
from torch import Tensor

from probe.errors import InterventionError, UsageError
from probe.interventions.blocks import Memo, names_of, require_blocks
from probe.interventions.target import Region, Target, name_of
from probe.interventions.widening import Wider, rehide, widen
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.call import AttentionCall, Place

_NOWHERE = (2**62, -(2**62))
# Rules that say as much of (key, query) as of (query, key), asked with the two exchanged.
_EXCHANGEABLE = ("causal", "within(", "near(", "same_chunk(")


@dataclass(frozen=True)
class BidirectionalSegments:
    """Every token of a document sees every token of every document; the prefix and the suffix stay causal.

    A sliding window holds in both directions.
    """

    target: Target
    spans: tuple[str, ...]
    memo: Memo = field(default_factory=Memo, compare=False, repr=False)

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of("bidirectional_segments", self.target, spans="+".join(self.spans))

    @property
    def settles(self) -> dict[str, str]:
        """What documents see of each other."""
        return {"document mask": "together"}

    def control(self, seed: int) -> "BidirectionalSegments":
        """Not to be had: raises `InterventionError`."""
        raise InterventionError(
            f"a control of {self.name} was asked (seed {seed}); it opens the mask of every head of a layer, "
            "so there are no others: compare with other spans"
        )

    def require(self, places: Mapping[str, Place], heads: Mapping[str, int]) -> None:
        """Raise `InterventionError` for a model without a decoder."""
        require_decoder(places, self.name)
        self.target.require(places, heads)

    def prepare(self, loaded: LoadedModel, prompts: Sequence[Prompt] | None) -> "BidirectionalSegments":
        """Check the documents of every prompt."""
        require_blocks(prompts, self.spans, self.name)
        return self

    def live(self) -> "BidirectionalSegments":
        """A copy for one session."""
        return replace(self, memo=Memo())

    def call(self, call: AttentionCall) -> AttentionCall:
        """The call with later keys of documents shown to the documents' queries."""
        if not self.target.applies(call) or call.place.tower != "decoder":
            return call
        blocks = self.memo.of(call.batch, self.spans, call.layout.key_pos.device)
        query, key = blocks.number(call.query_index) >= 0, blocks.number(call.key_index) >= 0
        if not bool(query.any()):
            return call
        require_whole(query.sum(1), blocks.total, self.name)
        return widen(call, _among(query, key, call, self.name))

    def edits(self, call: AttentionCall) -> Edits:
        """What other interventions opened for some heads stays theirs."""
        return rehide(call) if self.target.applies(call) and call.place.tower == "decoder" else Edits()


def bidirectional_segments(spans: Iterable[str], **where: Unpack[Region]) -> BidirectionalSegments:
    """Let the documents of a prompt see one another both ways.

    The first half of PINE (Wang et al. 2024, arXiv:2407.01100); with `position_by_importance` after it in the list the
    continuation no longer depends on the documents' order. The documents must come in one forward.

    Args:
        spans: The documents, side by side: names of spans, or one name for all spans ``name:…``.
        **where: Layers, tower and phase: see `probe.interventions.target.Region`.

    Raises:
        UsageError: no names, or a name twice. Where prompts are given: `InputError` for spans that are no adjacent
            blocks, `UnknownNameError` for spans that are not there.
    """
    if "queries" in where:
        raise UsageError(
            "bidirectional_segments with queries was asked; documents see each other as a whole: leave queries out"
        )
    return BidirectionalSegments(
        Target.of(None, {**where, "tower": where.get("tower") or "decoder"}), names_of(spans)
    )


def require_decoder(places: Mapping[str, Place], what: str) -> None:
    """Raise `InterventionError` where no tower reads a prompt from left to right."""
    towers = sorted({place.tower for place in places.values()})
    if "decoder" not in towers:
        raise InterventionError(
            f"{what} was asked; the model has {', '.join(towers)} and no decoder, whose prefix and suffix would "
            "be causal: use set_based"
        )


def require_whole(present: Tensor, total: Tensor, what: str) -> None:
    """Raise `InterventionError` where a forward brings a part of a prompt's documents only."""
    if bool(((present > 0) & (present < total)).any()):
        raise InterventionError(
            f"{what} was asked; a forward brought {int(present.max())} of the {int(total.max())} tokens of the "
            "documents, and those that came before could no longer see the rest: give prompts in one piece"
        )


def _among(query: Tensor, key: Tensor, call: AttentionCall, what: str) -> Predicate:
    """True for a key of the documents that the query sees, or that sees the query, by the model's own mask."""
    layout = call.layout
    own = layout.own.mask if isinstance(layout, Wider) and layout.own is not None else layout.mask
    rules = [*own.all_of, *own.any_of]
    strange = [one.name for one in rules if not one.name.startswith(_EXCHANGEABLE)]
    if strange:
        raise InterventionError(
            f"{what} was asked of {call.place.module}; its mask has the rule {strange[0]!r}, whose opposite "
            "direction is not known: leave this layer out"
        )
    lo, hi = _extent(layout.query_pos, query), _extent(layout.key_pos, key)

    def visible(tile: Tile) -> Tensor:
        both = query[:, tile.rows, None] & key[:, None, tile.keys]
        back = own.visible(_exchanged(tile))
        return both if back is None else both & back

    def reach(first: int, last: int) -> Span:
        return hi if first <= lo[1] and last >= lo[0] else _NOWHERE

    return Predicate("documents", visible, reach)


def _exchanged(tile: Tile) -> Tile:
    """The tile with keys in the place of queries; shapes still broadcast to rows and keys."""
    return replace(tile, query_pos=tile.key_pos, key_pos=tile.query_pos)


def _extent(positions: Tensor, chosen: Tensor) -> tuple[int, int]:
    """First and last storage position of the chosen tokens."""
    at = positions.expand(chosen.shape)[chosen]
    return (int(at.min()), int(at.max())) if at.numel() else _NOWHERE
