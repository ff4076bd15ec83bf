"""The same heads retrieve whatever is asked: needles, lengths, forms of the question, and other tasks."""

import numpy as np

from probe.experiments.retrieval_split import RETRIEVAL_HEAD
from probe.replay.claim import Claim
from probe.replay.copied import Hide, copied, ranks_agree, shuffled_in_layers
from probe.replay.finding import NONE, Estimate, Finding, Row, Table
from probe.replay.intervals import statistic
from probe.replay.needles import DETECTED_WITH
from probe.replay.work import Work
from probe.terms import HeadId

DEPTHS, SHUFFLES, LEAST = (0.1, 0.9), 20, 3
BASE = "needles 1–4, 500 tokens"
VARIANTS = {
    BASE: Hide(tuple(range(DETECTED_WITH)), 500, DEPTHS),
    "needles 5–8, 500 tokens": Hide(tuple(range(DETECTED_WITH, 2 * DETECTED_WITH)), 500, DEPTHS),
    "needles 1–4, 1000 tokens": Hide(tuple(range(DETECTED_WITH)), 1000, DEPTHS),
    "needles 1–4, 500 tokens, asked by a question": Hide(
        tuple(range(DETECTED_WITH)), 500, DEPTHS, "question"
    ),
}
TASKS = {"JSON lookups": "json_retrieval", "associative recall": "mqar"}


def measure(work: Work) -> Finding:
    """Rank correlations over heads between the scores of one task variant and those of each other."""
    maps, counts = {}, {}
    for name, hidden in VARIANTS.items():
        found = copied(work, hidden)
        counts[name] = (int(found.counted.sum()), len(found.counted))
        if counts[name][0] >= (1 if work.small else LEAST):
            maps[name] = found.found.mean(0)
    base = maps.get(BASE)
    if base is None:
        return Finding(
            holds=None, brief="the model passes too few tests", found=(f"{counts[BASE]} of {BASE}",)
        )
    for name, spec in TASKS.items():
        maps[name] = _grid(work.scores(spec), base.shape)
    rows, alike = [], []
    for name, scores in maps.items():
        if name != BASE:
            row, above = _row(name, base, scores, work.seed)
            rows.append(row)
            alike.append(above)
    left = [name for name in VARIANTS if name not in maps]
    strong = {name: int((scores >= RETRIEVAL_HEAD).sum()) for name, scores in maps.items()}
    everywhere = np.logical_and.reduce([scores >= RETRIEVAL_HEAD for scores in maps.values()])
    held = [row.ours.value for row in rows if isinstance(row.ours, Estimate)]
    return Finding(
        holds=bool(all(alike) and everywhere.any()),
        brief=f"rank correlations {min(held):.2f} to {max(held):.2f} with {BASE}; {int(everywhere.sum())} heads at "
        f"or above {RETRIEVAL_HEAD} in all of {len(maps)} variants",
        rows=tuple(rows),
        found=(
            f"Heads at or above {RETRIEVAL_HEAD} in every variant: {_names(everywhere)}.",
            *(f"Left out, since fewer than {LEAST} tests count: {name} ({counts[name][0]} of {counts[name][1]})."
              for name in left),
        ),
        tables=(
            Table(
                f"Heads at or above {RETRIEVAL_HEAD} by variant, and tests that count",
                ("variant", "heads", "of them in every variant", "tests"),
                tuple(
                    (name, str(strong[name]), str(int(everywhere.sum())), _counted(counts.get(name))) for name in maps
                ),
            ),
        ),
    )  # fmt: skip


def _row(name: str, base: np.ndarray, scores: np.ndarray, seed: int) -> tuple[Row, bool]:
    """The correlation with its control, and whether it lies above every shuffle."""
    pairs = np.stack([base.ravel(), scores.ravel()], axis=1)
    others = [ranks_agree(base, shuffled_in_layers(scores, seed + draw)) for draw in range(SHUFFLES)]
    control = Estimate(float(np.mean(others)), min(others), max(others), "range")
    ours = statistic(pairs, lambda one: ranks_agree(one[:, 0], one[:, 1]))
    return Row(f"rank correlation over heads, {BASE} and {name}", ours, NONE, control), ours.value > max(
        others
    )


def _grid(scores: dict[str, float], shape: tuple[int, ...]) -> np.ndarray:
    grid = np.zeros(shape)
    for name, score in scores.items():
        head = HeadId.parse(name)
        grid[head.layer, head.head] = score
    return grid


def _names(flags: np.ndarray) -> str:
    return ", ".join(f"L{layer}.H{head}" for layer, head in np.argwhere(flags)) or "none"


def _counted(count: tuple[int, int] | None) -> str:
    return "its own" if count is None else f"{count[0]} of {count[1]}"


CLAIM = Claim(
    claimed="every model with long context has retrieval heads, and they are the same whatever is retrieved: scores "
    "of one model and of models derived from it correlate above 0.8, those of other families below 0.1.",
    data=f"needles 1 to {DETECTED_WITH} (train part) against needles {DETECTED_WITH + 1} to {2 * DETECTED_WITH} "
    "(held out), all in the first half of the haystack; JSON values of the haystack's last two fifths; random "
    "tokens.",
    measure=measure,
    how=(
        "Compared are scores of the same heads of one model under two task variants, by Spearman's rank correlation "
        "over all heads; the interval is over heads. Heads of different models have no common index, so models are "
        "compared only by whether the claim holds on each.",
        "Scores of needles and JSON lookups are those of `retrieval` and `json_retrieval`; that of associative recall "
        "(`mqar`) is how often a head looks at the value of the key that is asked.",
        f"The control gives every score of a variant to another head of the same layer, {SHUFFLES} times: what the "
        "layers alone explain.",
        "The claim holds where every variant agrees with the first better than all its shuffles, and some head "
        f"reaches {RETRIEVAL_HEAD} in all of them.",
    ),
    settings={
        "variants": [repr(one) for one in VARIANTS.values()],
        "tasks": list(TASKS.values()),
        "shuffles": SHUFFLES,
    },
)
