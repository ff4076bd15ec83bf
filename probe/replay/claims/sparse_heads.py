"""Few heads retrieve: shares of heads by their retrieval score, as the paper counts them."""

import numpy as np

from probe.experiments.retrieval_split import MOST, RETRIEVAL_HEAD
from probe.replay.claim import Claim
from probe.replay.copied import Copied, Hide, copied, held_by
from probe.replay.finding import NONE, Estimate, Finding, Row, not_asked
from probe.replay.intervals import mean, statistic
from probe.replay.needles import DETECTED_WITH
from probe.replay.work import Work

LENGTHS, DEPTHS = (500, 1000), (0.1, 0.5, 0.9)
TOP, DRAWS = 0.05, 20
FEW, ACTIVE = (
    0.06,
    0.05,
)  # the most of the paper's models: at or above 0.1, and active in more than half of the tests


def measure(work: Work) -> Finding:
    """Shares of heads over the tests that the model passes, with intervals over tests."""
    parts = [copied(work, Hide(tuple(range(DETECTED_WITH)), length, DEPTHS)) for length in LENGTHS]
    tests = np.concatenate([part.found for part in parts])
    asked = sum(len(part.counted) for part in parts)
    if not len(tests):
        return not_asked(f"the model finds none of {asked} needles")
    strong, active = _strong(tests), _active(tests)
    few = strong <= FEW and active < ACTIVE
    chosen = held_by(tests.mean(0), TOP)
    by_chance = _drawn(tests.mean(0), work.seed)
    rows = (
        Row(f"share of heads at or above {RETRIEVAL_HEAD}", statistic(tests, _strong, 3), "0.03 – 0.06"),
        Row("share of heads at exactly 0", statistic(tests, _zero, 3), "0.45 – 0.73"),
        Row(f"share of heads in (0, {RETRIEVAL_HEAD})", statistic(tests, _weak, 3), "0.25 – 0.52"),
        Row(
            "share of heads active in more than half of the tests", statistic(tests, _active, 3), "below 0.05"
        ),
        Row(
            "share of heads active in every test",
            statistic(tests, _always, 3),
            "12 and 36 heads in two models",
        ),
        Row(
            f"share of all scores that the top {TOP:.0%} of heads hold (control: as many heads drawn)",
            statistic(tests, _held, 2),
            NONE,
            by_chance,
        ),
    )
    return Finding(
        holds=bool(few),
        brief=f"{strong:.1%} of {tests[0].size} heads at or above {RETRIEVAL_HEAD}, {active:.1%} active in most "
        f"tests; the top {TOP:.0%} hold {chosen:.2f} of all scores (drawn heads {by_chance.value:.2f})",
        rows=rows,
        found=(
            f"{len(tests)} of {asked} tests count. {_zero(tests):.1%} of the heads never copy, {strong:.1%} score at "
            f"least {RETRIEVAL_HEAD}.",
            f"The top {TOP:.0%} of heads hold {chosen:.2f} of the sum of all scores, {chosen / TOP:.0f} times their "
            "share of the heads.",
            _by_length(parts),
        ),
        but=""
        if few
        else " as the paper counts; scores are concentrated, but on more heads than in its models",
    )


def _by_length(parts: list[Copied]) -> str:
    told = [
        f"{mean((part.found > 0).mean((1, 2)), part.found_needles)} at {length} tokens"
        for length, part in zip(LENGTHS, parts, strict=True)
        if len(part.found)
    ]
    return f"Share of heads that copy at least one token of a test, mean over tests: {', '.join(told)}."


def _strong(tests: np.ndarray) -> float:
    return float((tests.mean(0) >= RETRIEVAL_HEAD).mean())


def _zero(tests: np.ndarray) -> float:
    return float((tests.mean(0) == 0).mean())


def _weak(tests: np.ndarray) -> float:
    found = tests.mean(0)
    return float(((found > 0) & (found < RETRIEVAL_HEAD)).mean())


def _active(tests: np.ndarray) -> float:
    return float(((tests > 0).mean(0) > MOST).mean())


def _always(tests: np.ndarray) -> float:
    return float((tests > 0).all(0).mean())


def _held(tests: np.ndarray) -> float:
    return held_by(tests.mean(0), TOP)


def _drawn(scores: np.ndarray, seed: int) -> Estimate:
    """What as many heads hold that are drawn blindly: mean, lowest and highest of the draws."""
    flat, draw = scores.ravel(), np.random.default_rng(seed)
    count = max(1, round(TOP * len(flat)))
    shares = [flat[draw.choice(len(flat), count, replace=False)].sum() / flat.sum() for _ in range(DRAWS)]
    return Estimate(float(np.mean(shares)), float(min(shares)), float(max(shares)), "range")


CLAIM = Claim(
    claimed="retrieval heads are sparse: in every model 3–6 % of the heads score at least 0.1, 45–73 % score "
    "exactly 0, 25–52 % lie between, and fewer than 5 % are active in more than half of the tests.",
    data=f"the train part: needles 1 to {DETECTED_WITH}, in the first half of the haystack; nothing is chosen by "
    "them here.",
    measure=measure,
    how=(
        "Score and gate are those of `probe analyze --metric retrieval`; intervals are over tests that count. The "
        "paper has about 600 tests per model: with fewer, heads that copy seldom count as exactly 0 more often.",
        "A resample holds fewer different tests, so that the intervals of the shares at 0, in between and in every "
        "test lean to one side; tests share four needles, too few to draw, so that all intervals are rather too "
        "narrow.",
        "The control of the last row draws as many heads of the whole model, 20 times.",
        f"The claim holds where at most {FEW:.0%} of the heads reach {RETRIEVAL_HEAD} and fewer than {ACTIVE:.0%} are "
        "active in more than half of the tests: the paper's own bounds.",
    ),
    settings={"lengths": LENGTHS, "depths": DEPTHS, "needles": DETECTED_WITH, "draws": DRAWS},
)
