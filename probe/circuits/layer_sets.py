"""The smallest set of attention layers that carries what the last token needs, and what the other layers carry."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.halves import Halves, halves
from probe.circuits.nodes import Key
from probe.circuits.patching import most_copies, recovery
from probe.circuits.reporting import Told, labelled, make_report
from probe.circuits.study import CircuitOptions, Pairs, Study, study
from probe.circuits.taps import Write
from probe.errors import UnknownNameError, UsageError
from probe.report import Report

Sets = Bool[Tensor, "set layer"]
HALVES = ("found", "held")


def attention_subset(
    model: object,
    pairs: Pairs = "ioi",
    threshold: float = 0.9,
    *,
    at: str = "end",
    layers: Sequence[int] | None = None,
    draws: int = 10,
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """How few attention layers carry the answer to the last token: recovery of sets of layers and of what they leave.

    What attention adds at one position (``attn_out`` of the clean run) is put into the corrupt run, in a set S of
    layers: ``recovery(S) = (m_S - m_corrupt) / (m_clean - m_corrupt)``, means over pairs above and below. Where clean
    and corrupt end in the same token, all layers at ``end`` recover 1: whatever else that token reads is its own. S
    grows greedily: in each step by the layer with which recovery is highest. Every other pair chooses the layers; the
    curves of the others are not told by that choice. The search is ours; for the content of few layers see Ben-Artzy &
    Schwartz 2024 (arXiv:2409.03621).

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder.
        pairs: A task (``probe.prompts.pairs.PAIR_TASKS``), or at least two pairs.
        threshold: The recovery that makes a set large enough, above 0.
        at: The position, a mark of the pairs.
        layers: Only these layers; every one if left out.
        draws: Orders of the layers drawn at random, whose first k are the control of a set of k; 0 or more.
        options: How to look; see `CircuitOptions`.
        **changes: Single options by name.

    Returns:
        A report with one answer; its map, over layer, is the recovery of each layer alone, on all pairs. ``extra``, by
        ``half`` of the pairs (``found``: those that chose, ``held``: the others): ``recovery`` (half, size) of the
        greedy set, ``complement`` (half, size) of the layers that it leaves out, ``random`` and ``random_complement``
        (half, draw, size); sizes from 0. ``order`` (step) is the layer that each step added; ``smallest`` the size at
        which recovery on the pairs that chose reaches the threshold (NaN: never).

    Raises:
        UnknownNameError: a position that not every pair has.
        UsageError: a threshold or a number of draws that cannot be; an unknown layer.
        InputError: one pair alone, or pairs that do not fit the model.
        CaptureError: a model whose attention adds nothing that can be told apart.
    """
    asked = CircuitOptions.of(options, changes)
    if not threshold > 0 or draws < 0:
        raise UsageError(
            f"threshold={threshold} and draws={draws} were asked; a threshold is above 0, draws are 0 or more"
        )
    with study(model, pairs, asked) as case:
        parts = halves(case, "attention_subset")
        search = _Search.of(case, at, layers)
        order, alone = search.greedy(parts)
        curves = _curves(search, order, parts, draws)
        chosen = curves["recovery"][0]
        enough = (chosen >= threshold).nonzero()
        smallest = int(enough[0]) if len(enough) else None
        told = Told(
            f"attention_subset:threshold={threshold:g},at={at}",
            "Share of the difference that one layer's attention output carries, patched there alone; 1 is all",
            "share of the difference", "after Ben-Artzy & Schwartz 2024 (arXiv:2409.03621)",
        )  # fmt: skip
        answer = told.answer(
            labelled(alone.mean(0), layer=search.layers),
            labelled(alone, prompt=range(len(alone)), layer=search.layers),
            _arrays(search, order, curves, smallest),
            _said(search, order, curves, smallest, threshold),
        )
        settings = {"method": "attention_subset", "threshold": threshold, "at": at, "draws": draws}
        return make_report(case, [answer], settings)


@dataclass
class _Search:
    """Recovery of sets of layers, with the clean values of every batch at hand."""

    case: Study
    layers: list[int]
    writes: list[tuple[Batch, dict[int, Tensor], Tensor]]  # batch, what attention adds by layer, positions

    @classmethod
    def of(cls, case: Study, at: str, layers: Sequence[int] | None) -> "_Search":
        anatomy = case.engine.taps.anatomy
        chosen = [one.place.layer for one in anatomy.blocks if one.attention is not None]
        if layers is not None:
            chosen = [anatomy.block(layer).place.layer for layer in sorted(set(layers))]
        if at not in case.pairs.marks:
            raise UnknownNameError.of("position", at, case.pairs.marks)
        writes = []
        for batch in case.batches:
            trace = case.engine.record(batch, "clean", ["attn_out"])
            values = {layer: trace.value("attn_out", layer) for layer in chosen}
            writes.append((batch, values, batch.positions(at)))
        return cls(case, chosen, writes)

    def recovered(self, sets: Sets) -> Float[Tensor, "set pair"]:
        """The recovery of each set of layers, pair by pair."""
        parts = []
        for batch, values, where in self.writes:
            size = most_copies(self.case, batch)
            parts.append(torch.cat([self._few(batch, values, where, few) for few in torch.split(sets, size)]))
        return recovery(self.case, self.case.joined(parts), "corrupt")

    def _few(self, batch: Batch, values: dict[int, Tensor], where: Tensor, sets: Sets) -> Tensor:
        writes: dict[Key, Write] = {}
        for number, layer in enumerate(self.layers):
            if bool(sets[:, number].any()):
                mask = sets[:, number, None, None, None] & where[None, :, None]
                writes["attn_out", layer] = Write(values[layer], mask)
        if not writes:
            return self.case.numbers(batch, self.case.logits[batch, "corrupt"]).expand(len(sets), -1)
        return self.case.numbers(batch, self.case.engine.patched(batch, "corrupt", writes, len(sets)))

    def greedy(self, parts: Halves) -> tuple[list[int], Float[Tensor, "pair layer"]]:
        """Numbers of the layers in the order in which they were added, and the recovery of each alone."""
        n = len(self.layers)
        held, order = torch.zeros(n, dtype=torch.bool), []
        alone = self.recovered(torch.eye(n, dtype=torch.bool)).T
        for step in range(n):
            self.case.options.tell(step, n, "adding layers")
            rest = [number for number in range(n) if not held[number]]
            sets = held.repeat(len(rest), 1)
            sets[range(len(rest)), rest] = True
            values = self.recovered(sets) if step else alone.T
            best = rest[int(values[:, parts.found].mean(1).argmax())]
            held[best] = True
            order.append(best)
        self.case.options.tell(n, n, "adding layers")
        return order, alone


def _nested(order: Sequence[int]) -> Sets:
    """The first k of an order, for every k from 0."""
    sets = torch.zeros(len(order) + 1, len(order), dtype=torch.bool)
    for step, number in enumerate(order):
        sets[step + 1 :, number] = True
    return sets


def _curves(search: _Search, order: Sequence[int], parts: Halves, draws: int) -> dict[str, Tensor]:
    """Recovery by size of the greedy sets, of random ones, and of what either leaves out; halves first."""
    n = len(order)
    generator = torch.Generator().manual_seed(search.case.options.seed)
    drawn = [_nested(torch.randperm(n, generator=generator).tolist()) for _ in range(draws)]
    sets = torch.cat([_nested(order), *drawn])
    both = torch.stack([search.recovered(one) for one in (sets, ~sets)])
    gap = search.case.clean - search.case.corrupt  # of each half: what all of it would be there
    shares = [both[..., half].mean(-1) * search.case.gap / gap[half].mean() for half in parts]
    split = torch.stack(shares).reshape(len(parts), 2, 1 + draws, n + 1)
    return {
        "recovery": split[:, 0, 0],
        "complement": split[:, 1, 0],
        "random": split[:, 0, 1:],
        "random_complement": split[:, 1, 1:],
    }


def _arrays(
    search: _Search, order: list[int], curves: dict[str, Tensor], smallest: int | None
) -> dict[str, Any]:
    n, draws = len(order), curves["random"].shape[1]
    size = range(n + 1)
    made: dict[str, Any] = {
        name: labelled(curves[name], half=HALVES, size=size) for name in ("recovery", "complement")
    }
    if draws:
        for name in ("random", "random_complement"):
            made[name] = labelled(curves[name], half=HALVES, draw=range(draws), size=size)
    made["order"] = labelled(torch.tensor([search.layers[number] for number in order]), step=range(1, n + 1))
    made["smallest"] = labelled(torch.tensor(float("nan") if smallest is None else float(smallest)))
    return made


def _said(
    search: _Search, order: list[int], curves: dict[str, Tensor], smallest: int | None, threshold: float
) -> list[str]:
    """What the curves come to, in a line."""
    if smallest is None:
        best = float(curves["recovery"][0].max())
        return [f"no greedy set recovers {threshold:g}; the most is {best:.2f}"]
    named = ", ".join(str(search.layers[number]) for number in order[:smallest])
    held, left = (float(curves[name][1, smallest]) for name in ("recovery", "complement"))
    line = (
        f"{smallest} of {len(order)} layers ({named}) recover {threshold:g} on the pairs that chose them; on the "
        f"others they recover {held:.2f}, and all other layers together {left:.2f}"
    )
    if curves["random"].shape[1]:
        line += (
            f"; as many layers drawn at random recover {float(curves['random'][1, :, smallest].mean()):.2f}"
        )
    return [line]
