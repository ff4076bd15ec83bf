"""Choice mass: how sure a model is that one of the valid answers comes next, with and without examples."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import xarray as xr
from jaxtyping import Float

from probe.errors import InputError, UsageError
from probe.experiments.base import Ask
from probe.experiments.model_answer import (
    bounds,
    by_prompt,
    cannot_predict,
    model_answer,
    no_model_answer,
    pooled,
)
from probe.experiments.next_token import next_probabilities
from probe.experiments.shots import Demo, before, with_examples
from probe.metrics.base import MetricInfo
from probe.metrics.making import at_least, one_of
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.prompts.choices import Part, Question, Task, choice_questions, token_ids
from probe.report.answer import Answer


class ChoiceMass:
    """Probability that a model gives to the valid answers of a question, 0 to 1, after `shots` examples.

    ``mass = Σ over valid choices c of p(c | prompt)`` at the position after the question, each choice with and without
    a space before it. Whether the choice with the most is the right one is counted apart: mass tells whether the model
    has understood what may be said, accuracy whether it knows.

    Extra, each over (shots: 0 and `shots`): ``mass`` and ``accuracy`` with ``mass_interval`` and ``accuracy_interval``
    (bound, shots); ``mass_rise`` and ``accuracy_rise`` (bound: value, low, high), what examples add, paired by
    question; ``mass_by_prompt`` and ``right_by_prompt`` (prompt, shots); ``chance``, the accuracy of guessing.

    Questions are of shipped words, unless `choices` is given: then your prompts are asked, their ``answer`` is the
    right choice, and other prompts with their answers are the examples.

    Wiegreffe et al., "Increasing Probability Mass on Answer Choices Does Not Always Improve Accuracy", EMNLP 2023
    (arXiv:2305.14596); what wrong examples do: Min et al., EMNLP 2022.

    Args:
        task: ``letters`` (which of four words is of a kind, by its letter) or ``kinds`` (the kind of a word).
        count: questions.
        shots: examples before a question.
        demo: what examples are answered with: the ``right`` choice, a ``wrong`` one, or ``other``, a word that is no
            choice: as long a prompt that shows no valid answer, a control.
        part: ``train`` or ``held_out`` words.
        choices: valid answers to your own prompts, joined by ``+``; each must be one token.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="choice_mass",
        summary="Probability of the valid answers to a question after an example, 0 to 1, beside none",
        unit="probability",
        better="high",
        paper="Wiegreffe et al. 2023",
        bibtex="""@inproceedings{wiegreffe2023increasing,
  title={Increasing Probability Mass on Answer Choices Does Not Always Improve Accuracy},
  author={Wiegreffe, Sarah and Finlayson, Matthew and Tafjord, Oyvind and Clark, Peter and Sabharwal, Ashish},
  booktitle={Proceedings of the 2023 Conference on Empirical Methods in Natural Language Processing},
  year={2023}
}""",
        causal_only=True,
        slow=True,
    )

    def __init__(
        self,
        task: Task = "letters",
        count: int = 16,
        shots: int = 1,
        demo: Demo = "right",
        part: Part = "train",
        choices: str = "",
    ) -> None:
        self.spec = self.info.name
        at_least(self.spec, "count", count, 1)
        at_least(self.spec, "shots", shots, 0)
        one_of(self.spec, "task", task, ("letters", "kinds"))
        one_of(self.spec, "demo", demo, ("right", "wrong", "other"))
        one_of(self.spec, "part", part, ("train", "held_out"))
        self.task: Task = task
        self.demo: Demo = demo
        self.part: Part = part
        self.count, self.shots = count, shots
        self.choices = tuple(one.strip() for one in choices.split("+") if one.strip())
        if choices and len(set(self.choices)) < 2:
            raise UsageError(
                f"choice_mass: choices was {choices!r}; allowed are at least two words, joined by +"
            )

    def run(self, ask: Ask) -> list[Answer]:
        """Every question without examples and with them; NaN with a note where the model predicts no token.

        Raises `InputError` where choices are asked of no prompts, a choice is no single token, an answer is no choice,
        or examples need answers that the prompts do not have.
        """
        reason = cannot_predict(ask.model)
        if reason is None and ask.model.tokenizer is None:
            reason = "it needs a tokenizer, to write questions"
        if reason:
            return [no_model_answer(self.spec, self.info, reason)]
        questions, examples, notes = self._questions(ask)
        each = (0, self.shots) if self.shots else (0,)
        mass, right = np.full((2, len(questions), len(each)), np.nan)
        for number, question in enumerate(questions):
            ask.tell(number, len(questions), f"{self.spec}: {question.id}")
            for place, shots in enumerate(each):
                text = with_examples(question, examples[number][:shots], self.demo, ask.seed + number)
                mass[number, place], right[number, place] = self._measure(ask.model, question, text)
        ask.tell(len(questions), len(questions), self.spec)
        return [self._answer(questions, each, mass, right, notes, ask.seed)]

    def _questions(self, ask: Ask) -> tuple[list[Question], list[list[Question]], list[str]]:
        """Questions, the examples before each, and what the reader must know."""
        if self.choices:
            questions = self._own(ask.prompts, ask.model)
            examples = before(questions, self.shots)
            return questions, examples, [f"{len(questions)} prompts of yours, demo={self.demo}"]
        given = {"task": self.task, "part": self.part}
        questions = choice_questions(ask.model.tokenizer, **given, count=self.count, seed=ask.seed)  # type: ignore[arg-type]
        others = 4 * (self.count * self.shots // 4 + 1)
        pool = choice_questions(ask.model.tokenizer, **given, count=others, seed=ask.seed + 1)  # type: ignore[arg-type]
        # The place of an example's answer goes through all four for every place of the question's own.
        examples = [
            [pool[4 * ((i * self.shots + s) // 4) + (i + i // 4 + s) % 4] for s in range(self.shots)]
            for i in range(self.count)
        ]
        note = f"task={self.task}, {len(questions)} questions of the {self.part} words, demo={self.demo}"
        return questions, examples, [note]

    def _own(self, prompts: Sequence[Prompt], loaded: LoadedModel) -> list[Question]:
        if not prompts:
            raise InputError(
                f"{self.spec}: choices {'+'.join(self.choices)} were asked; there are no prompts of yours: give some"
            )
        for choice in self.choices:
            if not token_ids(choice, loaded.tokenizer):
                raise InputError(
                    f"{self.spec}: the choice {choice!r} is more than one token for this tokenizer; give words of one"
                )
        made = []
        for prompt in prompts:
            answer = (prompt.answer or "").strip()
            if answer and answer not in self.choices:
                raise InputError(
                    f"{self.spec}: prompt {prompt.id!r} is answered by {answer!r}; it is none of the choices "
                    f"{', '.join(self.choices)}"
                )
            made.append(Question(prompt.id, prompt.text, answer, self.choices))
        return made

    def _measure(self, loaded: LoadedModel, question: Question, text: str) -> tuple[float, float]:
        """Mass on the choices, and 1 where the right one has the most, 0 where another has."""
        p = next_probabilities(loaded, Prompt.of(text, loaded.tokenizer))
        each = [float(p[sorted(token_ids(one, loaded.tokenizer))].sum()) for one in question.choices]
        best = question.choices[int(np.argmax(each))]
        return sum(each), float(best == question.answer) if question.answer else np.nan

    def _answer(
        self,
        questions: Sequence[Question],
        each: tuple[int, ...],
        mass: Float[np.ndarray, "prompt shots"],
        right: Float[np.ndarray, "prompt shots"],
        notes: Sequence[str],
        seed: int,
    ) -> Answer:
        ones = np.ones(len(questions))
        values = by_prompt([one.id for one in questions], mass[:, -1], ones)
        names, shots = values.coords["prompt"].values, {"shots": list(each)}
        extra = {"chance": xr.DataArray(float(np.mean([1 / len(one.choices) for one in questions])))}
        for name, found in (("mass", mass), ("accuracy", right)):
            weights = np.ones_like(found)
            extra[name] = xr.DataArray(pooled(found, weights), shots, ("shots",))
            interval = np.stack([bounds(column, ones, seed) for column in found.T], axis=1)
            extra[f"{name}_interval"] = xr.DataArray(
                interval, {"bound": ["low", "high"], **shots}, ("bound", "shots")
            )
            rise = found[:, -1] - found[:, 0]
            extra[f"{name}_rise"] = xr.DataArray(
                [float(pooled(rise, ones)), *bounds(rise, ones, seed)],
                {"bound": ["value", "low", "high"]},
                ("bound",),
            )
        for name, found in (("mass_by_prompt", mass), ("right_by_prompt", right)):
            extra[name] = xr.DataArray(found, {"prompt": names, **shots}, ("prompt", "shots"))
        line = "; ".join(
            f"{shots}-shot: mass {extra['mass'].values[n]:.3f}, accuracy {extra['accuracy'].values[n]:.3f}"
            for n, shots in enumerate(each)
        )
        return model_answer(self.spec, self.info, values, extra, [line, *notes], seed)
