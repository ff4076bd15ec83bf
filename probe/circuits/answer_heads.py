"""AttnAttrib: the heads that read an answer from the context, and the sentence that it comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probe.circuits.answer_circuits import RANDOM_SETS, AnswerCircuit, answer_circuit
from probe.circuits.joining import joined_report
from probe.circuits.looks import ByLayer, entropy_without_first
from probe.circuits.overlap import in_circuit, overlap
from probe.circuits.reporting import Told, labelled, make_report
from probe.circuits.roles import joined
from probe.circuits.sources import WINDOW, Asking, peaks, sentence_scores
from probe.circuits.steering import RUNS, steer
from probe.circuits.study import CircuitOptions, Pairs, Study, study
from probe.circuits.tables import Effects
from probe.errors import UsageError
from probe.models import as_loaded
from probe.report import Report
from probe.report.answer import Answer

PAPER = "Basu et al. 2025 (AttnAttrib)"
Head = tuple[int, int]  # layer, head


def attribution_heads(
    model: object,
    pairs: Pairs = "counterfactual",
    *,
    memory: str | None = "counterfactual_memory",
    delta: float = 0.95,
    window: int = WINDOW,
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """The circuits that answer from the context and from memory, and the head that says which sentence was read.

    A circuit is found at the last position: values of heads and MLPs of the clean run go into the corrupt one until
    `delta` of the difference is recovered (the paper gives no threshold; 0.95 is ours). They are ranked once, by what
    each recovers alone, and added in that order; the paper adds greedily, so that ours may take more of them where
    several carry the same. The attribution head is the head of the context's circuit with the lowest attention entropy
    at the last position, the first token left out. From the position that says an answer token, the context token that
    it looks at most is taken, and every sentence of the context is scored by the attention that falls on it within a
    window round that token. The best sentence is then said again before the question (steering), beside a random other
    one.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder.
        pairs: A task whose context states the answer; the mark ``stated`` says where.
        memory: A task that is answered from memory; None = the context's circuit alone.
        delta: Share of the difference to recover, above 0 to 1.
        window: Tokens round the one that is looked at most, 1 or more.
        options: How to look; see `CircuitOptions`.
        **changes: Single options by name (``count=32``).

    Returns:
        A report with the answers ``attribution_heads:circuit=context`` and ``…=memory``; their maps are what each head
        recovers alone. ``extra`` of both: ``components`` (recovered behind each one added), ``random`` (recovered by as
        many random components), ``in_circuit`` (layer, head), ``mlp`` (layer). Of the context: ``entropy`` and
        ``source_hits`` (layer, head: share of prompts in which that head's sentence is the one that states the answer),
        ``sentence`` (prompt), ``steering`` (run, number). Of memory: ``overlap`` as in `circuit_overlap`.

    Raises:
        UsageError: `delta` or `window` out of range, or a model that does not solve a task.
        InputError: pairs that do not fit the model, or a measure that is the same on both sides.
        CaptureError: a model whose MLPs cannot be told.
    """
    asked = CircuitOptions.of(options, changes)
    if not 0 < delta <= 1 or window < 1:
        raise UsageError(
            f"delta={delta}, window={window} were asked; delta is above 0 to 1, window 1 or more"
        )
    loaded = as_loaded(model)
    settings = {"method": "attribution_heads", "delta": delta, "window": window}
    with study(loaded, pairs, asked) as case:
        context = answer_circuit(case, delta)
        reading = read_sources(case, context, window)
        answer = _answer(
            context, "context", asked, {**reading.extra, **_steering(case, reading)}, reading.notes
        )
        report = make_report(case, [answer], {**settings, "attribution_head": reading.name})
    if memory is None:
        return report
    with study(loaded, memory, asked) as case:
        other = answer_circuit(case, delta)
        numbers = overlap([context.chosen, other.chosen], [context.heads.map, other.heads.map], asked.seed)
        shared = {"overlap": labelled(np.array(list(numbers.values())), number=list(numbers))}
        second = make_report(case, [_answer(other, "memory", asked, shared, [])], settings)
    return joined_report([report, second], [*report.answers, *second.answers], {})


@dataclass(frozen=True)
class Reading:
    """The attribution head (None where the circuit has no head), its sentences, and every head's numbers."""

    head: Head | None
    asking: tuple[Asking, ...]
    sentences: tuple[
        int, ...
    ]  # of each pair's context; empty where there is no attribution head, or no context
    extra: dict[str, xr.DataArray]
    notes: list[str]

    @property
    def name(self) -> str | None:
        """The head as it is written."""
        return None if self.head is None else f"L{self.head[0]}.H{self.head[1]}"


def read_sources(case: Study, circuit: AnswerCircuit, window: int) -> Reading:
    """The attribution head of a circuit, and the sentences it points to on the clean prompts."""
    asking = [Asking.of(pair.clean) for pair in case.pairs]
    usable = all(one.context and one.context[-1].stop > 1 for one in asking)
    entropies: list[ByLayer] = []
    rows: dict[int, ByLayer] = {}  # by pair: attention from its last position, ``{layer: [head, key]}``
    hits: list[ByLayer] = []
    for batch in case.batches:
        trace = case.engine.record(batch, "clean", ["pattern"])
        entropies.append(entropy_without_first(trace, batch.at("end")))
        last = {
            layer: trace.value("pattern", layer)[:, :, -1].double().cpu() for layer in trace.layers("pattern")
        }
        rows |= {n: {layer: one[row] for layer, one in last.items()} for row, n in enumerate(batch.numbers)}
        if usable and "stated" in case.pairs.marks:
            own = [asking[number] for number in batch.numbers]
            hits.append({layer: _hits(one, own, batch.at("stated")) for layer, one in last.items()})
    entropy = {layer: one.nanmean(-1) for layer, one in joined(case, entropies).items()}
    head = lowest(entropy, circuit)
    extra = {"entropy": Effects("z", {layer: one[:, None, None] for layer, one in entropy.items()}).map}
    notes = _head_notes(case, head, entropy)
    if hits:
        scores = {layer: one[:, None] for layer, one in joined(case, hits).items()}
        extra["source_hits"] = Effects("z", scores).map
        notes.append(_hit_note(extra["source_hits"], head, asking))
    chosen: tuple[int, ...] = ()
    if usable and head is not None:
        layer, unit = head
        chosen = tuple(
            int(sentence_scores(rows[n][layer][unit : unit + 1], one.context, window).argmax())
            for n, one in enumerate(asking)
        )
        extra["sentence"] = labelled(np.array(chosen), prompt=list(range(len(chosen))))
    return Reading(head, tuple(asking), chosen, extra, notes)


def lowest(entropy: Mapping[int, Tensor], circuit: AnswerCircuit) -> Head | None:
    """The head of a circuit with the lowest entropy ``{layer: [head]}``; the first of equal ones."""
    members = [
        (float(entropy[layer][head]), layer, head)
        for layer, heads in circuit.chosen.items()
        for head in heads
        if bool(entropy[layer][head].isfinite())
    ]
    return min(members)[1:] if members else None


def _hits(rows: Tensor, asking: Sequence[Asking], stated: Tensor) -> Tensor:
    """1 where the token that a head looks at most is in the sentence that states the answer, ``[head, pair]``."""
    made = []
    for row, one, where in zip(rows, asking, stated.tolist(), strict=True):
        gold = one.sentence_of(where)
        found = [one.sentence_of(peak) for peak in peaks(row, one.context[-1].stop).tolist()]
        made.append(torch.tensor([float(sentence == gold) for sentence in found], dtype=torch.float64))
    return torch.stack(made, dim=-1)


def _head_notes(case: Study, head: Head | None, entropy: Mapping[int, Tensor]) -> list[str]:
    if head is None:
        return ["the context's circuit has no head, so there is no attribution head"]
    layer, unit = head
    return [
        f"attribution head of {case.pairs.task}: L{layer}.H{unit}, entropy {float(entropy[layer][unit]):.3f} nats at "
        "the last position without the first token"
    ]


def _hit_note(hits: xr.DataArray, head: Head | None, asking: Sequence[Asking]) -> str:
    chance = float(np.mean([1 / len(one.context) for one in asking]))
    said = f"the sentence that states the answer: {chance:.0%} by chance, {float(hits.mean()):.0%} by the mean head"
    return (
        said
        if head is None
        else f"{said}, {float(hits.sel(layer=head[0], head=head[1])):.0%} by the attribution head"
    )


def _steering(case: Study, reading: Reading) -> dict[str, xr.DataArray]:
    known = all(pair.clean.offsets is not None for pair in case.pairs)
    if not reading.sentences or not known or case.loaded.tokenizer is None:
        return {}
    steered = steer(case, reading.asking, reading.sentences)
    numbers = torch.stack([steered.right.mean(-1), steered.difference.mean(-1)], dim=-1)
    return {"steering": labelled(numbers, run=list(RUNS), number=["accuracy", "logit_difference"])}


def _answer(
    circuit: AnswerCircuit,
    name: str,
    options: CircuitOptions,
    extra: dict[str, xr.DataArray],
    notes: Sequence[str],
) -> Answer:
    told = Told(
        f"attribution_heads:circuit={name}",
        f"Share of the {options.measure} difference that each head recovers alone at the last position; 1 is all",
        "share of the difference", PAPER,
    )  # fmt: skip
    shown = circuit.heads.map
    members = labelled(
        in_circuit(circuit.chosen, shown),
        layer=shown.coords["layer"].values,
        head=shown.coords["head"].values,
    )
    tables = {
        "components": labelled(circuit.recovered, component=circuit.names),
        "random": labelled(circuit.random, draw=list(range(RANDOM_SETS))),
        "in_circuit": members,
        "mlp": circuit.mlps.map,
    }
    said = (
        f"circuit of {name}: {len(circuit.components)} components recover {float(circuit.recovered[-1]):.2f}, as many "
        f"random ones {float(circuit.random.mean()):.2f}: {', '.join(circuit.names)}"
    )
    return told.answer(shown, circuit.heads.by_prompt, {**tables, **extra}, [said, *notes])
