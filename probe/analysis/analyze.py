"""``probe.analyze``: model and prompts in, report out."""

from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from probe.analysis.choice import Choice, check_backend, check_interventions, choose, require_places
from probe.analysis.fingerprint import fingerprint
from probe.analysis.forward import Runner
from probe.analysis.inputs import Inputs, read_inputs
from probe.analysis.options import AnalyzeOptions
from probe.analysis.records import bos_of, model_record, prompt_records, settings
from probe.analysis.resume import Unfinished, check_output
from probe.analysis.settle import determinism_note, settled
from probe.analysis.sweep import Found, Sweep
from probe.errors import UsageError
from probe.interventions.base import EditsBlocks, EditsCall
from probe.metrics.answering import answers, reordered
from probe.models import LoadedModel, load
from probe.report import Report
from probe.report.answer import Answer
from probe.report.provenance import Provenance, utc_now
from probe.seam.places import places
from probe.seam.verify import verify

_VERIFIED_TOKENS = 64


@dataclass(frozen=True)
class Plan:
    """Everything that was asked, checked, before anything runs."""

    loaded: LoadedModel
    inputs: Inputs
    choice: Choice
    interventions: tuple[Any, ...]
    options: AnalyzeOptions
    started: str = field(default_factory=utc_now)


def analyze(
    model: object,
    prompts: object = None,
    metrics: object = None,
    interventions: object = (),
    *,
    options: AnalyzeOptions | None = None,
    **changes: Any,
) -> Report:
    """Run a model on prompts once and report what its heads do.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; a Hugging Face model; or ``(model, tokenizer)``.
        prompts: Text, a `Prompt`, a mapping of the model's own inputs, or a list of these; None: a shipped text.
        metrics: Specs such as ``"sink:n=4"`` or metric instances; ``"all"``; None: the default metrics.
        interventions: Edits that take effect while the metrics look.
        options: How to run it.
        **changes: Single options by name (``out="run"``, ``max_tokens=512``), over those of `options`.

    Returns:
        Answers per head, with where they came from; also saved to ``out`` if that was given.

    Raises:
        UsageError: the call was wrong; nothing was run and nothing written.
        UnseenLayersError: attention layers ran without being seen.
        ModelError: NaN or infinity, naming the layer.
        BudgetError: memory ran out, naming the size.
    """
    asked = AnalyzeOptions.of(options, changes)
    plan = prepare(model, prompts, metrics, interventions, asked)
    store = None
    if asked.folder is not None:
        mark = fingerprint(plan.loaded, plan.inputs, plan.choice.specs, plan.interventions, asked)
        store = Unfinished(asked.folder, mark)
    try:
        with settled(asked.seed, deterministic=asked.deterministic, device=plan.loaded.device):
            report = _run(plan, store)
    except BaseException:
        if store is not None:
            store.abandon()
        raise
    if asked.folder is not None and store is not None:
        report.save(asked.folder, replace=True)
        store.finish()
    return report


def prepare(
    model: object, prompts: object, metrics: object, interventions: object, options: AnalyzeOptions
) -> Plan:
    """Check everything that can be checked without running the model, cheapest first."""
    choice = choose(metrics)
    edits = check_interventions(interventions)
    if options.mode == "shadow" and edits:
        raise UsageError("mode='shadow' was asked with interventions; edits need mode='fused'")
    if options.keep == "qk" and any(isinstance(one, EditsBlocks | EditsCall) for one in edits):
        raise UsageError(
            "keep='qk' was asked with an intervention that edits scores; kept queries and keys do not hold the "
            "edit: use keep='map'"
        )
    check_backend(options.kernels)
    if options.folder is not None:
        check_output(options.folder)
    loaded = load(model, device=options.device, dtype=options.dtype)
    if not places(loaded.model):
        raise UsageError(f"{loaded.name} was asked; it has no attention layers: give a transformer")
    require_places(edits, places(loaded.model))
    inputs = read_inputs(prompts, loaded, options)
    return Plan(loaded, inputs, choice, edits, options)


def _run(plan: Plan, store: Unfinished | None) -> Report:
    options, loaded = plan.options, plan.loaded
    runner = Runner(loaded, options.chunk)
    was_training = loaded.model.training
    loaded.model.eval()
    try:
        drift = _drift(plan, runner)
        sweep = Sweep(runner, plan.inputs, plan.choice.metrics, plan.interventions, options)
        found = sweep.run(store) if plan.choice.metrics or options.keep != "none" else Found()
    finally:
        _restore(loaded.model, was_training)
    collected = _answers(plan)
    for experiment in plan.choice.experiments:
        collected += experiment.run(loaded, seed=options.seed, progress=options.progress)
    notes = (*plan.inputs.notes, *loaded.notes, *plan.choice.notes, *found.notes, *_more_notes(plan, runner))
    provenance = Provenance(
        model=model_record(loaded),
        mode=found.mode or options.mode,
        kernels=options.kernels,
        tokens=plan.inputs.n_tokens,
        prompts=plan.inputs.n_prompts,
        seed=options.seed,
        deterministic=options.deterministic,
        unseen_layers=tuple(found.unseen),
        fallback_layers=tuple(found.fallback),
        logit_drift=drift,
        bos=bos_of(plan.inputs.items),
        command=options.command,
        started=plan.started,
        ended=utc_now(),
        settings=settings(options, plan.interventions),
        notes=tuple(dict.fromkeys(notes)),
    )
    report = Report(collected, provenance, prompt_records(plan.inputs.items))
    return report if options.text else report.without_text()


def _answers(plan: Plan) -> list[Answer]:
    collected: list[Answer] = []
    for metric in plan.choice.metrics:
        collected += answers(metric, by_prompt=plan.options.by_prompt, tokens=not reordered(metric))
    return collected


def _drift(plan: Plan, runner: Runner) -> float | None:
    """How far the model's output under our attention is from its own, on the first tokens of the first input."""
    first = plan.inputs.items[0]
    if first.prompt is not None:
        first = replace(first, prompt=first.prompt.truncate(_VERIFIED_TOKENS))
    found = verify(plan.loaded, runner.tensors([first]))
    return found.logit_drift


def _more_notes(plan: Plan, runner: Runner) -> list[str]:
    given = any(item.prompt is not None for item in plan.inputs.items)
    lines = [runner.note() if given else None]
    lines.append(determinism_note() if plan.options.deterministic else None)
    return [line for line in lines if line is not None]


def _restore(model: nn.Module, training: bool) -> None:
    if training:
        model.train()
