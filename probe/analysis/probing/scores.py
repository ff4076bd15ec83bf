"""From predictions to answers: accuracy or R² of every head, and how much of it the control task does not reach."""

from dataclasses import dataclass, field, replace

import numpy as np
import xarray as xr

from probe.analysis.probing.examples import Examples
from probe.analysis.probing.fitting import Fitted
from probe.analysis.probing.options import HeadProbeOptions
from probe.analysis.probing.outputs import LayerKey
from probe.errors import MetricError
from probe.report.answer import Answer

_BIBTEX = """@inproceedings{hewitt2019designing,
  title={Designing and Interpreting Probes with Control Tasks},
  author={Hewitt, John and Liang, Percy},
  booktitle={Proceedings of the 2019 Conference on Empirical Methods in Natural Language Processing},
  year={2019}
}"""
_SUMMARY = {
    "probe_accuracy": "Share of unseen examples whose label a linear probe reads from the head's output, 0 to 1.",
    "probe_r2": "Share of variance of unseen targets that a linear probe reads from the head's output, at most 1.",
    "probe_selectivity": "The probe's score less its score on a control task that only types of input can solve.",
}


@dataclass
class Task:
    """What was asked of every example, and each head's predictions, layer by layer."""

    wanted: np.ndarray
    classes: bool
    heads: dict[LayerKey, list[Fitted]] = field(default_factory=dict)

    def add(self, key: LayerKey, one: Fitted) -> None:
        """Take the next head of a layer."""
        self.heads.setdefault(key, []).append(one)

    def marks(self, tower: str) -> np.ndarray:
        """``[example, layer, head]``: 1 where right and 0 where wrong, or the squared error of a target."""
        layers = [fitted for (name, _), fitted in self.heads.items() if name == tower]
        grid = np.full((len(self.wanted), len(layers), max(map(len, layers))), np.nan)
        for row, fitted in enumerate(layers):
            for head, one in enumerate(fitted):
                right = one.predicted == self.wanted
                grid[:, row, head] = right if self.classes else (one.predicted - self.wanted) ** 2
        return grid

    def score(self, tower: str) -> np.ndarray:
        """``[layer, head]``: accuracy, or R² = 1 − Σ(ŷ − y)² / Σ(y − ȳ)²."""
        marks = self.marks(tower)
        if self.classes:
            return np.asarray(marks.mean(0))
        spread = float(((self.wanted - self.wanted.mean()) ** 2).sum())
        return np.asarray(1.0 - marks.sum(0) / spread) if spread > 0 else np.full(marks.shape[1:], np.nan)


def probe_answers(
    task: Task, control: Task | None, examples: Examples, options: HeadProbeOptions, prompts: int
) -> list[Answer]:
    """The score of every head and its selectivity, one answer of each per tower."""
    if not task.heads:
        raise MetricError(
            "heads were to be probed; no layer saw all examples: give text that the model attends to"
        )
    notes = _notes(task, control, examples, options)
    found = []
    for tower in dict.fromkeys(tower for tower, _ in task.heads):
        coords = _coords(task, tower)
        score = task.score(tower)
        other = np.full_like(score, np.nan) if control is None else control.score(tower)
        name = "probe_accuracy" if task.classes else "probe_r2"
        for spec, values in ((name, score), ("probe_selectivity", score - other)):
            by_prompt = None
            if task.classes and (spec == name or control is not None):
                less = control if spec != name else None
                by_prompt = _by_prompt(task, less, tower, examples, prompts)
            answer = _answer(spec, tower, xr.DataArray(values, dims=("layer", "head"), coords=coords), notes)
            extra = {"control": answer.head_map.copy(data=other)} if spec == name else {}
            found.append(_with(answer, by_prompt, extra, coords))
    return found


def _answer(spec: str, tower: str, head_map: xr.DataArray, notes: tuple[str, ...]) -> Answer:
    return Answer(
        spec=spec,
        name=spec,
        summary=_SUMMARY[spec],
        unit="share",
        better="high",
        paper="Hewitt & Liang 2019",
        bibtex=_BIBTEX,
        tower=tower,
        head_map=head_map,
        notes=notes,
    )


def _with(
    answer: Answer,
    each: tuple[np.ndarray, np.ndarray] | None,
    extra: dict[str, xr.DataArray],
    coords: dict[str, object],
) -> Answer:
    by_prompt = None
    if each is not None:
        values, counts = each
        labels = {"prompt": np.arange(len(values), dtype=np.int64), **coords, "weight": ("prompt", counts)}
        by_prompt = xr.DataArray(values, dims=("prompt", "layer", "head"), coords=labels)
    return replace(answer, by_prompt=by_prompt, extra=extra)


def _coords(task: Task, tower: str) -> dict[str, object]:
    n_heads = {layer: len(fitted) for (name, layer), fitted in task.heads.items() if name == tower}
    return {
        "layer": np.array(list(n_heads), dtype=np.int64),
        "head": np.arange(max(n_heads.values()), dtype=np.int64),
        "n_heads": ("layer", np.array(list(n_heads.values()), dtype=np.int64)),
    }


def _by_prompt(
    task: Task, less: Task | None, tower: str, examples: Examples, prompts: int
) -> tuple[np.ndarray, np.ndarray]:
    """Means over each prompt's examples and their numbers: what intervals over prompts are drawn from."""
    marks = task.marks(tower) - (0.0 if less is None else less.marks(tower))
    each = np.full((prompts, *marks.shape[1:]), np.nan)
    counts = np.bincount(examples.prompt, minlength=prompts).astype(np.float64)
    for prompt in np.flatnonzero(counts):
        each[prompt] = marks[examples.prompt == prompt].mean(0)
    return each, counts


def _notes(
    task: Task, control: Task | None, examples: Examples, options: HeadProbeOptions
) -> tuple[str, ...]:
    kind = "logistic" if task.classes else "ridge"
    lines = [
        f"{kind} regression, penalty {options.penalty:g}, {options.folds} folds, {len(examples)} examples"
    ]
    if task.classes:
        shares = np.bincount(examples.wanted) / len(examples)
        most = int(shares.argmax())
        lines.append(
            f"chance: {shares[most]:.3f}, the share of {examples.classes[most]!r} among {len(shares)} labels"
        )
    if options.control == "shuffle":
        lines.append("control: labels changed places between examples")
    elif control is None:
        lines.append("no control: all examples are of one type; give types, or use control='shuffle'")
    else:
        lines.append(f"control: a random label for each of {examples.n_types} types")
        if examples.n_types == len(examples):
            lines.append("every type occurs once, so that the control can only be guessed")
    fits = [
        one for both in (task, control) if both is not None for layer in both.heads.values() for one in layer
    ]
    unfinished = sum(one.unfinished for one in fits)
    if unfinished:
        lines.append(f"{unfinished} fits did not converge")
    return tuple(lines)
