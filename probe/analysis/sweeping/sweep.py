"""``probe.sweep``: the effect of every head, or every layer, on a task."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from probe.analysis.forward import out_of_memory
from probe.analysis.ready import idle_error
from probe.analysis.settle import settled
from probe.analysis.sweeping.answer import make_report
from probe.analysis.sweeping.log import EffectLog
from probe.analysis.sweeping.measure import Measure
from probe.analysis.sweeping.options import SweepOptions
from probe.analysis.sweeping.plan import Plan, prepare
from probe.analysis.sweeping.units import Unit
from probe.readouts.evaluating import evaluating
from probe.report import Report


def sweep(
    model: object,
    how: object = "zero",
    over: str = "heads",
    task: str = "loss",
    prompts: object = None,
    *,
    options: SweepOptions | None = None,
    **changes: Any,
) -> Report:
    """Edit one head (or layer) at a time and say how much a task's number changes: edited minus base.

    The head map ``effect`` is the mean change over prompts; ``report.intervals("effect")`` says how far it would move
    with other prompts. Head ablation of Michel, Levy & Neubig 2019 (arXiv:1905.10650), for any intervention.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder.
        how: The intervention, as a spec (``"zero"``, ``"scale:alpha=2"``) or an instance; its heads and layers, where
            it names some, are those that are swept.
        over: ``heads`` or ``layers``.
        task: ``loss`` (mean token loss on text), ``needle`` (loss and recall of a hidden needle's answer, its tokens
            given one after another) or ``ioi`` (logit difference), with parameters: ``"needle:length=1000,needles=3"``.
        prompts: Text or `Prompt`, or a list of these, in place of the task's own.
        options: How to run it.
        **changes: Single options by name (``queries="last"``, ``phase="decode"``, ``out="run"``).

    Returns:
        The effect of every head; also saved to ``out`` if that was given.

    Raises:
        UsageError: the call was wrong; nothing was measured and nothing written.
        InterventionError: the intervention cannot act on this model; or, at the end, it changed nothing in any head.
        BudgetError: memory ran out, naming the size.
    """
    asked = SweepOptions.of(options, changes)
    with torch.no_grad():
        plan = prepare(model, how, over, task, (prompts, asked))
        return run(plan)


def run(plan: Plan) -> Report:
    """Measure what is planned, but for what an interrupted run of the same has finished."""
    options = plan.options
    log = None if options.folder is None else EffectLog(options.folder, plan.fingerprint())
    edited = (
        {}
        if log is None
        else {name: torch.tensor(scores, dtype=torch.float64) for name, scores in log.finished.items()}
    )
    try:
        tokens = sum(len(case.tokens) for case in plan.cases)
        with (
            torch.no_grad(),
            settled(options.seed, deterministic=False, device=plan.loaded.device),
            evaluating(plan.loaded.model),
            out_of_memory(f"a sweep of {plan.loaded.name}", tokens),
        ):
            base, notes = _measure(plan, edited, log)
    except BaseException:
        if log is not None:
            log.abandon()
        raise
    report = make_report(plan, base, edited, notes)
    if options.folder is not None and log is not None:
        report.save(options.folder, replace=True)
        log.finish()
    return report


def _measure(plan: Plan, edited: dict[str, Tensor], log: EffectLog | None) -> tuple[Tensor, list[str]]:
    """The numbers without an edit, and notes; those of every unit that is missing are added to `edited`."""
    todo = [unit for unit in plan.units if unit.name not in edited]
    measure = Measure(plan, todo)
    base = measure.base()
    total = len(plan.units)
    plan.options.report_progress(len(edited), total, plan.over)
    for unit, scores in measure.edited():
        if log is not None:
            log.append(unit.name, scores.tolist())
        edited[unit.name] = scores
        plan.options.report_progress(len(edited), total, f"{plan.over}: {unit.name}")
    still = [unit for unit in plan.units if torch.equal(edited[unit.name], base)]
    if todo and not measure.acted and len(still) == total:
        layers = dict.fromkeys(unit.place.module for unit in plan.units)
        raise idle_error(plan.edit, total * len(plan.groups), list(layers))
    return base, [measure.note, *_untouched(still)]


def _untouched(still: Sequence[Unit]) -> list[str]:
    names = [unit.name for unit in still]
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return [f"no number changed at all when {shown} was edited"] if names else []
