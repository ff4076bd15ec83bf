"""Head roles on IOI-like tasks: name movers, inhibition and the rest, classified by what they are measured to do."""

from typing import Any

import numpy as np

from probe.circuits.path_effects import BIBTEX
from probe.circuits.paths import heads_of
from probe.circuits.reporting import Told, labelled, make_report
from probe.circuits.role_tables import measure_table, named_roles, role_effects, role_table
from probe.circuits.roles import MARKS, MEASURED, ROLES, Least, measure_roles
from probe.circuits.study import CircuitOptions, Pairs, study
from probe.errors import UsageError
from probe.prompts.pairs import PairSet
from probe.report import Report


def head_roles(
    model: object,
    pairs: Pairs = "ioi",
    *,
    least_effect: float = 0.02,
    least_attention: float = 0.2,
    least_copying: float = 0.5,
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """Which heads are name movers (negative, backup), S-inhibition, induction, duplicate- or previous-token heads.

    Every head is measured (``extra["measures"]``) and has a role where its numbers reach the thresholds:

    - name mover: direct effect, attention from the end to ``io``, copying.
    - negative name mover: direct effect below ``-least_effect``, negative copying.
    - backup name mover: no name mover, and what it adds by itself grows once name movers are held at the mean of both
      runs.
    - S-inhibition: effect through name movers' queries, attention from the end to ``s2``.
    - duplicate-token, induction: effect through the values of S-inhibition heads at ``s2``, attention from there to
      ``s1``, or to the token behind it.
    - previous-token: attention from behind ``s1`` to it; the runs are the same there, so its effect cannot be seen.

    Effects are shares of the difference as in `path_patching` (MLPs free). Each role's heads are then patched together,
    beside as many random heads of the same layers.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder.
        pairs: A task with the marks ``io``, ``s1``, ``s2``, or pairs with these marks.
        least_effect: Share of the difference, above 0.
        least_attention: Mean attention, above 0 to 1.
        least_copying: Share of names, above 0 to 1.
        options: How to look; see `CircuitOptions`.
        **changes: Single options by name (``count=32``).

    Returns:
        A report with one answer, ``head_roles``; its map is the direct effect. ``extra`` holds ``measures`` (measure,
        layer, head; NaN where not measured), ``roles`` (role, layer, head; 1 or 0), ``expected`` (heads of each role if
        its measures were independent), ``role_effect`` and ``random_effect`` (share of the difference that a role's
        heads carry together, and random ones).

    Raises:
        UsageError: marks are missing, thresholds out of range, a model that does not solve the task.
        InputError: pairs that do not fit the model, or a measure that is the same on both sides.
        CaptureError: what each head adds cannot be told in this model.
    """
    asked = CircuitOptions.of(options, changes)
    least = _least(least_effect, least_attention, least_copying)
    with study(model, pairs, asked) as case:
        require_marks(case.pairs, MARKS, "head roles")
        heads = heads_of(case)
        measured, direct = measure_roles(case, heads, least)
        roles = {name: measured.role(name) for name in ROLES}
        told = Told(
            f"head_roles:effect={least_effect:g},attention={least_attention:g},copying={least_copying:g}",
            f"Share of the {asked.measure} difference that goes from a head straight to the logits; 1 is all",
            "share of the difference", "Wang et al. 2023 (arXiv:2211.00593)", BIBTEX,
        )  # fmt: skip
        extra = {
            "measures": measure_table(measured.means, list(MEASURED), heads),
            "roles": role_table(roles, heads),
            "expected": labelled(np.array([measured.expected(name) for name in roles]), role=list(roles)),
            **role_effects(case, heads, roles),
        }
        answer = told.answer(direct.map, direct.by_prompt, extra, [*named_roles(roles), *_legend()])
        return make_report(case, [answer], {"method": "head_roles", **vars(least)})


def require_marks(pairs: PairSet, marks: tuple[str, ...], what: str) -> None:
    """Raise `UsageError` where not every pair has these marks."""
    lacking = [mark for mark in marks if mark not in pairs.marks]
    if lacking:
        raise UsageError(
            f"{what} of task {pairs.task} were asked; its pairs lack the marks {', '.join(lacking)} (they have "
            f"{', '.join(pairs.marks)}): use a task that has them, or mark your pairs"
        )


def _least(effect: float, attention: float, copying: float) -> Least:
    if effect <= 0 or not 0 < attention <= 1 or not 0 < copying <= 1:
        raise UsageError(
            f"thresholds least_effect={effect}, least_attention={attention}, least_copying={copying} were asked; "
            "effects must be above 0, the others above 0 and at most 1"
        )
    return Least(effect, attention, copying)


def _legend() -> list[str]:
    said = ["a previous-token head is told by its attention alone: both runs are the same where it works"]
    return said + [f"{name}: {text}" for name, text in MEASURED.items()]
