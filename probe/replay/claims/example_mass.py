"""One example raises the mass on valid choices; accuracy may not follow."""

import numpy as np

from probe.experiments.base import Ask
from probe.experiments.choice_mass import ChoiceMass
from probe.experiments.shots import Demo
from probe.models import LoadedModel
from probe.prompts.choices import Task
from probe.replay.claim import Claim
from probe.replay.finding import NONE, Finding, Row, Table
from probe.replay.intervals import interval, mean
from probe.replay.work import Work

COUNT = 32
TASKS: tuple[Task, ...] = ("letters", "kinds")
DEMOS: tuple[Demo, ...] = ("right", "wrong", "other")


def measure(work: Work) -> Finding:
    """Mass and accuracy of every question, without an example and with one, answered in three ways."""
    count = 4 if work.small else COUNT
    found = {
        (task, demo): {
            name: np.asarray(values, np.float64)
            for name, values in work.keep(
                f"{task} {demo} {count}", _of_task, work.model, task, demo, count, work.seed
            ).items()
        }
        for task in TASKS
        for demo in DEMOS
    }
    rises = {task: _rise(found[task, "right"]["mass"]) for task in TASKS}
    gaps = {task: rises[task] - _rise(found[task, "other"]["mass"]) for task in TASKS}
    held = {task: bool(interval(rises[task])[0] > 0 and interval(gaps[task])[0] > 0) for task in TASKS}
    follows = {task: interval(_rise(found[task, "right"]["right"]))[0] > 0 for task in TASKS}
    return Finding(
        holds=all(held.values()),
        but="; accuracy does not follow" if not any(follows.values()) else "",
        brief="; ".join(
            f"{task}: mass {mean(found[task, 'right']['mass'][:, 0])} without an example, "
            f"{mean(found[task, 'right']['mass'][:, 1])} with one, accuracy "
            f"{mean(found[task, 'right']['right'][:, 0])} and {mean(found[task, 'right']['right'][:, 1])}"
            for task in TASKS
        ),
        rows=tuple(
            Row(
                f"{said} added by one example, {task}",
                mean(_rise(found[task, "right"][name])),
                "above 0" if name == "mass" else "above or below 0",
                mean(_rise(found[task, "other"][name])),
            )
            for task in TASKS
            for name, said in (("mass", "mass on the choices"), ("right", "accuracy"))
        ),
        tables=(_table(found),),
        found=tuple(
            f"{task}: one example adds {mean(rises[task])} of mass, {mean(gaps[task])} more than one without a valid "
            f"answer; the claim {'holds' if held[task] else 'does not hold'} here. Accuracy changes by "
            f"{mean(_rise(found[task, 'right']['right']))}: it {'follows' if follows[task] else 'does not follow'}."
            for task in TASKS
        ),
    )


def _rise(values: np.ndarray) -> np.ndarray:
    return np.asarray(values[:, 1] - values[:, 0])


def _of_task(
    loaded: LoadedModel, task: Task, demo: Demo, count: int, seed: int
) -> dict[str, list[list[float]]]:
    (answer,) = ChoiceMass(task=task, count=count, demo=demo, part="held_out").run(Ask(loaded, seed=seed))
    names = {"mass": "mass_by_prompt", "right": "right_by_prompt"}
    return {name: answer.extra[array].values.tolist() for name, array in names.items()}


def _table(found: dict[tuple[Task, Demo], dict[str, np.ndarray]]) -> Table:
    said = {"right": "the right choice", "wrong": "a wrong choice", "other": "a word that is no choice"}

    def line(task: Task, demo: Demo | None) -> tuple[str, ...]:
        values, at = found[task, demo or "right"], int(demo is not None)
        how = f"one, answered by {said[demo]}" if demo else "none"
        return (task, how, str(mean(values["mass"][:, at])), str(mean(values["right"][:, at])), "0.25")

    return Table(
        "Mass on the choices and accuracy among them: mean [95 % interval over questions]",
        ("task", "example", "mass", "accuracy", "guessing"),
        tuple(line(task, demo) for task in TASKS for demo in (None, *DEMOS)),
    )


CLAIM = Claim(
    claimed="one in-context example raises the probability mass on the given answer choices to nearly all; accuracy "
    "may rise, stay or fall, depending on the model.",
    data="questions of the held-out words of `datasets/kinds.jsonl`: which of four words is of a kind (by its "
    "letter), and the kind of a word among four that are named; nothing is chosen or tuned.",
    measure=measure,
    how=(
        "`choice_mass`: Σ over valid choices of p(choice | prompt), with and without a space before it; accuracy: "
        f"the most probable choice is the right one. {COUNT} questions a task, choices stand in every question. The "
        "example is another question of the same kind; over all questions the place of its answer tells nothing of "
        "the question's.",
        f"The control is an example that is answered by a word that is no choice: as long a prompt. {NONE} stands "
        "where there is no number.",
        "The claim holds where one example adds mass, and more than the control does, in both tasks (intervals over "
        "questions, paired). Accuracy follows where its change is above 0 (interval).",
    ),
    settings={"count": COUNT},
)
