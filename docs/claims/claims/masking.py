"""Retrieval heads are causal: masking them loses the needle, masking as many others does not."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from finished import Finished
from heads import Controls, highest, layer_of, retrieval_scores, subject
from intervals import interval, shown, spread
from needles import DETECTED_WITH, LENGTHS, by_length, held_out, needle_of
from ordinary import Losses, losses
from reading import Reading

from probe.interventions import uniform_cached, zero
from probe.prompts import Prompt

TOP, SEEDS, NEEDLES = 10, 5, 6
PAPER = "uniform over the cache, decode only"
SETTINGS = (TOP, SEEDS)  # what else measured numbers depend on


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


def measure(finished: Finished, small: bool = False) -> dict[str, Any]:
    """Recall of held-out needles and loss on ordinary text, with the top heads and with controls masked."""
    scores, loaded = retrieval_scores(), subject()
    top = highest(scores, TOP)
    controls = Controls.of(zero(top), top, SEEDS)
    kinds = [
        Kind("zero", zero(top), tuple(zero(heads) for heads in controls.heads), 0),
        Kind(PAPER, uniform_cached(top), tuple(uniform_cached(heads) for heads in controls.heads), None),
    ]
    prompts = held_out(loaded, 2 if small else NEEDLES)[:: 2 if small else 1]
    base, masked = _recalled(prompts, kinds, min(map(layer_of, top)), finished)
    found = losses([(kind.edit, *kind.others) for kind in kinds], min(map(layer_of, top)), finished, small)
    return {
        "title": "Masking retrieval heads loses the needle",
        "claimed": "Wu et al. 2024 (arXiv:2404.15574): masking the heads with the highest retrieval score makes a "
        "model miss needles in a haystack; masking random heads does not. What the model knows of language should "
        "stay: its loss on ordinary text.",
        "heads": top,
        "tables": [_recall_table(prompts, kinds, base, masked), _loss_table(kinds, found)],
        **_verdicts(prompts, kinds, base, masked, found),
        "how": _how(top, controls, scores, found),
    }


def _recalled(
    prompts: Sequence[Prompt], kinds: Sequence[Kind], block: int, finished: Finished
) -> tuple[Recalled, list[Recalled]]:
    rows = [finished.of(str(prompt.id), partial(_by_run, prompt, kinds, block)) for prompt in prompts]
    runs = np.asarray(rows).T  # what, run, prompt
    width = 1 + SEEDS
    return (
        Recalled(runs[0, :1], runs[1, :1]),
        [
            Recalled(runs[0, start : start + width], runs[1, start : start + width])
            for start in range(1, runs.shape[1], width)
        ],
    )


def _by_run(prompt: Prompt, kinds: Sequence[Kind], block: int) -> list[list[float]]:
    """Recall and answer loss without an edit, then for each kind with its edit and its controls."""
    reading, wanted = Reading(subject(), prompt.tokens, block), str(prompt.answer)
    said = [reading.answer(wanted)]
    for kind in kinds:
        said += [reading.answer(wanted, [one], kind.rows) for one in (kind.edit, *kind.others)]
    return [[one.recall, one.loss] for one in said]


def _recall_table(
    prompts: list[Prompt], kinds: Sequence[Kind], base: Recalled, masked: Sequence[Recalled]
) -> dict[str, Any]:
    needles = [needle_of(prompt) for prompt in prompts]

    def line(masking: str, heads: str, found: Recalled) -> list[str]:
        one = len(found.recall) == 1
        told = partial(shown, groups=needles) if one else spread
        recall, loss = (each[0] if one else each for each in (found.recall, found.loss))
        return [masking, heads, told(recall), *by_length(prompts, found.recall.mean(0)), told(loss)]

    rows = [line("none", "–", base)]
    for kind, found in zip(kinds, masked, strict=True):
        rows.append(line(kind.name, f"top {TOP}", found.part(slice(1))))
        rows.append(line(kind.name, f"{TOP} others of the same layers", found.part(slice(1, None))))
    return {
        "title": f"Recall of the answer (ROUGE-1) and its loss (nats per token), {len(prompts)} prompts of "
        f"{len(set(needles))} needles: mean [95 % interval over needles]; controls: mean over {SEEDS} seeds "
        "(lowest – highest)",
        "columns": ["masking", "heads", "recall", *(f"{length} tokens" for length in LENGTHS), "answer loss"],
        "rows": rows,
    }


def _loss_table(kinds: Sequence[Kind], found: Losses) -> dict[str, Any]:
    rows = [["none", "–", shown(found.base, digits=3), "–"]]
    for kind, runs in zip(kinds, found.edited, strict=True):
        rise = runs - found.base
        rows.append([kind.name, f"top {TOP}", shown(runs[0], digits=3), shown(rise[0], digits=3)])
        rows.append([kind.name, f"{TOP} others of the same layers", spread(runs[1:], 3), spread(rise[1:], 3)])
    return {
        "title": f"Loss on ordinary text, nats per token, {len(found.base)} passages of {found.width} tokens: mean "
        "[95 % interval over passages]; controls as above",
        "columns": ["masking", "heads", "loss", "change"],
        "rows": rows,
    }


def _verdicts(
    prompts: Sequence[Prompt],
    kinds: Sequence[Kind],
    base: Recalled,
    masked: Sequence[Recalled],
    found: Losses,
) -> dict[str, Any]:
    needles, lines, brief, holds, dear = [needle_of(prompt) for prompt in prompts], [], [], True, []
    for kind, one, loss in zip(kinds, masked, found.edited, strict=True):
        gap = one.recall[0] - one.recall[1:].mean(0)
        means = one.recall.mean(1)
        lost = interval(gap, needles)[1] < 0 and means[0] < means[1:].min()
        holds &= lost
        lines.append(
            f"- {kind.name}: recall {means[0]:.2f} with the top {TOP}, {means[1:].mean():.2f} with controls "
            f"({means[1:].min():.2f} at the lowest), {base.recall.mean():.2f} without an edit; top minus controls, "
            f"prompt by prompt: {shown(gap, needles)}. The claim {'holds' if lost else 'does not hold'} here."
        )
        lines.append(f"- {kind.name}, ordinary text: {_loss_words(loss, found.base)}")
        rise = (loss - found.base).mean(1)
        if interval(loss[0] - loss[1:].mean(0))[0] > 0:
            dear.append(kind.name)
        brief.append(
            f"{kind.name}: recall {means[0]:.2f} (controls {means[1:].mean():.2f}), loss on ordinary text "
            f"{rise[0]:+.3f} nats (controls {rise[1:].mean():+.3f})"
        )
    return {
        "found": lines,
        "holds": bool(holds),
        "but": f" for recall; loss on ordinary text rises more than with controls ({', '.join(dear)})"
        if dear
        else "",
        "brief": f"unedited: recall {base.recall.mean():.2f}; " + "; ".join(brief),
    }


def _loss_words(runs: np.ndarray, base: np.ndarray) -> str:
    rise, other = runs[0] - base, (runs[1:] - base).mean(0)
    gap = rise - other
    low, high = interval(gap)
    alike = "the interval holds 0: alike" if low <= 0 <= high else "the interval leaves out 0: not alike"
    return (
        f"the loss changes by {rise.mean():.3f} nats with the top {TOP} and by {other.mean():.3f} with controls; the "
        f"difference, passage by passage: {shown(gap, digits=3)} ({alike})."
    )


def _how(top: Sequence[str], controls: Controls, scores: dict[str, float], found: Losses) -> list[str]:
    ranked = sorted(scores, key=lambda name: -scores[name])[: len(top)]
    left = [head for head in ranked if head not in top]
    capped = f" ({', '.join(left)} left out: four heads of a layer at most)" if left else ""
    return [
        f"- Heads: the top {TOP} of `probe analyze --metric retrieval` with its defaults (needles 1–{DETECTED_WITH}, "
        f"the first half of the haystack){capped}: "
        + ", ".join(f"{head} {scores[head]:.2f}" for head in top)
        + ".",
        f"- Needles {DETECTED_WITH + 1}–{DETECTED_WITH + NEEDLES} and their part of the haystack were not used to find "
        "the heads; every needle stands at depths 0.1, 0.5 and 0.9, at another length each.",
        "- `zero`: the heads' output is zero in every row. The paper's masking: their pattern is uniform over all "
        "cached keys, in decode steps alone, of which the last prompt token is the first.",
        "- The response is greedy; the answer loss gives the model the true tokens before each.",
        f"- A control edits as many other heads of each layer, none of the top {TOP}, the same heads under both "
        "maskings. Nothing keeps heads with a lower retrieval score out of it:",
        *controls.told(scores),
        f"- Ordinary text: {found.source}. Each passage is one token of prefill, the rest decode, so that both "
        "maskings act on every predicted token but one.",
    ]
