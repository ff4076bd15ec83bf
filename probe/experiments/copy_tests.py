"""Tests of copying: a prompt that holds an answer, a greedy response, and which heads copied the answer from there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from probe.experiments.aligning import alignment
from probe.experiments.base import Ask
from probe.experiments.copying import copy_scores
from probe.experiments.decoding import decode, stops_at
from probe.experiments.retrieval_answer import Outcome
from probe.experiments.rouge import rouge1_recall
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.readouts.evaluating import evaluating

GATE = 0.5  # a test counts when the response's ROUGE-1 recall of the answer is above this
EXTRA_STEPS = 4  # tokens that a response may have beyond the answer's


@dataclass(frozen=True)
class CopyTest:
    """A prompt with the span ``answer``, whose `answer` says what is there; its length and depth as they were asked."""

    prompt: Prompt
    length: int
    depth: float

    @property
    def answer(self) -> str:
        """What the model should say."""
        return self.prompt.answer or ""


def run_tests(
    ask: Ask, tests: Sequence[CopyTest], spec: str, *, dedup: bool = True, anywhere: bool = False
) -> list[Outcome]:
    """Run every test, the model in evaluation mode, and tell how far it is; `dedup`, `anywhere`: see `copy_scores`."""
    outcomes = []
    with evaluating(ask.model.model):
        stop = stops_at(ask.model)
        for number, test in enumerate(tests):
            ask.tell(number, len(tests), f"{spec}: {test.prompt.id}")
            outcomes.append(_run(ask.model, test, stop, dedup=dedup, anywhere=anywhere))
        ask.tell(len(tests), len(tests), spec)
    return outcomes


def answer_tokens(model: LoadedModel, answer: str) -> list[int]:
    """The tokens of an answer, said after a space."""
    tokenizer: Any = model.tokenizer
    return list(tokenizer(" " + answer, add_special_tokens=False)["input_ids"])


def cannot_copy(model: LoadedModel) -> str | None:
    """Why the model cannot be asked to copy an answer, or None."""
    config = getattr(model.model, "config", None)
    can_generate = getattr(model.model, "can_generate", lambda: False)
    if not can_generate() or getattr(config, "is_encoder_decoder", False):
        return "it needs a decoder that generates text after a prompt"
    if model.tokenizer is None or not getattr(model.tokenizer, "is_fast", False):
        return "it needs a fast tokenizer, to find the answer's tokens"
    return None


def _run(
    model: LoadedModel, test: CopyTest, stop: Callable[[int], bool], *, dedup: bool, anywhere: bool
) -> Outcome:
    prompt, tokenizer = test.prompt, model.tokenizer
    found = prompt.spans["answer"]
    aligned = alignment(prompt, found, test.answer, tokenizer)
    limit = len(answer_tokens(model, test.answer)) + EXTRA_STEPS
    steps = decode(model, prompt, limit=limit, stop=stop)
    response = str(tokenizer.decode([step.token for step in steps], skip_special_tokens=True))  # type: ignore[union-attr]
    heads = {layer: len(top) for step in steps for layer, top in step.top.items()}
    recall = rouge1_recall(test.answer, response)
    scores = {}
    if aligned != "lost":
        scores = copy_scores(steps, prompt.tokens, found, heads, dedup=dedup, anywhere=anywhere)
    return Outcome(
        id=prompt.id,
        length=test.length,
        depth=test.depth,
        recall=recall,
        counted=aligned != "lost" and recall > GATE,
        alignment=aligned,
        response=response,
        scores=scores,
        heads=heads,
    )
