"""``probe.analyze``: model and prompts in, report out."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from probe.analysis.beside import beside, untrained_plan
from probe.analysis.fingerprint import fingerprint
from probe.analysis.forward import Runner, out_of_memory
from probe.analysis.kept_size import announce_kept
from probe.analysis.options import AnalyzeOptions
from probe.analysis.own_inputs import run_own
from probe.analysis.plan import Plan, prepare
from probe.analysis.records import Counts, Outcome, make_report
from probe.analysis.resume import Unfinished
from probe.analysis.settle import settled
from probe.analysis.sweep import Found, Sweep
from probe.analysis.tally import Tally
from probe.errors import ProbeError, UsageError
from probe.experiments.base import Ask, Experiment
from probe.metrics.answering import answers, reordered
from probe.readouts.evaluating import evaluating
from probe.report import Report
from probe.report.baseline import UNTRAINED
from probe.seam import Session
from probe.seam.verify import verify

_VERIFIED_TOKENS = 64


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
            outcome = _run(plan, store)
            if asked.baseline is not None:
                _untrained(plan, metrics, interventions, outcome, store)
    except BaseException:
        if store is not None:
            store.abandon()
        raise
    report = make_report(plan, outcome)
    if asked.folder is not None and store is not None:
        report.save(asked.folder, replace=True)
        store.finish()
    return report


def _run(plan: Plan, store: Unfinished | None) -> Outcome:
    """Verify, watch the inputs, then the prompts that metrics and experiments bring themselves."""
    options, loaded = plan.options, plan.loaded
    runner = Runner(loaded, options.chunk)
    with evaluating(loaded.model):
        outcome = Outcome(drift=_drift(plan, runner))
        if options.keep == "qk" and options.folder is not None:
            line = announce_kept(runner, plan.inputs, options.folder)
            options.report_progress(0, plan.inputs.n_prompts, line)
            outcome.notes.append(line)
        if plan.sweeps:
            outcome.found = Sweep(runner, plan.inputs, plan.on_inputs, plan.interventions, options).run(store)
            outcome.ran.append(plan.inputs)
        for metric in plan.on_own:
            first = sum(inputs.n_prompts for inputs in outcome.ran)
            inputs, found = run_own(runner, metric, plan.interventions, options, first)
            outcome.ran.append(inputs)
            outcome.found.merge(found)
        for metric in plan.choice.metrics:
            tokens = not reordered(metric)
            outcome.answers += answers(metric, by_prompt=options.by_prompt, tokens=tokens)
        for experiment in plan.choice.experiments:
            try:
                _experiment(experiment, plan, outcome)
            except UsageError as error:
                # One that came with a suite and has nothing to say of these prompts must not take the others along.
                if experiment.spec not in plan.choice.in_group:
                    raise
                outcome.notes.append(f"{experiment.spec} was left out: {error}")
    if plan.sweeps and any(item.prompt is not None for item in plan.inputs.items):
        outcome.notes += [note for note in (runner.note(),) if note is not None]
    return outcome


def _untrained(
    plan: Plan, metrics: object, interventions: object, outcome: Outcome, store: Unfinished | None
) -> None:
    """Put the answers of the untrained model beside those of the outcome; what it cannot answer says why."""
    other = untrained_plan(plan, metrics, interventions)
    whole, reasons = other.choice, dict[str, str]()
    inner = None if store is None else Unfinished(store.folder / UNTRAINED, store.fingerprint)
    try:
        found = _run(replace(other, choice=replace(whole, experiments=())), inner)
    finally:
        if inner is not None:
            inner.abandon()
    for experiment in whole.experiments:
        try:
            with evaluating(other.loaded.model):
                _experiment(experiment, other, found)
        except ProbeError as error:
            reasons[experiment.spec] = str(error)
    outcome.answers = beside(outcome.answers, found.answers, reasons, plan.options.seed)


def _experiment(experiment: Experiment, plan: Plan, outcome: Outcome) -> None:
    """Run an experiment under the interventions of the call, and keep the record of what it ran."""
    loaded, options, tally = plan.loaded, plan.options, Tally()
    watched = Session(loaded.model, [tally], plan.interventions)
    with out_of_memory(f"{experiment.spec} on {loaded.name}", plan.inputs.n_tokens), watched as session:
        own = (
            ()
            if plan.shipped
            else tuple(item.prompt for item in plan.inputs.items if item.prompt is not None)
        )
        asked = Ask(loaded, own, options.seed, options.progress, options.max_tokens)
        outcome.answers += experiment.run(asked)
        if tally.tokens:
            found = Found(session.mode, session.unseen_layers, session.fallback_layers, session.notes)
            outcome.found.merge(found)
    outcome.brought = Counts(
        outcome.brought.tokens + sum(tally.tokens.values()), outcome.brought.prompts + len(tally.tokens)
    )


def _drift(plan: Plan, runner: Runner) -> float:
    """How far the model's output under our attention is from its own, on the first tokens of the first input."""
    first = plan.inputs.items[0]
    if first.prompt is not None:
        first = replace(first, prompt=first.prompt.truncate(_VERIFIED_TOKENS))
    inputs = runner.tensors([first])
    if inputs.keys() <= {"input_ids", "attention_mask"}:
        # Ready-made ids are cut as well, so that logits of all their positions are never made.
        inputs = {k: v[:, :_VERIFIED_TOKENS] for k, v in inputs.items() if isinstance(v, Tensor)}
    return verify(plan.loaded, inputs).logit_drift
