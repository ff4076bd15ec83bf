"""Recorded values as another run asks for them: which sequence, which tokens, which heads."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from probe_kernels.types import BlockEdit, Edits
from torch import Tensor

from probe.errors import InterventionError
from probe.interventions.patterns_kept import KeptPattern
from probe.interventions.recording import Recording
from probe.interventions.rows_kept import kept_at
from probe.interventions.sequences import Order
from probe.interventions.substitute import Given, Rows
from probe.interventions.target import Target, on_rows, row_mask
from probe.seam.call import AttentionCall


class Replay:
    """z, or a residual stream, of a recorded run."""

    notes: Sequence[str] = ()

    def __init__(self, what: str, source: Recording, node: str, target: Target) -> None:
        self.what, self.source, self.node, self.target = what, source, node, target
        self.order = Order(source.n_prompts)

    def at(self, call: AttentionCall, heads: tuple[int, ...], _rows: Rows) -> Given:
        """The recorded rows with the same numbers; rows beyond the recording have none."""
        kept = kept_at(self.source.rows[self.node], call, self.what)
        if kept.n_heads != call.n_heads:
            raise InterventionError(
                f"{self.what} was asked; {call.place.module} has {call.n_heads} heads, {kept.n_heads} were recorded"
            )
        row = matched(self.order.of(call), len(kept.lengths), call, self.what)
        lengths = torch.tensor(kept.lengths)[row]
        have = reached(call, lengths, self.target, self.what)
        source = row.to(kept.values.device)
        return kept.rows(source, call.query_index.to(source.device), heads, call.place.module), have


class ReplayPatterns:
    """Patterns of a recorded run, formed block by block from its queries and keys."""

    def __init__(self, what: str, source: Recording, target: Target) -> None:
        self.what, self.source, self.target = what, source, target
        self.order = Order(source.n_prompts)

    def edits(self, call: AttentionCall) -> Edits:
        """Put the recorded rows in the place of the block's, inside the sweep."""
        heads, rows = self.target.heads_of(call), self.target.rows_of(call)
        if not heads or (rows is not None and not bool(rows.any())):
            return Edits()
        kept = self._kept(call)
        n_rows = torch.tensor([len(one.query_at) for one in kept])
        have = reached(call, n_rows, self.target, self.what)
        chosen = have if rows is None else rows & have
        if not bool(chosen.any()):
            return Edits()
        query, key = call.query_index, call.key_index

        def apply(block: Tensor, part: slice, keys: slice) -> Tensor:
            made = torch.zeros_like(block)
            for number, one in enumerate(kept):
                at = chosen[number, part].nonzero()[:, 0]
                if len(at):
                    pattern = one.rows(query[number, part][at], heads)
                    made[number][:, at] = _columns(pattern, key[number, keys]).to(block.dtype)
            return on_rows(made, block, row_mask(chosen, part))

        def sinks(mass: Tensor, part: slice) -> Tensor:
            made = mass.clone()
            for number, one in enumerate(kept):
                at = chosen[number, part].nonzero()[:, 0]
                if len(at) and one.sink_mass is not None:
                    stored = one.query_at[query[number, part][at]]
                    made[number][:, at] = one.sink_mass[list(heads)][:, stored].to(mass.dtype)
            return made

        learned = call.scores is not None and call.scores.sinks is not None
        return Edits(probs=(BlockEdit(apply, heads, sinks if learned else None),))

    def _kept(self, call: AttentionCall) -> list[KeptPattern]:
        found = self.source.patterns.get((call.place.module, call.place.layer))
        if not found:
            raise InterventionError(
                f"{self.what} was asked; the recorded run did not pass through {call.place.module} (layer "
                f"{call.place.layer}): record inputs that do, or name other layers"
            )
        kept = [found[n] for n in matched(self.order.of(call), len(found), call, self.what).tolist()]
        for row, one in enumerate(kept):
            n_keys = int(call.key_index[row].max()) + 1
            if not call.causal and n_keys != len(one.key_at):
                raise InterventionError(
                    f"{self.what} was asked; {call.place.module} sees {n_keys} keys, {len(one.key_at)} were "
                    "recorded: where later keys are seen, runs must have one length"
                )
        return kept


def _columns(pattern: Tensor, key: Int[Tensor, "key_pos"]) -> Tensor:
    """The recorded columns of the keys of a block; 0 for padding and for keys that were not recorded."""
    inside = (key >= 0) & (key < pattern.shape[-1])
    return pattern[..., key.clamp(0, pattern.shape[-1] - 1)] * inside


def matched(numbers: Sequence[int], n: int, call: AttentionCall, what: str) -> Int[Tensor, "batch"]:
    """The recorded sequence of each row; raises `InterventionError` for a batch that is wider than the recording."""
    width = len(set(numbers))
    if n > 1 and width > n:
        raise InterventionError(
            f"{what} was asked; {call.place.module} runs {width} sequences, {n} were recorded: record one per "
            "sequence, or a single one for all"
        )
    return torch.tensor(numbers) % n


def reached(
    call: AttentionCall, lengths: Int[Tensor, "batch"], target: Target, what: str
) -> Bool[Tensor, "batch query_pos"]:
    """Rows that were recorded; raises `InterventionError` where a prompt has another length than its recorded run."""
    index = call.query_index
    lengths = lengths.to(index.device)
    found = index.amax(1) + 1
    begins = call.phase == "prefill" and bool((index.masked_fill(index < 0, 1).amin(1) == 0).all())
    if begins and not isinstance(target.queries, tuple) and bool((found != lengths).any()):
        raise InterventionError(
            f"{what} was asked; {call.place.module} runs {found.tolist()} tokens, {lengths.tolist()} were recorded: "
            "use runs of equal length, or name rows that both have with queries=(start, stop)"
        )
    return (index >= 0) & (index < lengths[:, None])
