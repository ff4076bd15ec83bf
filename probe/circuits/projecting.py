"""How few dimensions of a head's queries, keys and values keep what it does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.gradients import require_gradients, require_slope
from probe.circuits.halves import Halves, halves
from probe.circuits.head_sets import Head, head_losses, ranked
from probe.circuits.nodes import Node
from probe.circuits.patching import most_copies
from probe.circuits.reporting import Told, labelled, make_report
from probe.circuits.study import CircuitOptions, Pairs, Study, study
from probe.circuits.subspaces import (
    PARTS,
    WRITTEN,
    Part,
    Space,
    cuts_keys,
    moved,
    principal,
    random,
    replaced,
    values_of,
)
from probe.circuits.taps import Write
from probe.errors import UsageError
from probe.models import as_loaded
from probe.report import Report
from probe.report.answer import Answer
from probe.terms import HeadId

READS: tuple[Node, ...] = ("q", "k", "v", "z", "pattern")
_NO_KEYS = "keys are left out: scores are capped or have learned sinks, so that keys cannot be cut for one head alone"
TOLD_PART: Mapping[Part, str] = {"q": "queries", "k": "keys", "v": "values"}


def subspace(
    model: object,
    pairs: Pairs = "ioi",
    heads: Sequence[str] | None = None,
    *,
    ranks: Sequence[int] | None = None,
    threshold: float = 0.9,
    draws: int = 5,
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """What is kept of a head when its queries, keys or values are cut to their first r principal components.

    ``x -> mean + P_r (x - mean)`` at all positions of the clean prompts, for one head and one of q, k, v at a time;
    keys and values as this head reads them (other heads of its group keep theirs), q and k as they meet each other,
    behind rotary embeddings. Mean and components are those of every other pair's positions, both prompts; effects are
    those of the remaining pairs. ``kept(r) = (m_r - m_0) / (m - m_0)``: 1 where the measure is as without a cut, 0
    where it is as with the mean alone. ``distance(r)``: for q and k half the mean absolute difference of the pattern's
    rows (total variation, 0 to 1, rows behind the first), for v the share of z's variance that is lost. The control
    are as many dimensions drawn at random, with the same mean. The measurement is ours.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder.
        pairs: A task (``probe.prompts.pairs.PAIR_TASKS``), or at least two pairs.
        heads: Heads such as ``["L1.H0"]``; the three that the task loses most by (attribution) if left out.
        ranks: Numbers of dimensions; 1, 2, 4, … and all if left out.
        threshold: The share that is enough, above 0 and at most 1: the map's rank is the first from which ``distance``
            is at most ``1 - threshold`` at every rank.
        draws: Random bases for each rank, 0 or more.
        options: How to look; see `CircuitOptions`.
        **changes: Single options by name.

    Returns:
        A report with three answers, ``subspace:part=q`` and so on; the map of each, over layer and head, is that rank
        (NaN for heads that were not asked). ``extra``: ``kept`` and ``distance`` (head, rank), ``random_kept`` and
        ``random_distance`` (head, draw, rank), ``effect`` (head): ``(m - m_0) / m``, what the mean alone costs; where
        it is near 0, ``kept`` divides by little. Keys are left out, with a note, where scores are capped or have
        learned sinks.

    Raises:
        UsageError: unknown heads, ranks or numbers that cannot be, or a model that does not solve the task.
        InputError: one pair alone, or pairs that do not fit the model.
        CaptureError: a model whose queries and keys are not seen.
    """
    asked = CircuitOptions.of(options, changes)
    if not 0 < threshold <= 1 or draws < 0:
        raise UsageError(
            f"threshold={threshold} and draws={draws} were asked; a threshold is above 0 and at most 1, draws are 0 "
            "or more"
        )
    loaded = as_loaded(model)
    if heads is None:
        require_gradients(loaded, "the heads of a task")
        require_slope(asked, "the heads of a task", "clean")
    with study(loaded, pairs, asked) as case:
        parts = halves(case, "subspace")
        chosen = _heads(case, heads, parts)
        cut = _Cut(case, parts, chosen, ranks, draws)
        parts_told = PARTS if all(cuts_keys(cut.clean[0], layer) for layer, _ in chosen) else ("q", "v")
        answers = [_answer(cut, part, threshold) for part in parts_told]
        settings = {
            "method": "subspace", "heads": [str(HeadId("decoder", *one)) for one in chosen], "threshold": threshold,
            "draws": draws,
        }  # fmt: skip
        return make_report(case, answers, settings, () if "k" in parts_told else (_NO_KEYS,))


def _heads(case: Study, heads: Sequence[str] | None, parts: Halves) -> list[Head]:
    """The heads that are asked, or the three that the task loses most by."""
    if heads is None:
        (scores,) = head_losses(case, [parts.found], "attribution")
        return ranked(scores)[:3]
    counts = _counts(case)
    chosen = []
    for one in heads:
        head = HeadId.parse(one)
        if head.tower != "decoder" or not 0 <= head.head < counts.get(head.layer, 0):
            found = ", ".join(f"L{layer}: {n}" for layer, n in list(counts.items())[:3])
            raise UsageError(
                f"head {one} was asked; the decoder has heads by layer {found}, …: name one of these"
            )
        chosen.append((head.layer, head.head))
    if not chosen:
        raise UsageError("heads=[] was asked; name at least one, or leave heads out for those of the task")
    return list(dict.fromkeys(chosen))


def _counts(case: Study) -> dict[int, int]:
    trace = case.engine.record(case.batches[0], "clean", ["z"])
    return {layer: int(trace.value("z", layer).shape[1]) for layer in trace.layers("z")}


@dataclass(frozen=True)
class _Curves:
    """One head's numbers for one part: by space (its own first, then random ones) and rank."""

    ranks: list[int]
    kept: Float[Tensor, "space rank"]
    distance: Float[Tensor, "space rank"]
    effect: float

    def enough(self, threshold: float) -> int:
        """The first rank from which the distance stays small; the last is all dimensions, which move nothing."""
        near = self.distance[0] <= 1 - threshold + 1e-6
        far = (~near).nonzero()
        first = int(far[-1]) + 1 if len(far) else 0
        return self.ranks[min(first, len(self.ranks) - 1)]


