"""The answer comes from its sentence: knocking out that sentence removes it, knocking out another does not."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from probe.interventions import knockout
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import Finding, Row, Table
from probe.replay.intervals import interval, mean, spread
from probe.replay.needles import LENGTHS, SMALL, by_length, held_out, lengths_of, needle_of
from probe.replay.reading import Reading
from probe.replay.work import Work

NEEDLES, SEEDS = 6, 3
END = 10**6  # behind every token
LOST, KEPT = 0.5, 0.9  # shares of the unedited recall: below the first it is lost, above the second kept


@dataclass(frozen=True)
class Recalls:
    """ROUGE-1 recall by prompt; `others` by seed and prompt."""

    base: np.ndarray
    hidden: np.ndarray
    others: np.ndarray
    unwritten: np.ndarray


def measure(work: Work) -> Finding:
    """Recall with the needle hidden from all later tokens, with other stretches hidden, and without a needle."""
    count, lengths = (1, SMALL) if work.small else (NEEDLES, LENGTHS)
    prompts = held_out(work.model, count, work.seed, lengths)
    rows = [work.keep(str(prompt.id), _by_run, work.model, prompt, work.seed) for prompt in prompts]
    values = np.asarray(rows, np.float64).T
    found = Recalls(values[0], values[1], values[2:-1], values[-1])
    return _finding(prompts, [needle_of(prompt) for prompt in prompts], found)


def _by_run(loaded: LoadedModel, prompt: Prompt, seed: int) -> list[float]:
    """Recall with everything visible, the needle hidden, other stretches hidden, and without a needle."""
    reading, wanted = Reading(loaded, prompt.tokens), str(prompt.answer)
    start, stop = needle_at(prompt)
    stretches = [(start, stop), *(elsewhere(prompt, seed + draw) for draw in range(SEEDS))]
    # Rows before the end of the stretch see it as before, so they need not run again.
    hidden = [
        reading.answer(wanted, [knockout((end, END), (begin, end))], rows=end) for begin, end in stretches
    ]
    without = Reading(loaded, prompt.tokens[:start] + prompt.tokens[stop:])
    return [one.recall for one in (reading.answer(wanted), *hidden, without.answer(wanted))]


def _finding(prompts: Sequence[Prompt], needles: Sequence[str], found: Recalls) -> Finding:
    base, hidden, least = found.base.mean(), found.hidden.mean(), found.others.mean(1).min()
    gap = found.hidden - found.others.mean(0)
    removed = bool(hidden <= LOST * base and interval(gap, needles)[1] < 0)
    kept = bool(least >= KEPT * base)
    held = removed and kept
    return Finding(
        holds=held,
        brief=f"recall {base:.2f} unedited, {hidden:.2f} without the sentence, at least {least:.2f} without another",
        rows=(
            Row("recall of the answer, nothing hidden", mean(found.base, needles)),
            Row(
                "recall, the answer's sentence hidden",
                mean(found.hidden, needles),
                control=spread(found.others),
            ),
            Row("recall, the sentence never written", mean(found.unwritten, needles)),
        ),
        tables=(_table(prompts, needles, found),),
        found=(
            f"The claim {'holds' if held else 'does not hold'} here. Without the sentence recall is {hidden:.2f}, with "
            f"everything visible {base:.2f}; sentence hidden minus another hidden, prompt by prompt: "
            f"{mean(gap, needles)}. The answer is {'removed' if removed else 'not removed'}.",
            f"With another stretch hidden recall is {least:.2f} at the lowest of the seeds: the answer is "
            f"{'kept' if kept else 'not kept'}.",
            f"Where the needle was never written, recall is {found.unwritten.mean():.2f}; hidden minus never written: "
            f"{mean(found.hidden - found.unwritten, needles)}.",
        ),
    )


def _table(prompts: Sequence[Prompt], needles: Sequence[str], found: Recalls) -> Table:
    def line(name: str, values: np.ndarray) -> tuple[str, ...]:
        return (name, str(mean(values, needles)), *by_length(prompts, values))

    return Table(
        f"Recall of the answer (ROUGE-1), {len(prompts)} prompts of {len(set(needles))} needles: mean [95 % interval "
        f"over needles]; elsewhere: mean over {SEEDS} seeds (lowest – highest)",
        ("hidden from all later tokens", "recall", *(f"{length} tokens" for length in lengths_of(prompts))),
        (
            line("nothing", found.base),
            line("the needle's sentence", found.hidden),
            (
                "as many tokens elsewhere",
                str(spread(found.others)),
                *by_length(prompts, found.others.mean(0)),
            ),
            line("nothing, but the needle was never written", found.unwritten),
        ),
    )


def needle_at(prompt: Prompt) -> tuple[int, int]:
    """Where the needle's tokens begin and end."""
    at = np.flatnonzero(prompt.spans["needle"])
    return int(at[0]), int(at[-1]) + 1


def elsewhere(prompt: Prompt, seed: int) -> tuple[int, int]:
    """As many tokens as the needle has, elsewhere in the haystack."""
    start, stop = needle_at(prompt)
    width, draw = stop - start, np.random.default_rng([seed, len(prompt.tokens), start])
    end = max(at for at, token in enumerate(prompt.str_tokens) if "\n" in token)  # the line that asks
    while True:
        at = int(draw.integers(1, end - width))
        if at + width <= start or at >= stop:
            return at, at + width


CLAIM = Claim(
    claimed="attention knockout as a test of where an answer comes from: a response that comes from one sentence of "
    "the context is lost when no later token can see that sentence, and stays when another stretch is hidden. (The "
    "paper knocks out edges to the subject of a factual sentence and gives curves by layer, not one number.)",
    data="needles 5 to 10 of `datasets/needles.jsonl` at 512, 1024 and 2048 tokens, all of the held-out part; nothing "
    "is chosen or tuned.",
    measure=measure,
    how=(
        "Hidden: `knockout(queries=every later token, keys=the stretch)` in every head and layer, renormalised, in "
        "prefill and decode.",
        f"The control is another stretch: as many tokens as the needle's sentence, drawn with {SEEDS} seeds, not "
        "overlapping it, not the first token (the attention sink), and before the line that asks.",
        "Never written: the needle's tokens are taken out of the prompt. What is recalled then is guessed, small words "
        "most of all; no knockout can be expected to go below it.",
        "Recall is that of the greedy response. Intervals are over needles, since prompts that share one are no "
        "independent draws.",
        f"Removed means: recall at most {LOST:g} of the unedited, and below that of other stretches (interval over "
        f"needles). Kept means: at least {KEPT:g} of the unedited with every seed. The claim holds where both are so.",
    ),
    settings={"needles": NEEDLES, "seeds": SEEDS, "lengths": LENGTHS},
)
