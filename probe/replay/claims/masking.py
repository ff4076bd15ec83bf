"""Retrieval heads are causal: masking them loses the needle, masking as many others does not."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from probe.interventions import uniform_cached, zero
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.choices import CONTEXT, EACH, OTHERS, WIDTH, chosen
from probe.replay.claim import Claim
from probe.replay.finding import NONE, Finding, Row, Table
from probe.replay.heads import Controls, highest, layer_of
from probe.replay.intervals import interval, mean, spread
from probe.replay.needles import DETECTED_WITH, LENGTHS, SMALL, by_length, held_out, lengths_of, needle_of
from probe.replay.ordinary import Losses, losses
from probe.replay.reading import Reading
from probe.replay.work import Work

TOP, SEEDS, NEEDLES = 10, 5, 6
PAPER = "uniform over the cache, decode only"
MASKED = "below 0.50 (50 heads)"


@dataclass(frozen=True)
class Kind:
    """One way of masking: the edit of the top heads, those of the controls, and the first row that they touch."""

    name: str
    edit: Any
    others: tuple[Any, ...]
    rows: int | None  # None: decode steps alone


@dataclass(frozen=True)
class Recalled:
    """ROUGE-1 recall and answer loss by run (the edit, then its controls) and prompt."""

    recall: np.ndarray
    loss: np.ndarray

    def part(self, runs: slice) -> "Recalled":
        """Some of the runs."""
        return Recalled(self.recall[runs], self.loss[runs])


@dataclass(frozen=True)
class Continued:
    """Loss of the true continuation, and whether it is chosen among four; by kind ``[run, choice]``."""

    loss: np.ndarray
    right: np.ndarray
    kinds: tuple[tuple[np.ndarray, np.ndarray], ...]

    @classmethod
    def of(cls, loss: np.ndarray, right: np.ndarray, kinds: int) -> "Continued":
        """Run 0 is unedited; as many runs of each kind follow it."""
        width = (len(loss) - 1) // kinds
        cuts = [slice(1 + width * at, 1 + width * (at + 1)) for at in range(kinds)]
        return cls(loss[0], right[0], tuple((loss[cut], right[cut]) for cut in cuts))


def measure(work: Work) -> Finding:
    """Recall of held-out needles and loss on ordinary text, with the top heads and with controls masked."""
    scores = work.retrieval()
    top = highest(scores, TOP)
    controls = Controls.of(zero(top), top, SEEDS, work.model, work.seed)
    kinds = [
        Kind("zero", zero(top), tuple(zero(heads) for heads in controls.heads), 0),
        Kind(PAPER, uniform_cached(top), tuple(uniform_cached(heads) for heads in controls.heads), None),
    ]
    block = min(map(layer_of, top))
    count, lengths = (2, SMALL) if work.small else (NEEDLES, LENGTHS)
    prompts = held_out(work.model, count, work.seed, lengths)
    base, masked = _recalled(work, prompts, kinds, block)
    runs = [(kind.edit, *kind.others) for kind in kinds]
    found = losses(work, runs, block)
    rows = [(one, kind.rows) for one, kind in zip(runs, kinds, strict=True)]
    continued = Continued.of(*chosen(work, rows, block), len(kinds))
    return _finding(prompts, kinds, base, masked, found, continued, _how(top, controls, scores, found))


def _recalled(
    work: Work, prompts: Sequence[Prompt], kinds: Sequence[Kind], block: int
) -> tuple[Recalled, list[Recalled]]:
    rows = [work.keep(str(prompt.id), _by_run, work.model, prompt, kinds, block) for prompt in prompts]
    runs = np.asarray(rows).T  # what, run, prompt
    width = 1 + SEEDS
    return (
        Recalled(runs[0, :1], runs[1, :1]),
        [
            Recalled(runs[0, start : start + width], runs[1, start : start + width])
            for start in range(1, runs.shape[1], width)
        ],
    )


def _by_run(loaded: LoadedModel, prompt: Prompt, kinds: Sequence[Kind], block: int) -> list[list[float]]:
    """Recall and answer loss without an edit, then for each kind with its edit and its controls."""
    reading, wanted = Reading(loaded, prompt.tokens, block), str(prompt.answer)
    said = [reading.answer(wanted)]
    for kind in kinds:
        said += [reading.answer(wanted, [one], kind.rows) for one in (kind.edit, *kind.others)]
    return [[one.recall, one.loss] for one in said]


def _recall_table(
    prompts: Sequence[Prompt], kinds: Sequence[Kind], base: Recalled, masked: Sequence[Recalled]
) -> Table:
    needles = [needle_of(prompt) for prompt in prompts]

    def line(masking: str, heads: str, found: Recalled) -> tuple[str, ...]:
        one = len(found.recall) == 1
        told = partial(mean, groups=needles) if one else spread
        recall, loss = (each[0] if one else each for each in (found.recall, found.loss))
        return (masking, heads, str(told(recall)), *by_length(prompts, found.recall.mean(0)), str(told(loss)))

    rows = [line("none", "–", base)]
    for kind, found in zip(kinds, masked, strict=True):
        rows.append(line(kind.name, f"top {TOP}", found.part(slice(1))))
        rows.append(line(kind.name, f"{TOP} others of the same layers", found.part(slice(1, None))))
    return Table(
        f"Recall of the answer (ROUGE-1) and its loss (nats per token), {len(prompts)} prompts of "
        f"{len(set(needles))} needles: mean [95 % interval over needles]; controls: mean over {SEEDS} seeds "
        "(lowest – highest)",
        (
            "masking",
            "heads",
            "recall",
            *(f"{length} tokens" for length in lengths_of(prompts)),
            "answer loss",
        ),
        tuple(rows),
    )


def _loss_table(kinds: Sequence[Kind], found: Losses) -> Table:
    rows = [("none", "–", str(mean(found.base, digits=3)), "–")]
    for kind, runs in zip(kinds, found.edited, strict=True):
        rise = runs - found.base
        cells = [str(mean(each[0], digits=3)) for each in (runs, rise)]
        rows.append((kind.name, f"top {TOP}", *cells))
        cells = [str(spread(each[1:], 3)) for each in (runs, rise)]
        rows.append((kind.name, f"{TOP} others of the same layers", *cells))
    return Table(
        f"Loss on ordinary text, nats per token, {len(found.base)} passages of {found.width} tokens: mean "
        "[95 % interval over passages]; controls as above",
        ("masking", "heads", "loss", "change"),
        tuple(rows),
    )


def _choice_table(kinds: Sequence[Kind], found: Continued) -> Table:
    rows = [("none", NONE, str(mean(found.right)), str(mean(found.loss, digits=3)), NONE)]
    for kind, (loss, right) in zip(kinds, found.kinds, strict=True):
        rise = loss - found.loss
        cells = [str(mean(right[0])), *(str(mean(each[0], digits=3)) for each in (loss, rise))]
        rows.append((kind.name, f"top {TOP}", *cells))
        cells = [str(spread(right[1:])), *(str(spread(each[1:], 3)) for each in (loss, rise))]
        rows.append((kind.name, f"{TOP} others of the same layers", *cells))
    return Table(
        f"Continuations, {len(found.loss)} choices: how often the true one of four has the lowest loss, and its loss "
        "in nats per token: mean [95 % interval over choices]; controls as above",
        ("masking", "heads", "true one chosen", "its loss", "change"),
        tuple(rows),
    )


def _continued_words(kind: Kind, found: Continued, number: int) -> str:
    loss, right = found.kinds[number]
    gap = loss[0] - loss[1:].mean(0)
    return (
        f"{kind.name}, continuations: the true one is chosen in {right[0].mean():.2f} of the cases with the top {TOP}, "
        f"{right[1:].mean():.2f} with controls, {found.right.mean():.2f} without an edit; its loss changes by "
        f"{mean(loss[0] - found.loss, digits=3)} nats, minus controls {mean(gap, digits=3)}."
    )


def _finding(
    prompts: Sequence[Prompt],
    kinds: Sequence[Kind],
    base: Recalled,
    masked: Sequence[Recalled],
    found: Losses,
    continued: Continued,
    how: tuple[str, ...],
) -> Finding:
    needles = [needle_of(prompt) for prompt in prompts]
    rows = [Row("recall of the answer, nothing masked", mean(base.recall[0], needles))]
    lines, brief, holds, dear = list[str](), list[str](), True, list[str]()
    for number, (kind, one, loss) in enumerate(zip(kinds, masked, found.edited, strict=True)):
        rise = loss - found.base
        rows += _rows(kind, one, rise, needles)
        rows.append(_choice_row(kind, continued, number))
        lost, words = _recall_words(kind, one, base, needles)
        holds &= lost
        lines += [
            words,
            f"{kind.name}, ordinary text: {_loss_words(loss, found.base)}",
            _continued_words(kind, continued, number),
        ]
        if interval(loss[0] - loss[1:].mean(0))[0] > 0:
            dear.append(kind.name)
        means, rises = one.recall.mean(1), rise.mean(1)
        brief.append(
            f"{kind.name}: recall {means[0]:.2f} (controls {means[1:].mean():.2f}), loss on ordinary text "
            f"{rises[0]:+.3f} nats (controls {rises[1:].mean():+.3f})"
        )
    return Finding(
        holds=bool(holds),
        brief=f"unedited: recall {base.recall.mean():.2f}; " + "; ".join(brief),
        rows=tuple(rows),
        found=tuple(lines),
        but=f" for recall; loss on ordinary text rises more than with controls ({', '.join(dear)})"
        if dear
        else "",
        tables=(
            _recall_table(prompts, kinds, base, masked),
            _loss_table(kinds, found),
            _choice_table(kinds, continued),
        ),
        how=how,
    )


def _rows(kind: Kind, one: Recalled, rise: np.ndarray, needles: Sequence[str]) -> list[Row]:
    return [
        Row(
            f"recall of the answer, top {TOP} masked ({kind.name})",
            mean(one.recall[0], needles),
            paper=MASKED if kind.name == PAPER else NONE,
            control=spread(one.recall[1:]),
        ),
        Row(
            f"change of the loss on ordinary text, nats per token ({kind.name})",
            mean(rise[0], digits=3),
            control=spread(rise[1:], 3),
        ),
    ]


def _choice_row(kind: Kind, found: Continued, number: int) -> Row:
    loss, _ = found.kinds[number]
    rise = loss - found.loss
    return Row(
        f"change of the loss of a true continuation, nats per token ({kind.name})",
        mean(rise[0], digits=3),
        control=spread(rise[1:], 3),
    )


def _recall_words(kind: Kind, one: Recalled, base: Recalled, needles: Sequence[str]) -> tuple[bool, str]:
    gap, means = one.recall[0] - one.recall[1:].mean(0), one.recall.mean(1)
    lost = bool(interval(gap, needles)[1] < 0 and means[0] < means[1:].min())
    return lost, (
        f"{kind.name}: recall {means[0]:.2f} with the top {TOP}, {means[1:].mean():.2f} with controls "
        f"({means[1:].min():.2f} at the lowest), {base.recall.mean():.2f} without an edit; top minus controls, "
        f"prompt by prompt: {mean(gap, needles)}. The claim {'holds' if lost else 'does not hold'} here."
    )


def _loss_words(runs: np.ndarray, base: np.ndarray) -> str:
    rise, other = runs[0] - base, (runs[1:] - base).mean(0)
    gap = rise - other
    low, high = interval(gap)
    alike = "the interval holds 0: alike" if low <= 0 <= high else "the interval leaves out 0: not alike"
    return (
        f"the loss changes by {rise.mean():.3f} nats with the top {TOP} and by {other.mean():.3f} with controls; the "
        f"difference, passage by passage: {mean(gap, digits=3)} ({alike})."
    )


def _how(top: Sequence[str], controls: Controls, scores: dict[str, float], found: Losses) -> tuple[str, ...]:
    ranked = sorted(scores, key=lambda name: -scores[name])[: len(top)]
    left = [head for head in ranked if head not in top]
    capped = f" ({', '.join(left)} left out: half of a layer's heads at most)" if left else ""
    return (
        f"Heads: the top {TOP} of `probe analyze --metric retrieval` with its defaults (needles 1–{DETECTED_WITH}, "
        f"the first half of the haystack){capped}: "
        + ", ".join(f"{head} {scores[head]:.2f}" for head in top)
        + ".",
        f"A control edits as many other heads of each layer, none of the top {TOP}, the same heads under both "
        "maskings. Nothing keeps heads with a lower retrieval score out of it:",
        *controls.told(scores),
        f"Ordinary text: {found.source}.",
    )


CLAIM = Claim(
    claimed="masking the heads with the highest retrieval score makes a model miss needles in a haystack (50 of them, "
    "about 5 % of all heads, take every model's needle score below 50 of 100); masking as many random heads does not. "
    "What the model knows of language should stay: its loss on ordinary text.",
    data=f"heads are found on the train part (needles 1 to {DETECTED_WITH}, the first half of the haystack); recall is "
    f"measured on the held-out part (needles {DETECTED_WITH + 1} to {DETECTED_WITH + NEEDLES}, another stretch of the "
    "haystack), loss on text that no needle test reads.",
    measure=measure,
    how=(
        "Every needle stands at depths 0.1, 0.5 and 0.9, at another length each. Intervals of recall are over needles, "
        "those of the loss over passages.",
        "`zero`: the heads' output is zero in every row. The paper's masking: their pattern is uniform over all "
        "cached keys, in decode steps alone, of which the last prompt token is the first. Where a layer has a "
        "sliding window, every key is kept in the cache here, so that uniform is over all of them.",
        "The response is greedy; the answer loss gives the model the true tokens before each.",
        "Ordinary text: each passage is one token of prefill, the rest decode, so that both maskings act on every "
        "predicted token but one.",
        f"Continuations (as HellaSwag has them, but made of shipped text, since its own is not shipped): {2 * EACH} "
        f"contexts of {CONTEXT} tokens, half of the story and half of the haystack's last fifth, the {WIDTH} tokens "
        f"that follow, and those that follow {OTHERS} other contexts of the same text. Chosen is the lowest loss.",
        "The claim holds where recall with the top heads is below that with the controls (the interval of the "
        "difference below 0, and no control as low) under both maskings. Whether the loss on ordinary text is alike is "
        "told beside the verdict.",
    ),
    settings={
        "top": TOP,
        "seeds": SEEDS,
        "needles": NEEDLES,
        "lengths": LENGTHS,
        "choices": [CONTEXT, WIDTH, EACH],
    },
)
