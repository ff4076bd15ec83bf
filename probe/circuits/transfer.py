"""Repairing one task by the circuit of another: inhibition heads are made to look at what they should inhibit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.controls import Chosen, masked_writes, matched, nodes
from probe.circuits.measures import measure_of
from probe.circuits.overlap import BIBTEX, PAPER, in_circuit
from probe.circuits.paths import heads_of
from probe.circuits.receivers import Heads
from probe.circuits.reporting import Told, labelled, make_report
from probe.circuits.role_report import head_roles, require_marks
from probe.circuits.study import CircuitOptions, Pairs, Study, pair_set, study
from probe.errors import UsageError
from probe.models import LoadedModel, as_loaded
from probe.prompts.pairs import Pair, PairSet
from probe.prompts.pairs.answers import only_token
from probe.report import Report

RANDOM_SETS = 5
_ROLES = ("s_inhibition", "negative_name_mover")


def circuit_transfer(
    model: object,
    pairs: Pairs = "colored_objects",
    *,
    heads: Sequence[str] | None = None,
    to: Sequence[str] = ("other_color", "third_color"),
    source: str = "ioi",
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """Whether a task is solved better once inhibition heads of another one look where they would look there.

    At the last position the pattern of these heads is replaced: equal attention to each token of the wrong options, as
    inhibition heads of IOI look at the repeated name. Right must beat every one of these options. The task need not be
    solved before (`min_accuracy` holds for the source task alone).

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder.
        pairs: The task to repair, or pairs with the marks `to`; clean prompts are run.
        heads: Heads that are edited (``L12.H3``); None = S-inhibition and negative name-mover heads of `source` by
            `head_roles`.
        to: Marks of the options to inhibit.
        source: The task that the heads are found on.
        options: How to look; see `CircuitOptions`.
        **changes: Single options by name (``count=32``).

    Returns:
        A report with one answer, ``circuit_transfer:source=…``; its map has 1 where a head was edited. ``extra`` has
        ``accuracy`` (share, 0 to 1) and ``measure`` by ``run``: ``before``, ``edited``, and ``random:0``, … with as
        many random heads of the same layers edited instead.

    Raises:
        UsageError: missing marks, a source task that is not solved or in which no such head is found.
        UnknownNameError: a head that the model lacks.
        InputError: an option that is several tokens as an answer.
    """
    asked = CircuitOptions.of(options, changes)
    loaded = as_loaded(model)
    made = pair_set(pairs, loaded, asked)
    require_marks(made, tuple(to), "options to inhibit")
    named = list(heads) if heads is not None else found_heads(loaded, source, asked)
    with study(loaded, against_all(made, to, loaded), replace(asked, min_accuracy=0.0)) as case:
        counts = heads_of(case)
        chosen = counts.by_layer(named)
        runs = _runs(case, counts, chosen, to)
        told = Told(
            f"circuit_transfer:source={source if heads is None else 'given'}",
            f"Heads made to look at the wrong options of {case.pairs.task} at the last position (1), others 0",
            "edited", PAPER, BIBTEX,
        )  # fmt: skip
        layers, width = sorted(counts.query), max(counts.query.values())
        axes = {"layer": layers, "head": list(range(width))}
        flags = labelled(in_circuit(chosen, labelled(np.zeros((len(layers), width)), **axes)), **axes)
        extra = {
            "accuracy": labelled(runs.right.mean(-1), run=runs.names),
            "measure": labelled(runs.measure.mean(-1), run=runs.names),
        }
        answer = told.answer(flags, extra=extra, notes=[_note(extra, named)])
        return make_report(case, [answer], {"method": "circuit_transfer", "heads": named, "to": list(to)})


def found_heads(loaded: LoadedModel, source: str, options: CircuitOptions) -> list[str]:
    """Inhibition and negative mover heads of a task; raises `UsageError` where there is no inhibition head."""
    roles = head_roles(loaded, source, options=options).answers[0].extra["roles"]
    found = {
        role: [f"L{layer}.H{head}" for layer, head in _where(roles.sel(role=role))] for role in _ROLES
    }  # fmt: skip
    if not found[_ROLES[0]]:
        raise UsageError(
            f"inhibition heads of {loaded.name} on {source} were asked; head_roles finds none at its thresholds: name "
            "heads (heads=['L12.H3', …])"
        )
    return list(dict.fromkeys(name for names in found.values() for name in names))


def _where(flags: xr.DataArray) -> list[tuple[int, int]]:
    layers = flags.coords["layer"].values
    return [(int(layers[row]), int(head)) for row, head in np.argwhere(flags.values == 1)]


def against_all(pairs: PairSet, marks: Sequence[str], loaded: LoadedModel) -> PairSet:
    """Pairs of which every marked option is wrong, written as the right answer is (capital or not).

    Without a tokenizer the pairs are taken as they are.

    Raises:
        InputError: an option is several tokens as an answer.
    """
    if loaded.tokenizer is None:
        return pairs
    return replace(pairs, pairs=tuple(_against_all(pair, marks, loaded.tokenizer) for pair in pairs))


def _against_all(pair: Pair, marks: Sequence[str], tokenizer: Any) -> Pair:
    answer = pair.clean.answer or ""
    capital = answer.strip()[:1].isupper()
    wrong = set(pair.wrong)
    for mark in marks:
        word = pair.clean.str_tokens[pair.marks[mark]].strip(" \u0120\u2581")
        said = word.capitalize() if capital else word
        wrong.add(only_token(pair.clean.text, " " + said, tokenizer))
    return replace(pair, wrong=tuple(sorted(wrong - set(pair.right))))


@dataclass(frozen=True)
class _Runs:
    """Numbers of every pair by run, ``[run, pair]``."""

    names: list[str]
    right: Tensor
    measure: Tensor


def _runs(case: Study, counts: Heads, chosen: Chosen, to: Sequence[str]) -> _Runs:
    drawn = np.random.default_rng(case.options.seed)
    sets = [chosen, *(matched(chosen, counts.query, drawn) for _ in range(RANDOM_SETS))]
    right, measure = [], []
    for batch in case.batches:
        before = case.logits[batch, "clean"]
        parts = [before[None], *(_edited(case, batch, one, to) for one in sets)]
        logits = torch.cat(parts).double()
        right.append(measure_of("accuracy")(logits, batch, before.double()).cpu())
        measure.append(case.numbers(batch, logits))
    names = ["before", "edited", *(f"random:{n}" for n in range(RANDOM_SETS))]
    return _Runs(names, case.joined(right), case.joined(measure))


def _edited(case: Study, batch: Batch, chosen: Chosen, to: Sequence[str]) -> Tensor:
    """The logits with heads looking at the marked tokens alone from the last position, ``[1, pair, vocab]``."""
    trace = case.engine.record(batch, "clean", ["pattern"])

    def looking(node: Any, layer: int) -> Tensor:
        pattern = trace.value(node, layer).clone()
        pattern[:, :, -1] = 0
        for mark in to:
            pattern[torch.arange(len(batch)), :, -1, batch.at(mark)] += 1 / len(to)
        return pattern

    writes = masked_writes(looking, [nodes(chosen, "pattern")], batch.positions("end"))
    return case.engine.patched(batch, "clean", writes)


def _note(extra: dict[str, xr.DataArray], heads: Sequence[str]) -> str:
    accuracy = extra["accuracy"].values
    random = accuracy[2:]
    return (
        f"right beats the other options on {accuracy[0]:.0%} before, {accuracy[1]:.0%} with {', '.join(heads)} edited, "
        f"{random.min():.0%} to {random.max():.0%} with random heads of the same layers"
    )
