"""Sentences that receiver heads look back at change later predictions more when they are suppressed (or not)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from probe.experiments.receivers import highest_heads, mean_defined, receiver_kurtosis
from probe.experiments.suppression import Kl, centred, suppression
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import Finding, Row
from probe.replay.ordinary import EACH
from probe.replay.ranks import SHUFFLES, Pairs, above, drawn_range, shuffled, spearman
from probe.replay.sentence_heads import NEEDED, PROXIMITY, sentences_of, verticals_of, written
from probe.replay.work import Work

WIDTH, TOP, SEEDS = 224, 20, 5
KINDS: tuple[Kl, ...] = ("sparse", "grouped")


def measure(work: Work) -> Finding:
    """Rank correlation, over the sentences of a text, of receiver score and suppression effect."""
    texts = [one for one in work.few(written(work.model, WIDTH)) if len(sentences_of(one)) >= NEEDED]
    kurtoses = [work.keep(f"{one.id}: kurtosis", _kurtosis, work.model, one) for one in texts]
    chosen = highest_heads(mean_defined(np.asarray(kurtoses, np.float64)), TOP) == 1
    heads = [chosen, *_others(chosen, work.seed)]
    scores = [
        np.asarray(work.keep(f"{one.id}: scores", _scores, work.model, one, heads), np.float64)
        for one in texts
    ]
    sparse, grouped = (
        [
            np.asarray(work.keep(f"{one.id}: {kind}", _matrix, work.model, one, kind), np.float64)
            for one in texts
        ]
        for kind in KINDS
    )
    pairs = _pairs(scores, sparse)
    value, drawn = spearman(pairs), shuffled(pairs, work.seed)
    p, count = above(value, drawn), sum(len(one) for one, _ in pairs)
    others = drawn_range([spearman(_pairs(scores, sparse, heads=1 + draw)).value for draw in range(SEEDS)])
    held = bool(p < 0.05 and (value.low or 0) > 0)
    return Finding(
        holds=held,
        brief=f"Spearman {value} over {count} sentences of {len(texts)} texts (p = {p:.3f}); scores by random "
        f"heads {others}",
        rows=(
            _row("rank correlation of receiver score and suppression effect", pairs, work.seed),
            Row(
                "the same; control: scores by as many random heads of the same layers", value, control=others
            ),
            _row("the same, place in the text held fixed", pairs, work.seed, fixed=True),
            _row("the same, KL over whole distributions", _pairs(scores, grouped), work.seed),
            _row(
                f"the same, effect on sentences {PROXIMITY} or more later",
                _pairs(scores, sparse, PROXIMITY),
                work.seed,
            ),
        ),
        found=(
            f"{count} sentences of {len(texts)} texts of {WIDTH} tokens have a receiver score.",
            f"The claim {'holds' if held else 'does not hold'} here: {value}, p = {p:.3f} under shuffles.",
        ),
    )


def _kurtosis(loaded: LoadedModel, prompt: Prompt) -> np.ndarray:
    (vert,) = verticals_of(loaded, prompt, [sentences_of(prompt)])
    return receiver_kurtosis(vert).round(4)


def _scores(loaded: LoadedModel, prompt: Prompt, heads: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Receiver score of every sentence, by each choice of heads."""
    (vert,) = verticals_of(loaded, prompt, [sentences_of(prompt)])
    return [vert[some].mean(0) for some in heads]


def _matrix(loaded: LoadedModel, prompt: Prompt, kind: Kl) -> Any:
    return suppression(loaded, prompt, sentences_of(prompt), kind).round(3)


def _pairs(
    scores: Sequence[np.ndarray], effects: Sequence[np.ndarray], far: int = 1, heads: int = 0
) -> Pairs:
    """By text, score and effect of the sentences that have both; the effect is on sentences `far` or more later."""
    pairs = []
    for score, effect in zip(scores, effects, strict=True):
        at, known = np.arange(len(effect)), ~np.isnan(score[heads])
        later = np.where(at[:, None] - at >= far, centred(effect), np.nan)
        pairs.append((score[heads][known], mean_defined(later)[known]))
    return pairs


def _row(what: str, pairs: Pairs, seed: int, *, fixed: bool = False) -> Row:
    control = drawn_range(shuffled(pairs, seed, fixed=fixed))
    return Row(f"{what}; control: scores shuffled", spearman(pairs, fixed=fixed), control=control)


def _others(chosen: np.ndarray, seed: int) -> list[np.ndarray]:
    """As many other heads of each layer as are chosen, by seed; where fewer are left, all of these."""
    made = []
    for draw in range(SEEDS):
        random, heads = np.random.default_rng([seed, draw]), np.zeros_like(chosen)
        for layer, own in enumerate(chosen):
            heads[layer, random.permutation(np.flatnonzero(~own))[: own.sum()]] = True
        made.append(heads)
    return made


CLAIM = Claim(
    claimed="sentences that receiver heads keep looking back at are anchors: hiding one from all that follows "
    "changes later sentences more than hiding others does. (The paper shows that three measures of importance "
    "agree; it gives no number for this pair that could be read.)",
    data=f"{EACH} passages of the shipped story and {EACH} of the last fifth of the haystack, their first "
    f"{WIDTH} tokens; all held out, since nothing is chosen or tuned.",
    measure=measure,
    how=(
        f"Receiver score: mean vertical score under the {TOP} heads with the highest mean kurtosis, first "
        "token left out. Suppression: the sentence's keys hidden from every later query, head and layer; mean "
        "ln(KL + 1e-9) over the tokens of a later sentence, less its mean over sources; effect: mean over the "
        "later sentences.",
        "Spearman within each text, pooled over texts; intervals draw texts anew. Place held fixed: ranks less "
        "what a line over the place in the text says, since early sentences are seen by more rows.",
        "KL as in the authors' code (sparse logits at temperature 0.6, a missing logit is −1e9); a row has "
        "whole distributions.",
        f"Shuffled: scores in another order within a text, {SHUFFLES} draws. Random heads: as many others of "
        f"each layer, {SEEDS} seeds.",
        "The claim holds where the correlation is above the shuffles (p < 0.05) and its interval above 0.",
    ),
    settings={"width": WIDTH, "top": TOP, "seeds": SEEDS, "shuffles": SHUFFLES, "each": EACH},
)
