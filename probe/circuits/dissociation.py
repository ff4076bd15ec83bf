"""Double dissociation: does a circuit of each of two tasks serve its own task and not the other?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.circuits.ablating import Ablation, head_means, without
from probe.circuits.dissociation_table import TASKS, Table, drop_of
from probe.circuits.gradients import require_gradients, require_slope
from probe.circuits.head_sets import By, HeadSet, Scores, grid, head_losses, matched_among, ranked
from probe.circuits.measures import measure_of
from probe.circuits.reporting import Told, labelled, make_report
from probe.circuits.study import CircuitOptions, Pairs, Study, pair_set, study
from probe.errors import InputError, UsageError
from probe.models import as_loaded
from probe.prompts.pairs import PairSet
from probe.report import Report

RESAMPLES = 2000


def double_dissociation(
    model: object,
    pairs: Pairs = "recall",
    other: Pairs = "reasoning",
    top: int = 10,
    *,
    by: By = "attribution",
    ablation: Ablation = "mean",
    exclusive: bool = False,
    draws: int = 20,
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """What the loss of each of two tasks' heads costs either task, against as many heads drawn at random.

    Each task's circuit is the `top` heads by which its measure falls most when z is the corrupt prompt's (scored by
    `by`), on every other pair. On the remaining pairs the heads of a circuit are ablated at all positions of the clean
    prompts: ``drop(c, t) = (m - m_c) / m``, means over the pairs of task t above and below: 0 where circuit c does
    nothing for the task, 1 where nothing is left of its measure. The index is the smaller of
    ``drop(a, a) - drop(b, a)`` and ``drop(b, b) - drop(a, b)``: the dissociation is double where it is above what
    random circuits give.

    After "Disentangling Recall and Reasoning" (2025), of which neither formula nor prompts are public: halves, index
    and controls are ours.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder.
        pairs: The first task, ``a``: a name, or at least two pairs.
        other: The second task, ``b``.
        top: Heads of each circuit.
        by: ``attribution`` (one backward pass; not on quantised models) or ``activation`` (a run per head).
        ablation: ``mean`` (of z over all positions of the pairs that choose, of both tasks), ``zero`` or ``resample``
            (the corrupt prompt's z).
        exclusive: Leave out of both circuits the heads that both would have, and take the next ones.
        draws: Random circuits of heads of neither task's, with as many in every layer as the circuit has; where a layer
            has too few, from other layers.
        options: How to look; see `CircuitOptions`. ``count`` pairs of each named task are made.
        **changes: Single options by name.

    Returns:
        A report with one answer; its map is the index, one number. ``extra``: ``drop`` (circuit, task), and its 95 %
        bootstrap interval over pairs ``drop_interval`` (bound, circuit, task); ``index_interval`` (bound); ``random``
        (draw, circuit, task) and ``random_index`` (draw); ``accuracy`` (circuit, task), with the circuit ``none`` for
        the model as it is; ``scores`` (task, layer, head) and ``chosen`` (circuit, layer, head; 1 or 0).

    Raises:
        UsageError: numbers that are no counts, more heads than there are, a model that does not solve one of the tasks.
        InputError: a task of one pair, or pairs that do not fit the model.
    """
    asked = CircuitOptions.of(options, changes)
    if top < 1 or draws < 0:
        raise UsageError(
            f"top={top} and draws={draws} were asked; ask for 1 head or more, and 0 draws or more"
        )
    if by not in ("attribution", "activation") or ablation not in ("mean", "zero", "resample"):
        raise UsageError(
            f"by={by!r} and ablation={ablation!r} were asked; by is attribution or activation, ablation mean, zero or "
            "resample"
        )
    if asked.measure == "kl":
        raise UsageError(
            "double_dissociation of kl was asked; kl is 0 before anything is ablated: use logit_difference"
        )
    loaded = as_loaded(model)
    if by == "attribution":
        require_gradients(loaded, "double_dissociation by attribution")
        require_slope(asked, "double_dissociation by attribution", "clean")
    tasks = (pair_set(pairs, loaded, asked), pair_set(other, loaded, asked))
    with study(loaded, _together(tasks), asked) as case:
        split = _Split.of(case, tasks)
        scores = head_losses(case, split.found, by)
        circuits = _circuits(scores, top, exclusive)
        table = _measure(case, split, circuits, (scores, draws), ablation)
        told = Told(
            f"double_dissociation:top={top},by={by},ablation={ablation}",
            "What a task's own circuit takes of its measure beyond what the other task's circuit takes, the smaller of "
            "the two tasks; 0 without a dissociation", "share of the measure",
            "after Disentangling Recall and Reasoning 2025",
        )  # fmt: skip
        extra = table.arrays | _about(scores, circuits)
        answer = told.answer(
            labelled(np.asarray(table.index)), None, extra, table.said(split.names, circuits)
        )
        settings = {
            "method": "double_dissociation", "tasks": list(split.names), "top": top, "by": by, "ablation": ablation,
            "exclusive": exclusive, "draws": draws,
        }  # fmt: skip
        return make_report(case, [answer], settings)


def _together(tasks: Sequence[PairSet]) -> PairSet:
    notes = tuple(dict.fromkeys(note for one in tasks for note in one.notes))
    return PairSet("+".join(one.task for one in tasks), tuple(p for one in tasks for p in one), notes)


@dataclass(frozen=True)
class _Split:
    """Numbers of either task's pairs: those that choose heads, and those that the heads are held to."""

    names: tuple[str, ...]
    found: tuple[Int[Tensor, "_"], ...]
    held: tuple[Int[Tensor, "_"], ...]

    @classmethod
    def of(cls, case: Study, tasks: Sequence[PairSet]) -> "_Split":
        start, own = 0, []
        solved = _solved(case)
        for one in tasks:
            own.append(torch.arange(start, start + len(one)))
            start += len(one)
            if len(one) < 2:
                raise InputError(
                    f"{one.task} has one pair; one half chooses heads, the other measures them: give two or more"
                )
            share, least = float(solved[own[-1]].mean()), case.options.min_accuracy
            if share < least:
                raise UsageError(
                    f"a double dissociation with {one.task} was asked; {case.loaded.name} puts right before wrong on "
                    f"{share:.0%} of its {len(one)} clean prompts (needed {least:.0%}): use another task or model, or "
                    "lower min_accuracy"
                )
        names = tuple(one.task for one in tasks)
        return cls(names, tuple(one[::2] for one in own), tuple(one[1::2] for one in own))


def _solved(case: Study) -> Float[Tensor, " pair"]:
    parts = []
    for batch in case.batches:
        clean = case.logits[batch, "clean"].double()
        parts.append(measure_of("accuracy")(clean, batch, clean).cpu())
    return case.joined(parts)


def _circuits(scores: Sequence[Scores], top: int, exclusive: bool) -> tuple[HeadSet, HeadSet]:
    """The heads that either task loses most by."""
    first, second = (ranked(one) for one in scores)
    if 2 * top > len(first):
        raise UsageError(
            f"two circuits of {top} heads were asked; the model has {len(first)} heads: ask for fewer"
        )
    if exclusive:
        shared = set(first[:top]) & set(second[:top])
        while shared:
            first, second = ([one for one in order if one not in shared] for order in (first, second))
            shared = set(first[:top]) & set(second[:top])
    return frozenset(first[:top]), frozenset(second[:top])


def _measure(
    case: Study,
    split: _Split,
    circuits: tuple[HeadSet, HeadSet],
    drawn: tuple[Sequence[Scores], int],
    ablation: Ablation,
) -> Table:
    scores, draws = drawn
    every = frozenset(ranked(scores[0]))
    generator = np.random.default_rng(case.options.seed)
    sets = list(circuits)
    for _ in range(draws):
        first = matched_among(circuits[0], every - circuits[0] - circuits[1], generator)
        sets += [first, matched_among(circuits[1], every - circuits[0] - circuits[1] - first, generator)]
    numbers, right = without(case, sets, ablation, head_means(case, torch.cat(split.found)))
    drops, resampled, accuracy = [], [], []
    for own in split.held:
        clean, left = case.clean[own].numpy(), numbers[:, own].numpy()
        whole = np.ones((1, len(own)))
        weights = generator.multinomial(len(own), np.full(len(own), 1 / len(own)), size=RESAMPLES)
        drops.append(drop_of(clean, left, whole)[0])
        resampled.append(drop_of(clean, left[:2], weights))
        accuracy.append([float(_solved(case)[own].mean()), *right[:2, own].mean(1).tolist()])
    by_set = np.stack(drops, -1)
    return Table(by_set[:2], np.stack(resampled, -1), by_set[2:].reshape(draws, 2, 2), np.asarray(accuracy).T)


def _about(scores: Sequence[Scores], circuits: tuple[HeadSet, HeadSet]) -> dict[str, Any]:
    """What the circuits were chosen by, and which heads they are."""
    layers = sorted(scores[0])
    values = torch.stack([grid(one) for one in scores])
    heads = range(values.shape[-1])
    flags = torch.tensor(
        [[[float((layer, head) in one) for head in heads] for layer in layers] for one in circuits]
    )
    return {
        "scores": labelled(values, task=TASKS, layer=layers, head=heads),
        "chosen": labelled(flags, circuit=TASKS, layer=layers, head=heads),
    }
