"""Retrieval heads are causal: masking them loses the needle, masking as many others does not."""

from collections.abc import Sequence

import numpy as np

from probe.interventions import uniform_cached, zero
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.choices import CONTEXT, EACH, OTHERS, WIDTH, chosen
from probe.replay.claim import Claim
from probe.replay.finding import Finding
from probe.replay.heads import Controls, highest, layer_of
from probe.replay.masked import PAPER, SEEDS, TOP, Continued, Kind, Masked, Recalled, finding
from probe.replay.masked_tables import tables
from probe.replay.needles import DETECTED_WITH, LENGTHS, SMALL, held_out
from probe.replay.ordinary import SOURCE, losses
from probe.replay.reading import Reading
from probe.replay.work import Work

NEEDLES = 6


def measure(work: Work) -> Finding:
    """Recall of held-out needles and loss on ordinary text, with the top heads and with controls masked."""
    scores = work.retrieval()
    top = highest(scores, TOP)
    controls = Controls.of(zero(top), top, SEEDS, work.model, work.seed)
    kinds = (
        Kind("zero", zero(top), tuple(zero(heads) for heads in controls.heads), 0),
        Kind(PAPER, uniform_cached(top), tuple(uniform_cached(heads) for heads in controls.heads), None),
    )
    block = min(map(layer_of, top))
    count, lengths = (2, SMALL) if work.small else (NEEDLES, LENGTHS)
    prompts = held_out(work.model, count, work.seed, lengths)
    rows = [work.keep(str(prompt.id), _by_run, work.model, prompt, kinds, block) for prompt in prompts]
    base, recalled = _by_kind(np.asarray(rows).T)
    runs = [(kind.edit, *kind.others) for kind in kinds]
    ordinary = losses(work, runs, block)
    edited = [(one, kind.rows) for one, kind in zip(runs, kinds, strict=True)]
    continued = Continued.of(*chosen(work, edited, block), len(kinds))
    found = Masked(tuple(prompts), kinds, base, recalled, ordinary, continued)
    return finding(found, tables(found), _how(top, controls, scores), tuple(top))


def _by_run(loaded: LoadedModel, prompt: Prompt, kinds: Sequence[Kind], block: int) -> list[list[float]]:
    """Recall and answer loss without an edit, then for each kind with its edit and its controls."""
    reading, wanted = Reading(loaded, prompt.tokens, block), str(prompt.answer)
    said = [reading.answer(wanted)]
    for kind in kinds:
        said += [reading.answer(wanted, [one], kind.rows) for one in (kind.edit, *kind.others)]
    return [[one.recall, one.loss] for one in said]


def _by_kind(runs: np.ndarray) -> tuple[Recalled, tuple[Recalled, ...]]:
    """What was measured ``[what, run, prompt]``, without an edit and by kind."""
    width = 1 + SEEDS
    cuts = [slice(0, 1), *(slice(start, start + width) for start in range(1, runs.shape[1], width))]
    base, *kinds = (Recalled(runs[0, cut], runs[1, cut]) for cut in cuts)
    return base, tuple(kinds)


def _how(top: Sequence[str], controls: Controls, scores: dict[str, float]) -> tuple[str, ...]:
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
        f"Ordinary text: {SOURCE}. Each passage is one token of prefill, the rest decode, so that both maskings act on "
        "every predicted token but one.",
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
