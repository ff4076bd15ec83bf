"""Heads that give all their far attention to a few sentences are the same heads in other texts (or not)."""

from collections.abc import Sequence

import numpy as np

from probe.experiments.receivers import mean_defined, receiver_kurtosis, reliability
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import NONE, Estimate, Finding, Row
from probe.replay.ordinary import EACH, WIDTH
from probe.replay.reasoned import TEMPERATURE, TOKENS, reasoned, told
from probe.replay.sentence_heads import NEEDED, sentences_of, verticals_of, written
from probe.replay.work import Work

SHUFFLES, TOP = 200, 20


def measure(work: Work) -> Finding:
    """Split-half reliability of the kurtosis of every head, on written text and on a model's own responses."""
    texts = work.few(written(work.model), 4)
    both = np.asarray([work.keep(one.id, _kurtosis, work.model, one) for one in texts], np.float64)
    apart, kept = both[:, 0], both[:, 1]
    responses = [one for one in reasoned(work) if len(sentences_of(one)) >= NEEDED]
    own = np.asarray([work.keep(one.id, _kurtosis, work.model, one)[0] for one in responses], np.float64)
    value, shuffled = _value(apart, work.seed), _shuffled(apart, work.seed)
    layered = apart - np.nanmean(apart, -1, keepdims=True)
    held = bool(value.low is not None and value.low > max(0.0, shuffled.high or 0.0))
    return Finding(
        holds=held,
        brief=f"correlation of odd with even passages {value} (heads shuffled: {shuffled}); within layers "
        f"{_value(layered, work.seed)}",
        rows=(
            Row(
                "correlation over heads, odd and even passages; control: heads of one half shuffled",
                value,
                "0.67",
                shuffled,
            ),
            _row("the same with the mean of each layer taken away", layered, work.seed),
            _row("the same with the first token left in the first sentence", kept, work.seed),
            _row("the same on the model's own responses", own, work.seed),
            Row(
                f"share of the top {TOP} heads of one half that are among those of the other; control: by chance",
                Estimate(_overlap(apart)),
                control=Estimate(TOP / apart[0].size),
            ),
        ),
        found=(
            f"Read on {len(apart)} passages of {WIDTH} tokens. {len(own)} responses have the {NEEDED} "
            f"sentences that are needed, of {told(reasoned(work))}.",
            f"The claim {'holds' if held else 'does not hold'} here: {value} over {apart[0].size} heads.",
        ),
    )


def _kurtosis(loaded: LoadedModel, prompt: Prompt) -> list[np.ndarray]:
    """Kurtosis of every head ``[layer, head]``, without and with the first token."""
    splits = [sentences_of(prompt, sink=sink) for sink in (False, True)]
    return [receiver_kurtosis(vert).round(4) for vert in verticals_of(loaded, prompt, splits)]


def _row(what: str, kurtoses: np.ndarray, seed: int) -> Row:
    if len(kurtoses) < 2:
        return Row(what, f"{len(kurtoses)} texts are too few", NONE)
    return Row(what, _value(kurtoses, seed), control=_shuffled(kurtoses, seed))


def _value(kurtoses: np.ndarray, seed: int) -> Estimate:
    found = reliability(kurtoses, seed)
    known = bool(np.isfinite([found.low, found.high]).all())
    return Estimate(found.value, found.low if known else None, found.high if known else None)


def _halves(kurtoses: np.ndarray) -> list[np.ndarray]:
    return [mean_defined(half).ravel() for half in (kurtoses[0::2], kurtoses[1::2])]


def _shuffled(kurtoses: np.ndarray, seed: int) -> Estimate:
    """The correlation with the heads of one half in another order: mean, lowest and highest."""
    random, (one, other) = np.random.default_rng(seed), _halves(kurtoses)
    known = np.isfinite(one) & np.isfinite(other)
    drawn = [np.corrcoef(one[known], random.permutation(other[known]))[0, 1] for _ in range(SHUFFLES)]
    return Estimate(float(np.mean(drawn)), float(min(drawn)), float(max(drawn)), "range")


def _overlap(kurtoses: np.ndarray) -> float:
    best: Sequence[set[int]] = [
        set(np.argsort(-np.nan_to_num(half, nan=-9.0))[:TOP].tolist()) for half in _halves(kurtoses)
    ]
    return len(best[0] & best[1]) / TOP


CLAIM = Claim(
    claimed="how much of a head's attention to far sentences goes to a few of them (kurtosis of vertical "
    "scores) is a trait of the head: means over odd and over even responses correlate at about 0.67 "
    "(R1-Distill-Qwen-14B; a number quoted from memory).",
    data=f"{EACH} passages of the shipped story and {EACH} of the last fifth of the haystack, half of each in "
    "either half of the split; besides, responses that the model draws itself to 12 arithmetic problems. All "
    "held out: nothing is chosen.",
    measure=measure,
    how=(
        "Sentences four or more apart, Fisher's biased kurtosis over sentences, mean over the passages of a "
        "half, Pearson correlation over heads: `thought_anchors` at its defaults. Intervals draw passages anew "
        "within each half.",
        "The verdict is on passages without the first token, an attention sink whose sentence any head could "
        "find; a row shows them with it. Responses have their prompt before them, which takes the sink.",
        f"Shuffled: heads of one half in another order, {SHUFFLES} draws (lowest – highest). Layer means taken "
        "away: whether heads of a layer differ steadily, or layers alone do.",
        "The claim holds where the interval lies above 0 and above every shuffle.",
    ),
    settings={
        "shuffles": SHUFFLES,
        "top": TOP,
        "each": EACH,
        "width": WIDTH,
        "responses": [TOKENS, TEMPERATURE],
    },
)
