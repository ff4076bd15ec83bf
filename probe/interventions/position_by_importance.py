"""Documents placed by what each query finds in them: the second half of position-invariant inference (PINE)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

import torch
from probe_kernels.types import Edits
from torch import Tensor

from probe.errors import InterventionError, UsageError
from probe.interventions.bidirectional_segments import require_decoder, require_whole
from probe.interventions.blocks import Memo, names_of, require_blocks
from probe.interventions.editing import edit_scores
from probe.interventions.importance import Free
from probe.interventions.positions import placed
from probe.interventions.rotary import Rotation, rotations
from probe.interventions.target import Region, Target, name_of
from probe.interventions.windows import cuts, note
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.call import AttentionCall, Batch, Phase, Place
from probe.terms import HeadId


@dataclass(frozen=True)
class PositionByImportance:
    """Per head and row, documents stand behind the prefix by ascending importance to the row, its own one last.

    With documents of n_1 … n_m tokens behind a prefix of a, the least important takes the positions a … a + n − 1, the
    next goes on, and the last ends at a + Σ n − 1, whatever their lengths. Prefix, suffix and generated tokens keep
    their positions; a query of a document moves with it.
    """

    target: Target
    spans: tuple[str, ...]
    turns: Mapping[str, Rotation | None] = field(default_factory=dict, compare=False, repr=False)
    memo: Memo = field(default_factory=Memo, compare=False, repr=False)
    cut: set[str] = field(
        default_factory=set, compare=False, repr=False
    )  # layers whose window hides documents

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of("position_by_importance", self.target, spans="+".join(self.spans))

    @property
    def notes(self) -> list[str]:
        """Layers in which a sliding window brought the order back."""
        return note(self.name, self.cut)

    @property
    def settles(self) -> dict[str, str]:
        """Where documents stand."""
        return {"document positions": "by importance"}

    def control(self, seed: int) -> "PositionByImportance":
        """The same, in as many other heads of each layer, drawn with `seed`."""
        return replace(self, target=self.target.control(seed))

    def require(self, places: Mapping[str, Place], heads: Mapping[str, int]) -> None:
        """Raise `InterventionError` for a model without a decoder."""
        require_decoder(places, self.name)
        self.target.require(places, heads)

    def prepare(self, loaded: LoadedModel, prompts: Sequence[Prompt] | None) -> "PositionByImportance":
        """Check the documents of every prompt, and find and prove how each layer turns its keys."""
        require_blocks(prompts, self.spans, self.name)
        return replace(self, turns=rotations(loaded.model, self.name))

    def live(self) -> "PositionByImportance":
        """A copy for one session."""
        return replace(self, memo=Memo(), cut=set())

    def inputs(self, keywords: dict[str, Any], batch: Batch, phase: Phase) -> dict[str, Any]:
        """The keywords with positions that count real tokens, so that keys can be turned back; as a rule the same."""
        return placed(keywords, batch, lambda index: index, self.name)

    def edits(self, call: AttentionCall) -> Edits:
        """Scores with keys turned to the positions of their documents, inside the sweep."""
        heads = self.target.heads_of(call)
        if not heads:
            return Edits()
        rotation = self._rotation(call)
        blocks = self.memo.of(call.batch, self.spans, call.layout.key_pos.device)
        free = Free(call, rotation, blocks, heads) if rotation is not None else None
        if free is None or not bool((free.key_block >= 0).any()):
            return Edits()
        require_whole((free.query_block >= 0).sum(1), blocks.total, self.name)
        if cuts(call, blocks):
            self.cut.add(call.place.module)
        placing = _Placing(free.turned_back(), self.memo.ranks(call.batch, blocks))
        return edit_scores(self.target, call, placing.apply)

    def _rotation(self, call: AttentionCall) -> Rotation | None:
        module = call.place.module
        if module not in self.turns:
            raise InterventionError(
                f"{self.name} reached {module}, whose rotary embedding was not proven: "
                "prepare it for this model (probe.edit and analyze do)"
            )
        if call.scores is None or call.scores.bias is not None:
            raise InterventionError(
                f"{self.name} reached {module}, which was given a mask that adds to scores: "
                "use a mask of 0 and 1, one number per token"
            )
        return self.turns[module]


def position_by_importance(
    spans: Iterable[str], heads: Iterable[str | HeadId] | None = None, **where: Unpack[Region]
) -> PositionByImportance:
    """Place a prompt's documents by their importance to each head and row, not by their order in the prompt.

    The second half of PINE (Wang et al. 2024, arXiv:2407.01100): importance is the mean attention without RoPE over a
    document's tokens (see `probe.interventions.importance`); keys are turned to their new positions. After
    ``bidirectional_segments(spans)`` in the list, and on every head, the continuation is the same for any order of the
    documents; alone it is not. It sets scores anew: edits of scores before it in the list are lost at these keys.
    Costs about three times the scores of the layer.

    Args:
        spans: The documents, side by side: names of spans, or one name for all spans ``name:…``.
        heads: Heads such as ``["L18.H6"]``; all heads of the chosen layers if left out.
        **where: Layers and phase: see `probe.interventions.target.Region`.

    Raises:
        UsageError: no names, a name twice, a tower that is no decoder. Where prompts are given: `InputError` for spans
            that are no adjacent blocks, `InterventionError` for a model whose keys do not turn with their position.
    """
    tower = where.get("tower") or "decoder"
    if tower != "decoder":
        raise UsageError(
            f"position_by_importance of the tower {tower!r} was asked; only a decoder's documents have an order"
        )
    return PositionByImportance(Target.of(heads, {**where, "tower": tower}), names_of(spans))


@dataclass(frozen=True)
class _Placing:
    """The scores of a block with every document where its row wants it."""

    free: Free
    rank: Tensor

    def apply(self, block: Tensor, rows: slice, keys: slice) -> Tensor:
        """New scores at the documents' keys, and at every key for rows of documents, which move themselves."""
        starts = self.free.starts(rows, self.rank)
        made = [self._of_sequence(b, starts[b], block[b], rows, keys) for b in range(block.shape[0])]
        return torch.where(block.isneginf(), block, torch.stack(made).to(block.dtype))

    def _of_sequence(self, b: int, starts: Tensor, block: Tensor, rows: slice, keys: slice) -> Tensor:
        free, blocks = self.free, self.free.blocks
        own, index = free.query_block[b, rows], free.call.query_index[b, rows]
        offset = blocks.offset(free.call.query_index)[b, rows]
        position = index.expand(starts.shape[:2])
        moved = (
            starts.gather(-1, own.clamp_min(0)[None, :, None].expand(starts.shape[0], -1, 1))[..., 0] + offset
        )
        position = torch.where(own >= 0, moved, position)
        made, number = block.clone(), free.key_block[b, keys]
        for one in range(-1, starts.shape[-1]):
            at = (number == one).nonzero()[:, 0]
            if not len(at):
                continue
            away = position if one < 0 else position - starts[..., one]
            query = free.rotation.turn(free.query[b, :, rows], away)
            place = (free.call.key_index if one < 0 else blocks.offset(free.call.key_index))[b, keys][at]
            key = free.rotation.turn(free.key[b, :, keys][:, at], place)[free.kv_heads]
            scores = free.softcapped(query @ key.transpose(-1, -2)).to(block.dtype)
            made[..., at] = torch.where((own >= 0)[:, None], scores, made[..., at]) if one < 0 else scores
        return made
