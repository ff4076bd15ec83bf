"""Set-based prompting: documents in parallel, so that the model cannot tell their order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from probe_kernels.mask import Mask, Tile, rule
from torch import Tensor

from probe.errors import InterventionError
from probe.interventions.blocks import Memo, names_of, require_blocks
from probe.interventions.order_free import require_order_free
from probe.interventions.positions import placed, require_positions
from probe.interventions.target import Target, name_of
from probe.interventions.windows import cuts, note
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.call import AttentionCall, Batch, Phase

_TOWERS = ("decoder", "encoder")  # those that read the prompt


@dataclass(frozen=True)
class SetBased:
    """No document sees another, all start at the position where the prefix ends, and the suffix follows the longest.

    The rest of the model's mask stays as it is, by storage order; a sliding window still counts storage positions.
    """

    target: Target
    spans: tuple[str, ...]
    memo: Memo = field(default_factory=Memo, compare=False, repr=False)
    cut: set[str] = field(
        default_factory=set, compare=False, repr=False
    )  # layers whose window hides documents

    @property
    def name(self) -> str:
        """How reports name it."""
        return name_of("set_based", self.target, spans="+".join(self.spans))

    @property
    def notes(self) -> list[str]:
        """Layers in which a sliding window brought the order back."""
        return note(self.name, self.cut)

    @property
    def settles(self) -> dict[str, str]:
        """Where documents stand, and what they see of each other."""
        return {"document positions": "parallel", "document mask": "apart"}

    def control(self, seed: int) -> "SetBased":
        """Not to be had: raises `InterventionError`."""
        raise InterventionError(
            f"a control of {self.name} was asked (seed {seed}); it acts through every head at once, "
            "so there are no others: compare with the documents in another order"
        )

    def prepare(self, loaded: LoadedModel, prompts: Sequence[Prompt] | None) -> "SetBased":
        """Check the documents of every prompt, and prove on this model that their order no longer matters."""
        require_blocks(prompts, self.spans, self.name)
        require_positions(loaded.model, self.name)
        require_order_free(loaded.model, lambda names: replace(self, spans=names).live(), self.name)
        return self

    def live(self) -> "SetBased":
        """A copy for one session."""
        return replace(self, memo=Memo(), cut=set())

    def inputs(self, keywords: dict[str, Any], batch: Batch, phase: Phase) -> dict[str, Any]:
        """The keywords with every document at the same positions."""

        def position_of(index: Tensor) -> Tensor:
            blocks = self.memo.of(batch, self.spans, index.device)
            first, total, longest = (one[:, None] for one in (blocks.first, blocks.total, blocks.longest))
            inside = first + blocks.offset(index)
            after = index - total + longest
            return torch.where(blocks.number(index) >= 0, inside, torch.where(index < first, index, after))

        return placed(keywords, batch, position_of, self.name)

    def call(self, call: AttentionCall) -> AttentionCall:
        """The call with documents hidden from one another."""
        if call.place.tower not in _TOWERS:
            return call
        blocks = self.memo.of(call.batch, self.spans, call.layout.key_pos.device)
        if cuts(call, blocks):
            self.cut.add(call.place.module)
        query, key = blocks.number(call.query_index), blocks.number(call.key_index)
        if not bool((query >= 0).any()):
            return call

        def apart(tile: Tile) -> Tensor:
            one, other = query[:, tile.rows, None], key[:, None, tile.keys]
            return (one < 0) | (other < 0) | (one == other)

        own = call.layout.mask
        if any(one.name.startswith("chosen_by") for one in own.all_of):
            raise InterventionError(
                f"{self.name} was asked of {call.place.module}; an indexer chooses which keys it sees, and it still "
                "knows the documents' order"
            )
        mask = Mask((*own.all_of, rule("parallel", apart)), own.any_of)
        return replace(call, layout=replace(call.layout, mask=mask))


def set_based(spans: Iterable[str]) -> SetBased:
    """Let a prompt's documents stand in parallel: any order of them gives the same continuation.

    Set-Based Prompting (McIlroy-Young et al. 2024, arXiv:2406.06581). With a prefix of a tokens, every document takes
    the positions a, a+1, …, and the suffix goes on at a + the longest document's length. It acts on whole prompts,
    through every head, in prefill and at decode.

    Args:
        spans: The documents: names of spans, or one name for all spans that begin with it and a colon (``doc`` for
            ``doc:0``, ``doc:1``, …). They stand side by side in the prompt.

    Raises:
        UsageError: no names, or a name twice. Where prompts are given: `InputError` for spans that are no adjacent
            blocks, `UnknownNameError` for spans that are not there; `InterventionError` for a model that takes no
            positions, or in which they are not all that tells the order.
    """
    return SetBased(Target(), names_of(spans))
