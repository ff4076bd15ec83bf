"""Queries lie apart from keys: farther than keys that were not seen, and than keys of another text (or not)."""

import numpy as np

from probe.experiments.folding import fold
from probe.metrics.base import Cell
from probe.metrics.qk_shift import QkShift
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import NONE, Estimate, Finding, Row, Table
from probe.replay.intervals import interval, mean, statistic
from probe.replay.passages import DATA, passages
from probe.replay.work import Work

PASSAGES, WIDTH = 8, 512
KINDS = {"": 0, ", first token left out": 1}


def measure(work: Work) -> Finding:
    """Ratio of Mahalanobis distances per head and passage: queries, and keys of the next passage."""
    texts = work.few(passages(work.model, PASSAGES, WIDTH))
    rows = [
        work.keep(str(one.id), _of_passage, work.model, one, texts[(number + 1) % len(texts)])
        for number, one in enumerate(texts)
    ]
    found = {name: np.asarray([row[name] for row in rows], np.float64) for name in rows[0]}
    held = {said: _held(found, said) for said in KINDS}
    ratio = mean(found["queries"].mean(1))
    return Finding(
        holds=all(held.values()),
        brief=f"queries lie {ratio} times as far from the keys as unseen keys, keys of another text "
        f"{mean(found['others'].mean(1))} times; {_share(found['queries'])} of heads above 1",
        rows=(
            *(
                Row(
                    f"distance of queries over that of unseen keys{said}",
                    mean(found[f"queries{said}"].mean(1)),
                    "far above 1 (figure)" if not said else NONE,
                    mean(found[f"others{said}"].mean(1)),
                )
                for said in KINDS
            ),
            *(
                Row(
                    f"share of heads above 1{said}",
                    _share(found[f"queries{said}"]),
                    NONE,
                    _share(found[f"others{said}"]),
                )
                for said in KINDS
            ),
        ),
        tables=(_table(found),),
        found=tuple(
            f"Queries minus keys of another text{said}: {mean(_gap(found, said))}. The claim "
            f"{'holds' if held[said] else 'does not hold'} so."
            for said in KINDS
        ),
    )


def _held(found: dict[str, np.ndarray], said: str) -> bool:
    far = (
        interval(found[f"queries{said}"].mean(1))[0] > 1
        and (_share(found[f"queries{said}"]).low or 0.0) > 0.5
    )
    return bool(far and interval(_gap(found, said))[0] > 0)


def _gap(found: dict[str, np.ndarray], said: str) -> np.ndarray:
    return np.asarray(found[f"queries{said}"].mean(1) - found[f"others{said}"].mean(1))


def _share(values: np.ndarray) -> Estimate:
    return statistic(values, lambda some: float((some.mean(0) > 1).mean()))


def _table(found: dict[str, np.ndarray]) -> Table:
    def line(name: str, said: str) -> tuple[str, ...]:
        parts = np.array_split(found[name + said], 3, axis=1)
        label = "queries" if name == "queries" else "keys of another text"
        return (label + said, *(str(mean(part.mean(1))) for part in parts))

    return Table(
        "Distance over that of unseen keys by depth, heads in order of their layers: mean [95 % interval over "
        "passages]",
        ("of", "first third", "second third", "last third"),
        tuple(line(name, said) for said in KINDS for name in ("queries", "others")),
    )


def _of_passage(loaded: LoadedModel, passage: Prompt, other: Prompt) -> dict[str, list[float]]:
    """Both ratios of every head (key/value head for keys), layer by layer, with the first token and without."""
    found: dict[str, list[float]] = {}
    metrics = {said: QkShift(skip=skip) for said, skip in KINDS.items()}
    fold(loaded, [passage, other], list(metrics.values()))
    for said, metric in metrics.items():
        own = [key for key in sorted(metric.cells) if key.prompt == 0]
        found[f"queries{said}"] = [x for key in own for x in metric.value(metric.cells[key]).tolist()]
        pairs = [(metric.cells[key], metric.cells[key._replace(prompt=1)]) for key in own]
        found[f"others{said}"] = [
            x for one, two in pairs for x in metric.value(_as_queries(one, two)).tolist()
        ]
    return found


def _as_queries(cell: Cell, other: Cell) -> Cell:
    """A passage's cell with the keys of another passage in place of its queries."""
    parts = ("count", "sum", "square")
    return {**cell, **{f"{part}_query": other[f"{part}_fit"] for part in parts}}


CLAIM = Claim(
    claimed="queries are out of distribution to keys: by Mahalanobis distance they lie far from the distribution of "
    "keys, which other keys do not, so that an index built for keys serves queries badly. (The paper shows it in a "
    "figure.)",
    data=f"{PASSAGES} passages of {WIDTH} tokens, {DATA}.",
    measure=measure,
    how=(
        "`qk_shift`: root mean square Mahalanobis distance to the mean and (shrunk) covariance of the keys at even "
        "places of a passage, of the queries over that of the keys at odd places, per head; q and k as they meet in "
        "the score.",
        "The control puts keys of the next passage in the queries' place: how far another text alone takes keys.",
        "Left out: the first token, whose key is the sink, from queries and keys.",
        "The claim holds where the ratio is above 1 on average over heads (interval over passages), above 1 in more "
        "than half of all heads, and above that of another text's keys, with the first token and without.",
    ),
    settings={"passages": PASSAGES, "width": WIDTH},
)
