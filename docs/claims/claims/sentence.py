"""The answer comes from its sentence: knocking out that sentence removes it, knocking out another does not."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from finished import Finished
from heads import subject
from intervals import interval, shown, spread
from needles import by_length, held_out, needle_of
from reading import Reading

from probe.interventions import knockout
from probe.prompts import Prompt

NEEDLES, SEEDS = 6, 3
SETTINGS = (SEEDS,)  # what else measured numbers depend on
END = 10**6  # behind every token
LOST, KEPT = (
    0.5,
    0.9,
)  # shares of the unedited recall: below the first it is lost, above the second it is kept


@dataclass(frozen=True)
class Recalls:
    """ROUGE-1 recall by prompt; `others` by seed and prompt."""

    base: np.ndarray
    hidden: np.ndarray
    others: np.ndarray
    unwritten: np.ndarray


def measure(finished: Finished, small: bool = False) -> dict[str, Any]:
    """Recall with the needle hidden from all later tokens, with other stretches hidden, and without a needle."""
    prompts = held_out(subject(), 2 if small else NEEDLES)[:: 2 if small else 1]
    found = _recalls(prompts, finished)
    needles = [needle_of(prompt) for prompt in prompts]
    return {
        "title": "Knocking out the answer's sentence removes the answer",
        "claimed": "Attention knockout (Geva et al. 2023, arXiv:2304.14767) as a test of where an answer comes from: a "
        "response that comes from one sentence of the context is lost when no later token can see that sentence, and "
        "stays when another stretch is hidden.",
        "tables": [_table(prompts, needles, found)],
        **_verdict(needles, found),
        "how": [
            "- Hidden: `knockout(queries=every later token, keys=the stretch)` in every head and layer, renormalised, "
            "in prefill and decode.",
            f"- Another stretch: as many tokens as the needle's sentence, drawn with {SEEDS} seeds, not overlapping "
            "it, not the first token (the attention sink), and before the line that asks.",
            "- Never written: the needle's tokens are taken out of the prompt. What is recalled then is guessed, small "
            "words most of all; no knockout can be expected to go below it.",
            "- Needles that no detection used, at 512, 1024 and 2048 tokens; recall is that of the greedy response.",
            f"- Removed means: recall at most {LOST:g} of the unedited, and below that of other stretches (interval "
            f"over needles). Kept means: at least {KEPT:g} of the unedited with every seed.",
        ],
    }


def _recalls(prompts: Sequence[Prompt], finished: Finished) -> Recalls:
    rows = [finished.of(str(prompt.id), partial(_by_run, prompt)) for prompt in prompts]
    found = np.asarray(rows).T
    return Recalls(found[0], found[1], found[2:-1], found[-1])


def _by_run(prompt: Prompt) -> list[float]:
    """Recall with everything visible, the needle hidden, other stretches hidden, and without a needle."""
    reading, wanted = Reading(subject(), prompt.tokens), str(prompt.answer)
    start, stop = needle_at(prompt)
    stretches = [(start, stop), *(elsewhere(prompt, seed) for seed in range(SEEDS))]
    # Rows before the end of the stretch see it as before, so they need not run again.
    hidden = [
        reading.answer(wanted, [knockout((end, END), (begin, end))], rows=end) for begin, end in stretches
    ]
    without = Reading(subject(), prompt.tokens[:start] + prompt.tokens[stop:])
    return [one.recall for one in (reading.answer(wanted), *hidden, without.answer(wanted))]


def _table(prompts: list[Prompt], needles: Sequence[str], found: Recalls) -> dict[str, Any]:
    def line(name: str, values: np.ndarray) -> list[str]:
        return [name, shown(values, needles), *by_length(prompts, values)]

    return {
        "title": f"Recall of the answer (ROUGE-1), {len(prompts)} prompts of {len(set(needles))} needles: mean [95 % "
        f"interval over needles]; elsewhere: mean over {SEEDS} seeds (lowest – highest)",
        "columns": [
            "hidden from all later tokens",
            "recall",
            "512 tokens",
            "1024 tokens",
            "2048 tokens",
        ],
        "rows": [
            line("nothing", found.base),
            line("the needle's sentence", found.hidden),
            [
                "as many tokens elsewhere",
                spread(found.others),
                *by_length(prompts, found.others.mean(0)),
            ],
            line("nothing, but the needle was never written", found.unwritten),
        ],
    }


def _verdict(needles: Sequence[str], found: Recalls) -> dict[str, Any]:
    base, hidden, least = found.base.mean(), found.hidden.mean(), found.others.mean(1).min()
    gap = found.hidden - found.others.mean(0)
    removed = bool(hidden <= LOST * base and interval(gap, needles)[1] < 0)
    kept = bool(least >= KEPT * base)
    said = "holds" if removed and kept else "does not hold"
    return {
        "holds": removed and kept,
        "brief": f"recall {base:.2f} unedited, {hidden:.2f} without the sentence, at least {least:.2f} without another",
        "found": [
            f"- The claim {said} here. Without the sentence recall is {hidden:.2f}, with everything visible "
            f"{base:.2f}; sentence hidden minus another hidden, prompt by prompt: {shown(gap, needles)}. The answer is "
            f"{'removed' if removed else 'not removed'}.",
            f"- With another stretch hidden recall is {least:.2f} at the lowest of the seeds: the answer is "
            f"{'kept' if kept else 'not kept'}.",
            f"- Where the needle was never written, recall is {found.unwritten.mean():.2f}; hidden minus never "
            f"written: {shown(found.hidden - found.unwritten, needles)}.",
        ],
    }


def needle_at(prompt: Prompt) -> tuple[int, int]:
    """Where the needle's tokens begin and end."""
    at = np.flatnonzero(prompt.spans["needle"])
    return int(at[0]), int(at[-1]) + 1


def elsewhere(prompt: Prompt, seed: int) -> tuple[int, int]:
    """As many tokens as the needle has, elsewhere in the haystack."""
    start, stop = needle_at(prompt)
    width, draw = stop - start, np.random.default_rng([seed, len(prompt.tokens), start])
    end = _asks_at(prompt)
    while True:
        at = int(draw.integers(1, end - width))
        if at + width <= start or at >= stop:
            return at, at + width


def _asks_at(prompt: Prompt) -> int:
    """The token that begins the line which asks for the needle."""
    return max(at for at, token in enumerate(prompt.str_tokens) if "\n" in token)
