"""Previous-token heads, induction heads and sinks come with training: an untrained model of the same shape has none."""

from dataclasses import dataclass

import numpy as np

from probe.analysis.analyze import analyze
from probe.models import LoadedModel
from probe.models.untrained import untrained
from probe.prompts import Prompt, repeated_tokens
from probe.replay.claim import Claim
from probe.replay.finding import NONE, Estimate, Finding, Row, Table
from probe.replay.intervals import mean, spread
from probe.replay.passages import DATA, passages
from probe.replay.work import Work

SEEDS, COUNT, WIDTH, TOP = 3, 8, 256, 0.05


@dataclass(frozen=True)
class Statistic:
    """A statistic of heads, what it is measured on, and from where on a head is called one of its kind."""

    spec: str
    kind: str
    repeated: bool
    least: float
    low: bool = False  # heads of the kind have low values


STATISTICS = (
    Statistic("previous_token", "previous-token heads", False, 0.3),
    Statistic("sink", "sink heads", False, 0.3),
    Statistic("entropy:normalized=true", "focused heads", False, 0.5, low=True),
    Statistic("induction:norm=matched", "induction heads", True, 0.3),  # behind those of ordinary text
)


def measure(work: Work) -> Finding:
    """The strongest heads of the trained model beside those of untrained ones, and how many there are of each kind."""
    trained = _measured(work, "trained", None)
    draws = [_measured(work, f"untrained {seed}", seed) for seed in range(SEEDS)]
    rows: list[Row] = []
    counts: list[tuple[str, ...]] = []
    above: list[bool] = []
    brief: list[str] = []
    for number, one in enumerate(STATISTICS):
        mine, others = trained[number], [draw[number] for draw in draws]  # each [prompt, head]
        best, random = (
            mean(_strongest(mine, one)),
            spread(np.stack([_strongest(other, one) for other in others])),
        )
        rows.append(Row(f"`{one.spec}`, mean of its strongest {TOP:.0%} of heads", best, NONE, random))
        found = [_many(values, one) for values in (mine, *others)]
        counts.append((one.kind, f"{'≤' if one.low else '≥'} {one.least}", str(found[0]), _list(found[1:])))
        above.append(_beyond(best, random, one) and found[0] > max(found[1:]))
        brief.append(f"{one.spec} {best.value:.2f} (untrained {random.value:.2f}), {found[0]} {one.kind}")
    failed = [one.kind for one, held in zip(STATISTICS, above, strict=True) if not held and not one.low]
    return Finding(
        holds=not failed,
        brief="; ".join(brief),
        rows=tuple(rows),
        found=(
            f"Uniform attention over {WIDTH} tokens would give {_uniform():.3f} both on the token before and on the "
            "first one: what untrained heads have of either is to be read against it.",
        ),
        but=f"; not shown: {', '.join(failed)}" if failed else "",
        tables=(
            Table(
                f"How many heads are of a kind (mean over prompts); {mine.shape[1]} heads, untrained seed by seed",
                ("kind", "from", "trained", "untrained"),
                tuple(counts),
            ),
        ),
    )


def _measured(work: Work, name: str, seed: int | None) -> list[np.ndarray]:
    """Every statistic as ``[prompt, head]``, of the model or of one that is drawn anew."""
    found = work.keep(name, _by_prompt, work.model, seed, work.seed, 2 if work.small else COUNT)
    return [np.asarray(values, np.float64) for values in found]


def _by_prompt(loaded: LoadedModel, seed: int | None, data: int, count: int) -> list[list[list[float]]]:
    model = loaded if seed is None else untrained(loaded, seed)
    ordinary = passages(loaded, COUNT, WIDTH)[:count]
    repeated = repeated_tokens(loaded.tokenizer, length=WIDTH // 2, count=count, seed=data)
    return [
        *_heads(model, ordinary, [one.spec for one in STATISTICS if not one.repeated]),
        *_heads(model, repeated, [one.spec for one in STATISTICS if one.repeated]),
    ]


def _heads(model: LoadedModel, prompts: list[Prompt], specs: list[str]) -> list[list[list[float]]]:
    report = analyze(model, prompts, specs)
    maps = [report.answer(spec).by_prompt for spec in specs]
    return [one.values.reshape(len(prompts), -1).tolist() for one in maps if one is not None]


def _strongest(values: np.ndarray, one: Statistic) -> np.ndarray:
    """By prompt, the mean of the strongest heads, which are chosen on the mean over the other prompts."""
    count = max(1, round(TOP * values.shape[1]))
    sign = 1.0 if one.low else -1.0
    found = []
    for prompt in range(len(values)):
        rest = np.delete(values, prompt, axis=0).mean(0)
        found.append(values[prompt, np.argsort(sign * rest, kind="stable")[:count]].mean())
    return np.asarray(found)


def _many(values: np.ndarray, one: Statistic) -> int:
    means = values.mean(0)
    return int((means <= one.least).sum() if one.low else (means >= one.least).sum())


def _beyond(best: Estimate, random: Estimate, one: Statistic) -> bool:
    """Whether the whole interval lies beyond every untrained draw."""
    if best.low is None or best.high is None or random.low is None or random.high is None:
        return False
    return best.high < random.low if one.low else best.low > random.high


def _uniform() -> float:
    """Mean over rows 1 … of 1 / (i + 1): the mass of any one key under uniform causal attention."""
    return float(np.mean(1.0 / np.arange(2, WIDTH + 1)))


def _list(counts: list[int]) -> str:
    return ", ".join(map(str, counts))


CLAIM = Claim(
    claimed="previous-token and induction heads form in training, in an abrupt phase change, and attention sinks "
    "appear only after enough of it; models before it have neither (Olsson et al. 2022; Gu et al. 2025, "
    "arXiv:2410.10781).",
    data=f"{COUNT} passages of {WIDTH} tokens, {DATA}; for induction {COUNT} prompts of {WIDTH // 2} random tokens "
    "said twice. Nothing is chosen or tuned on them.",
    measure=measure,
    how=(
        f"The control is the same architecture with weights as it initialises them, {SEEDS} seeds "
        "(`--baseline untrained`), on the same prompts; the range is over seeds.",
        f"The strongest {TOP:.0%} of heads are chosen on all other prompts (leave one out), so that choosing among "
        "many heads gives nothing by itself.",
        "The claim holds where, for previous-token, induction and sink heads alike, the whole interval over prompts "
        "lies above every untrained seed, and there are more heads above the threshold. Focus (entropy over its "
        "maximum) is told beside the verdict.",
    ),
    settings={
        "seeds": SEEDS,
        "count": COUNT,
        "width": WIDTH,
        "top": TOP,
        "statistics": [repr(one) for one in STATISTICS],
    },
)
