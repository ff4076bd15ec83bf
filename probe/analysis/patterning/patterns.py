"""``probe.patterns``: what sparse patterns would cost every head of a model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from probe_kernels import chosen_backend

from probe.analysis.fingerprint import fingerprint
from probe.analysis.first_use import drift_of
from probe.analysis.forward import Runner
from probe.analysis.patterning.applying import applied
from probe.analysis.patterning.control import control_of
from probe.analysis.patterning.detection import detected
from probe.analysis.patterning.fold import PatternFold
from probe.analysis.patterning.losing import named
from probe.analysis.patterning.numbers import answers_of
from probe.analysis.patterning.options import PatternOptions
from probe.analysis.patterning.plan import Plan, prepare
from probe.analysis.patterning.whole import Wholes
from probe.analysis.records import bos_of, model_record, prompt_records
from probe.analysis.resume import Unfinished
from probe.analysis.settle import settled
from probe.analysis.sweep import Found, Sweep
from probe.readouts.evaluating import evaluating
from probe.report import Answer, Report
from probe.report.pattern_costs import APPLIED
from probe.report.provenance import Provenance, utc_now


def patterns(
    model: object,
    prompts: object = None,
    patterns: object = (),
    *,
    options: PatternOptions | None = None,
    **changes: Any,
) -> Report:
    """Run a model once, dense, and say for every head what each sparse pattern would take from it.

    Per pattern and head, over all real rows of all prompts: `density` (kept pairs / visible pairs), `mass_kept` with
    `mass_kept_p5` and `mass_kept_min` (R_i = exp(lse_S,i - lse_i), the share of a row's attention to keys that the kept
    keys S have; mean, 5th percentile, minimum), and `output_error` (‖O - O_S‖_F / ‖O‖_F, where O_S attends to S alone,
    renormalised). Without a learned sink O - O_S = (1 - R)(O_C - O_S) row by row, C the keys left out. A learned sink
    takes part in O and O_S, and has no part in R. Every layer is given what the dense model gives it, so that errors
    do not add up over layers; `apply` shows what they come to together.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder.
        prompts: Text, a `Prompt`, a mapping of the model's own inputs, or a list of these; None: a shipped text.
        patterns: Specs such as ``"sink_recent:sinks=4,recent=256"``, or patterns of `probe_kernels.select`.
        options: How to run it.
        **changes: Single options by name (``apply=True``, ``out="run"``), over those of `options`.

    Returns:
        Head maps ``SPEC/density``, ``SPEC/mass_kept`` and so on, those of random blocks at the density of a pattern
        that looks at scores under ``SPEC/control/…``; also saved to ``out`` if that was given.

    Raises:
        UsageError: the call was wrong, or a pattern does not suit the model or a prompt; nothing was run.
        BudgetError: memory ran out, naming the size.
    """
    return run(prepare(model, prompts, patterns, PatternOptions.of(options, changes)))


def run(plan: Plan) -> Report:
    """Measure what is planned, but for the prompts that an interrupted run of the same has finished."""
    options, loaded = plan.options, plan.loaded
    folder, store = options.running.folder, None
    if folder is not None:
        specs = [*(f"{spec} = {one.name}" for spec, one in plan.patterns), f"control={options.control}"]
        store = Unfinished(folder, fingerprint(loaded, plan.inputs, specs, (), options.running))
    try:
        with settled(options.seed, deterministic=False, device=loaded.device), evaluating(loaded.model):
            report = _measured(plan, store)
    except BaseException:
        if store is not None:
            store.abandon()
        raise
    if folder is not None and store is not None:
        report.save(folder, replace=True)
        store.finish()
    return report


def _measured(plan: Plan, store: Unfinished | None) -> Report:
    options, loaded = plan.options, plan.loaded
    wholes, seed = Wholes(options.kernels), options.seed if options.control else None
    watching = [
        PatternFold(spec, one, wholes, None if seed is None else control_of(one, seed))
        for spec, one in plan.patterns
    ]
    found = Sweep(Runner(loaded), plan.inputs, watching, (), options.running).run(store)
    retrieval = detected(plan) if options.retrieval else None
    answers: list[Answer] = []
    for number, fold in enumerate(watching):
        answers += _told(plan, fold, number, retrieval)
    return _report(plan, [*answers, *([] if retrieval is None else [retrieval])], found)


def _told(plan: Plan, fold: PatternFold, number: int, retrieval: Answer | None) -> list[Answer]:
    """A pattern's answers, the heads named that it robs, and what it does to the model if that was asked."""
    extra = {}
    if plan.options.apply:
        plan.options.report_progress(number, len(plan.patterns), f"applying {fold.spec}")
        texts = [item.prompt for item in plan.inputs.items if item.prompt is not None]
        extra[APPLIED] = applied(plan.loaded, texts, fold.pattern, plan.options.seed)
    answers = []
    for one in answers_of(fold):
        if one.spec == f"{fold.spec}/mass_kept":
            one = replace(named(one, fold.spec, retrieval), extra=extra)
        answers.append(one)
    return answers


def _report(plan: Plan, answers: Sequence[Answer], found: Found) -> Report:
    options, loaded, inputs = plan.options, plan.loaded, plan.inputs
    provenance = Provenance(
        model=model_record(loaded),
        mode=found.mode or "fused",
        kernels=chosen_backend(options.kernels, loaded.device),
        tokens=inputs.n_tokens,
        prompts=inputs.n_prompts,
        seed=options.seed,
        unseen_layers=tuple(found.unseen),
        fallback_layers=tuple(found.fallback),
        logit_drift=drift_of(loaded.model, "fused"),
        bos=bos_of(inputs.items),
        command=options.command,
        started=plan.started,
        ended=utc_now(),
        settings=_settings(plan),
        notes=tuple(dict.fromkeys([*inputs.notes, *loaded.notes, *found.notes])),
    )
    report = Report(answers, provenance, prompt_records(inputs.items))
    return report if options.text else report.without_text()


def _settings(plan: Plan) -> dict[str, object]:
    """The choices that shape the numbers: every pattern as typed, with all its parameters."""
    return {
        "patterns": {spec: pattern.name for spec, pattern in plan.patterns},
        "control": plan.options.control,
        "max_tokens": plan.options.max_tokens,
    }
