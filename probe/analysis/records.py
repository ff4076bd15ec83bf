"""What a report says about a run besides its answers: provenance and prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from probe_kernels import chosen_backend

from probe.analysis.inputs import Inputs, Item
from probe.analysis.options import AnalyzeOptions
from probe.analysis.plan import Plan
from probe.analysis.settle import determinism_note
from probe.analysis.sweep import Found
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.report import Report
from probe.report.answer import Answer
from probe.report.prompt_record import PromptRecord
from probe.report.provenance import ModelRecord, Provenance, utc_now


class Counts(NamedTuple):
    """Tokens and prompts that were run."""

    tokens: int = 0
    prompts: int = 0


@dataclass
class Outcome:
    """What running a plan gave."""

    drift: float | None = None
    found: Found = field(default_factory=Found)
    ran: list[Inputs] = field(default_factory=list)
    brought: Counts = field(default_factory=Counts)  # what experiments brought and ran
    answers: list[Answer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def make_report(plan: Plan, outcome: Outcome) -> Report:
    """The report of a plan that was run; text-free if that was asked."""
    options, found = plan.options, outcome.found
    items = [item for inputs in outcome.ran for item in inputs.items]
    about_inputs = plan.inputs.notes if plan.sweeps else ()
    notes = [*about_inputs, *plan.loaded.notes, *plan.choice.notes, *found.notes, *outcome.notes]
    if options.deterministic:
        notes.append(determinism_note())
    if plan.loaded.device.type == "cuda" and "torch" in found.backends:
        notes.append(
            "statistics on CUDA were computed by the blocked torch backend, without kernels of its own"
        )
    counts = Counts(sum(one.n_tokens for one in outcome.ran), sum(one.n_prompts for one in outcome.ran))
    if not counts.tokens:
        counts = outcome.brought
    provenance = Provenance(
        model=model_record(plan.loaded),
        mode=found.mode or options.mode,
        kernels="+".join(sorted(found.backends)) or chosen_backend(options.kernels, plan.loaded.device),
        tokens=counts.tokens,
        prompts=counts.prompts,
        seed=options.seed,
        deterministic=options.deterministic,
        unseen_layers=tuple(found.unseen),
        fallback_layers=tuple(found.fallback),
        logit_drift=outcome.drift,
        bos=bos_of(items),
        command=options.command,
        started=plan.started,
        ended=utc_now(),
        settings=settings(options, plan.interventions),
        notes=tuple(dict.fromkeys(notes)),
    )
    report = Report(outcome.answers, provenance, prompt_records(items))
    return report if options.text else report.without_text()


def model_record(loaded: LoadedModel) -> ModelRecord:
    """Which weights were looked at."""
    source = loaded.source
    return ModelRecord(
        name=loaded.name,
        source=source.source,
        revision=source.revision,
        sha256=source.sha256,
        quantisation=source.quantisation,
        dtype=source.dtype,
        device=str(loaded.device),
    )


def prompt_records(items: Sequence[Item]) -> list[PromptRecord]:
    """The prompts as a report keeps them; ready-made inputs keep their number alone."""
    return [
        PromptRecord(id=str(number)) if item.prompt is None else _record(item.prompt)
        for number, item in enumerate(items)
    ]


def _record(prompt: Prompt) -> PromptRecord:
    return PromptRecord(
        id=prompt.id,
        text=prompt.text,
        tokens=tuple(int(token) for token in prompt.tokens),
        str_tokens=tuple(prompt.str_tokens),
        spans={name: ranges(flags) for name, flags in prompt.spans.items()},
        answer=prompt.answer,
    )


def ranges(flags: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Half-open ranges of the True entries.

    >>> ranges(np.array([True, True, False, True]))
    ((0, 2), (3, 4))
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags).astype(np.int8), [0]])))
    return tuple((int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True))


def bos_of(items: Sequence[Item]) -> str | None:
    """The beginning-of-sequence token that the tokenizer put before the first prompt; None where it put none."""
    prompt = next((item.prompt for item in items if item.prompt is not None), None)
    return prompt.str_tokens[0] if prompt is not None and prompt.bos else None


def settings(options: AnalyzeOptions, interventions: Sequence[Any]) -> dict[str, object]:
    """The options that shape the numbers, as plain values."""
    shown: Mapping[str, object] = {
        "batch_size": options.batch_size,
        "max_tokens": options.max_tokens,
        "chunk": options.chunk,
        "keep": None if options.keep == "none" else options.keep,
        "baseline": options.baseline,
        "interventions": [one.name for one in interventions],
    }
    return {name: value for name, value in shown.items() if value not in (None, [])}
