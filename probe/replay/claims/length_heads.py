"""Heads that retrieve at 500 tokens retrieve at 2000: what the length changes, and what it does not."""

import numpy as np

from probe.replay.claim import Claim
from probe.replay.copied import Hide, copied, ranks_agree, shuffled_in_layers
from probe.replay.finding import NONE, Estimate, Finding, Row, not_asked
from probe.replay.intervals import interval, mean, spread, statistic
from probe.replay.needles import DETECTED_WITH
from probe.replay.work import Work

SHORT, LONG, DEPTHS = 500, 2000, (0.1, 0.9)
TOP, SEEDS, SHUFFLES = 10, 5, 20
AGREE = (
    0.8  # the paper's correlation between a model and those derived from it, by longer context among others
)


def measure(work: Work) -> Finding:
    """Scores of the same needles at both lengths: their rank correlation, and what becomes of the top heads."""
    which = tuple(range(DETECTED_WITH))
    short, long = (copied(work, Hide(which, length, DEPTHS)) for length in (SHORT, LONG))
    if not (short.counted.any() and long.counted.any()):
        return not_asked(
            f"found are {short.counted.sum()} needles at {SHORT} tokens, {long.counted.sum()} at {LONG}"
        )
    early, late = short.found.mean(0), long.found.mean(0)
    others = [ranks_agree(early, shuffled_in_layers(late, work.seed + draw)) for draw in range(SHUFFLES)]
    ours = statistic(
        np.stack([early.ravel(), late.ravel()], 1), lambda one: ranks_agree(one[:, 0], one[:, 1])
    )
    best = np.argsort(-early.ravel(), kind="stable")[:TOP]
    controls = [_others(early.shape, best, work.seed + draw) for draw in range(SEEDS)]
    kept = [_mean_of(part.found, best) for part in (short, long)]
    drawn = [np.stack([_mean_of(part.found, heads) for heads in controls]) for part in (short, long)]
    again = np.argsort(-late.ravel(), kind="stable")[:TOP]
    common = len(set(best) & set(again))
    stays = interval(kept[1], long.found_needles)[0] > drawn[1].mean(1).max()
    holds = ours.value >= AGREE and stays
    return Finding(
        holds=bool(holds),
        brief=f"rank correlation {ours} between {SHORT} and {LONG} tokens; {common} of the top {TOP} are the same; "
        f"their score {kept[0].mean():.2f} and {kept[1].mean():.2f} (others of their layers {drawn[1].mean():.2f})",
        rows=(
            Row(
                f"rank correlation over heads, {SHORT} and {LONG} tokens",
                ours,
                "above 0.8 (derived models)",
                Estimate(float(np.mean(others)), min(others), max(others), "range"),
            ),
            *(
                _score(length, mean(one, part.found_needles), spread(other))
                for length, one, other, part in zip((SHORT, LONG), kept, drawn, (short, long), strict=True)
            ),
            Row(f"of the top {TOP}, also the top {TOP} at {LONG} tokens", Estimate(common, digits=0)),
        ),
        found=(
            f"Found are {short.counted.sum()} of {len(short.counted)} needles at {SHORT} tokens and "
            f"{long.counted.sum()} of "
            f"{len(long.counted)} at {LONG}; the others do not count.",
            f"The score asks for the most attended key, which dilution does not move: a uniform head scores at most "
            f"{1 / SHORT:.4f} at {SHORT} tokens, by looking at some key; a first-token sink scores 0 at any length.",
            f"The top {TOP} keep {kept[1].mean() / kept[0].mean():.2f} of their score.",
        ),
        but="" if holds or not stays else f" by the rank correlation over all heads; the top {TOP} stay",
        heads=tuple(f"L{at // early.shape[1]}.H{at % early.shape[1]}" for at in best),
    )


def _score(length: int, ours: Estimate, others: Estimate) -> Row:
    return Row(f"mean score of the top {TOP} of {SHORT} tokens, at {length} tokens", ours, NONE, others)


def _mean_of(tests: np.ndarray, heads: np.ndarray) -> np.ndarray:
    """Mean score of some heads, by test."""
    found: np.ndarray = tests.reshape(len(tests), -1)[:, heads].mean(1)
    return found


def _others(shape: tuple[int, ...], chosen: np.ndarray, seed: int) -> np.ndarray:
    """As many other heads of the same layers where these have so many left; all the others where they have not."""
    draw, drawn = np.random.default_rng(seed), list[int]()
    for layer in np.unique(chosen // shape[1]):
        own = [at for at in chosen if at // shape[1] == layer]
        left = [at for at in range(layer * shape[1], (layer + 1) * shape[1]) if at not in own]
        drawn += draw.choice(left, min(len(own), len(left)), replace=False).tolist()
    return np.array(drawn)


CLAIM = Claim(
    claimed="retrieval heads are intrinsic: they are there in a model of short context, and the same heads retrieve "
    "when it is continued to longer ones (correlation above 0.8 between a model and those derived from it).",
    data=f"the train part: needles 1 to {DETECTED_WITH}, each in one stretch of the haystack's first half, which "
    "goes on where the prompt is longer. Heads are chosen at the short length and looked at again at the long one.",
    measure=measure,
    how=(
        f"No weights change here: what is asked is whether heads found at {SHORT} tokens are those of {LONG}. Both "
        "lengths have the same needles at the same depths; scores are means over the tests that count.",
        "Controls: scores given to other heads of their layers (correlation), and as many other heads of the same "
        "layers (mean score), 5 draws; in layers where most heads are among the top, all that are left.",
        "Layers with a sliding window cannot see a needle beyond it: there the score falls by design.",
        f"The claim holds where the rank correlation is at least {AGREE} and the top {TOP} at {LONG} tokens score "
        "above every control (lower end of the interval over needles).",
    ),
    settings={
        "short": SHORT,
        "long": LONG,
        "depths": DEPTHS,
        "top": TOP,
        "seeds": SEEDS,
        "shuffles": SHUFFLES,
    },
)
