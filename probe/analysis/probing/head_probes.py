"""``probe.analysis.head_probes``: how well a linear probe reads a label or a number from each head's output."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from probe.analysis.inputs import read_inputs
from probe.analysis.options import AnalyzeOptions
from probe.analysis.probing.examples import Examples, make_examples
from probe.analysis.probing.fitting import Fold, control_of, folds_of, predictions
from probe.analysis.probing.options import HeadProbeOptions
from probe.analysis.probing.outputs import LayerKey, head_outputs
from probe.analysis.probing.scores import Task, probe_answers
from probe.analysis.records import model_record, prompt_records
from probe.errors import InputError
from probe.models import load
from probe.report import Report
from probe.report.provenance import Provenance, utc_now
from probe.seam.session import Session


def head_probes(
    model: object,
    prompts: object,
    labels: Sequence[object] | None = None,
    targets: Sequence[object] | None = None,
    *,
    options: HeadProbeOptions | None = None,
    **changes: Any,
) -> Report:
    """Fit a linear probe on every head's z, cross-validated, and hold it against a control task.

    Labels: logistic regression and its accuracy; targets: ridge regression and its R². The control task (Hewitt and
    Liang, "Designing and Interpreting Probes with Control Tasks", EMNLP 2019) gives each type of input a random label,
    each about as often as the real ones occur: a probe that could only memorise types would do as well there.
    ``selectivity = accuracy − control accuracy``. Folds keep a prompt's tokens together.

    Args:
        model: As for `analyze`.
        prompts: As for `analyze`; text or `Prompt`.
        labels: One per prompt (any values that can be compared), or with ``at="tokens"`` one per token, None where a
            token is no example.
        targets: Numbers instead of labels.
        options: How.
        **changes: Single options by name (``at="last"``, ``folds=5``), over those of `options`.

    Returns:
        A report with ``probe_accuracy`` (``probe_r2``) and ``probe_selectivity``: head maps, values per prompt for
        intervals (labels), and ``extra["control"]``.

    Raises:
        UsageError: labels and targets, neither, or a choice that does not exist.
        InputError: another number of labels than prompts, a span that is not there, too few examples of a class.
    """
    asked = HeadProbeOptions.of(options, changes)
    loaded = load(model, device=asked.device, dtype=asked.dtype)
    started = utc_now()
    inputs = read_inputs(prompts, loaded, AnalyzeOptions())
    read = [item.prompt for item in inputs.items if item.prompt is not None]
    if len(read) < len(inputs.items):
        raise InputError("ready-made inputs were given; head_probes takes text or prompts")
    examples = make_examples(read, labels, targets, asked)
    folds = folds_of(examples, asked)
    found, session = head_outputs(loaded, read, examples, asked)
    task, control = _fit(found, examples, folds, asked)
    answers = probe_answers(task, control, examples, asked, len(read))
    provenance = Provenance(
        model=model_record(loaded),
        mode=session.mode,
        kernels="+".join(session.backends) or None,
        tokens=inputs.n_tokens,
        prompts=len(read),
        seed=asked.seed,
        unseen_layers=tuple(session.unseen_layers),
        started=started,
        ended=utc_now(),
        settings={"at": asked.at, "folds": asked.folds, "penalty": asked.penalty, "control": asked.control},
        notes=_notes(inputs.notes, loaded.notes, session),
    )
    return Report(answers, provenance, prompt_records(inputs.items))


def _fit(
    found: dict[LayerKey, np.ndarray], examples: Examples, folds: list[Fold], options: HeadProbeOptions
) -> tuple[Task, Task | None]:
    """Every head's probe, and its control probe where there is a control task."""
    classes = bool(examples.classes)
    asked = control_of(examples, options)
    task = Task(examples.wanted, classes)
    control = None if asked is None else Task(asked, classes)
    heads = [(key, head) for key, outputs in found.items() for head in range(outputs.shape[1])]
    for done, (key, head) in enumerate(heads):
        options.report_progress(done, len(heads), "heads")
        z = np.ascontiguousarray(found[key][:, head])
        for one in (task, control):
            if one is not None:
                one.add(key, predictions(z, one.wanted, folds, options.penalty, classes=classes))
    return task, control


def _notes(about: Sequence[str], model: Sequence[str], session: Session) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*about, *model, *session.notes]))