class _Cut:
    """Cuts heads of studied pairs; what the model did without a cut is kept."""

    def __init__(
        self, case: Study, parts: Halves, heads: list[Head], ranks: Sequence[int] | None, draws: int
    ) -> None:
        self.case, self.parts, self.heads, self.draws = case, parts, heads, draws
        self._ranks = ranks
        self.counts = _counts(case)
        self.clean = [case.engine.record(batch, "clean", READS) for batch in case.batches]
        self.corrupt = [case.engine.record(batch, "corrupt", ("q", "k", "v")) for batch in case.batches]

    def curves(self, part: Part, layer: int, head: int) -> _Curves:
        """Kept effects and distances of one head."""
        own = self._space(part, layer, head)
        generator = torch.Generator().manual_seed(self.case.options.seed)
        spaces = [own, *(random(own, generator) for _ in range(self.draws))]
        ranks = self.ranks(len(own.mean))
        plan = [(own, 0), *((space, rank) for space in spaces for rank in ranks)]
        runs = [self._batch(number, plan, layer, head) for number in range(len(self.case.batches))]
        numbers, distance = (
            self.case.joined([run[which] for run in runs])[:, self.parts.held].mean(1) for which in (0, 1)
        )
        whole = float(self.case.clean[self.parts.held].mean())
        lost = whole - float(numbers[0])
        kept = (numbers[1:] - numbers[0]) / (lost if abs(lost) > 1e-9 * max(1.0, abs(whole)) else torch.nan)
        shape = (len(spaces), len(ranks))
        return _Curves(ranks, kept.reshape(shape), distance[1:].reshape(shape), lost / whole)

    def ranks(self, width: int) -> list[int]:
        """The ranks that are tried; raises `UsageError` for some that there are not."""
        if self._ranks is None:
            return [*(2**n for n in range(width.bit_length()) if 2**n < width), width]
        asked = sorted(set(self._ranks))
        if not asked or asked[0] < 1 or asked[-1] > width:
            raise UsageError(
                f"ranks={asked} were asked; heads have {width} dimensions: name some of 1 to {width}"
            )
        return [*asked, *([width] if asked[-1] < width else [])]

    def _space(self, part: Part, layer: int, head: int) -> Space:
        found, rows = set(self.parts.found.tolist()), []
        for batch, *traces in zip(self.case.batches, self.clean, self.corrupt, strict=True):
            own = [row for row, number in enumerate(batch.numbers) if number in found]
            rows += [values_of(trace, part, layer, head)[own].flatten(0, 1) for trace in traces]
        return principal(part, torch.cat(rows))

    def _batch(
        self, number: int, plan: list[tuple[Space, int]], layer: int, head: int
    ) -> tuple[Tensor, Tensor]:
        batch, trace = self.case.batches[number], self.clean[number]
        put = torch.stack([replaced(trace, space, layer, head, rank) for space, rank in plan])
        distance = torch.stack([moved(trace, plan[0][0], layer, head, one) for one in put])
        size = most_copies(self.case, batch)
        numbers = [self._run(batch, plan[0][0].part, (layer, head), few) for few in torch.split(put, size)]
        return torch.cat(numbers), distance.cpu()

    def _run(
        self, batch: Batch, part: Part, where: Head, put: Float[Tensor, "copy pair position d"]
    ) -> Tensor:
        layer, head = where
        mask = torch.zeros(len(put), 1, self.counts[layer], 1, dtype=torch.bool)
        mask[:, :, head] = True
        write = Write(put[:, :, None], mask)
        logits = self.case.engine.patched(batch, "clean", {(WRITTEN[part], layer): write}, len(put))
        return self.case.numbers(batch, logits)


def _answer(cut: _Cut, part: Part, threshold: float) -> Answer:
    curves = []
    for done, one in enumerate(cut.heads):
        cut.case.options.tell(done, len(cut.heads), f"cutting {part}")
        curves.append(cut.curves(part, *one))
    names = [str(HeadId("decoder", *one)) for one in cut.heads]
    layers = sorted(cut.counts)
    table = np.full((len(layers), max(cut.counts.values())), np.nan)
    for (layer, head), curve in zip(cut.heads, curves, strict=True):
        table[layers.index(layer), head] = curve.enough(threshold)
    kept, distance = (torch.stack([getattr(one, name) for one in curves]) for name in ("kept", "distance"))
    ranks, random_axes = curves[0].ranks, {"draw": range(cut.draws)}
    extra = {
        "kept": labelled(kept[:, 0], head=names, rank=ranks),
        "distance": labelled(distance[:, 0], head=names, rank=ranks),
        "effect": labelled(np.asarray([one.effect for one in curves]), head=names),
    }
    if cut.draws:
        extra["random_kept"] = labelled(kept[:, 1:], head=names, **random_axes, rank=ranks)
        extra["random_distance"] = labelled(distance[:, 1:], head=names, **random_axes, rank=ranks)
    told = Told(
        f"subspace:part={part},threshold={threshold:g}",
        f"Dimensions of a head's {TOLD_PART[part]} that keep {threshold:.0%} of what it does (1 to all of them)",
        "dimensions", "ours", better="low",
    )  # fmt: skip
    return told.answer(labelled(table, layer=layers, head=range(table.shape[1])), None, extra)
