"""Early layers look at the same keys whatever the query, late layers do not: rows of a head grow apart with depth."""

import numpy as np
from scipy.stats import spearmanr

from probe.experiments.base import Ask
from probe.experiments.row_similarity import RowSimilarity
from probe.models import LoadedModel
from probe.models.untrained import untrained
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import Finding, Row, Table
from probe.replay.intervals import interval, mean, statistic
from probe.replay.passages import DATA, passages
from probe.replay.work import Work

COUNT, WIDTH, ROWS = 8, 512, 64
KINDS = ("sinks removed", "with sinks")


def measure(work: Work) -> Finding:
    """Cosine of two rows of a head by layer, sinks removed and not, trained and untrained."""
    prompts = work.few(passages(work.model, COUNT, WIDTH), 2)
    trained = np.asarray([work.keep(str(one.id), _by_layer, work.model, one, work.seed) for one in prompts])
    blank = np.asarray(work.keep("untrained", _untrained, work.model, prompts, work.seed), np.float64)
    removed = trained[:, 0]
    falls = {kind: mean(_early(trained[:, at]) - _late(trained[:, at])) for at, kind in enumerate(KINDS)}
    gap = _early(removed) - _late(removed) - (_early(blank[:, 0]) - _late(blank[:, 0]))
    held = interval(_early(removed) - _late(removed))[0] > 0 and interval(gap)[0] > 0
    rho = statistic(removed, _rho)
    rows = [
        Row(f"cosine of two rows, {third}, {kind}", mean(of(trained[:, at])), control=mean(of(blank[:, at])))
        for at, kind in enumerate(KINDS)
        for third, of in (("first third of the layers", _early), ("last third", _late))
    ]
    return Finding(
        holds=bool(held),
        brief=f"early {_early(removed).mean():.2f}, late {_late(removed).mean():.2f}, fall {falls[KINDS[0]]} (sinks "
        f"removed); with sinks {falls[KINDS[1]]}; rank correlation with depth {rho}",
        rows=(
            *rows,
            Row(
                "rank correlation of layer and cosine, sinks removed",
                rho,
                control=statistic(blank[:, 0], _rho),
            ),
        ),
        found=(
            f"Sinks removed, the cosine falls by {falls[KINDS[0]]} from the first to the last third of the layers; the "
            f"fall minus that of the untrained model is {mean(gap)}.",
            f"With sinks it falls by {falls[KINDS[1]]}: what all rows of a head share is then mostly the sink.",
        ),
        tables=(_table(trained),),
    )


def _by_layer(loaded: LoadedModel, prompt: Prompt, seed: int) -> list[list[float]]:
    answer = RowSimilarity(rows=ROWS).run(Ask(loaded, (prompt,), seed))[0]
    return [
        np.nanmean(values, -1).tolist()
        for values in (answer.head_map.values, answer.extra["with_sinks"].values)
    ]


def _untrained(loaded: LoadedModel, prompts: list[Prompt], seed: int) -> list[list[list[float]]]:
    blank = untrained(loaded, seed)
    return [_by_layer(blank, prompt, seed) for prompt in prompts]


def _early(by_layer: np.ndarray) -> np.ndarray:
    return np.asarray(by_layer[:, : by_layer.shape[1] // 3].mean(1))


def _late(by_layer: np.ndarray) -> np.ndarray:
    return np.asarray(by_layer[:, -(by_layer.shape[1] // 3) :].mean(1))


def _rho(by_layer: np.ndarray) -> float:
    """Spearman's correlation of layer and the mean cosine over texts."""
    return float(spearmanr(np.arange(by_layer.shape[1]), by_layer.mean(0)).statistic)


def _table(trained: np.ndarray) -> Table:
    layers = range(0, trained.shape[2], max(1, trained.shape[2] // 10))
    return Table(
        f"Mean cosine over a layer's heads, {len(trained)} texts: mean [95 % interval over texts]",
        ("layer", *KINDS),
        tuple(
            (str(layer), *(str(mean(trained[:, at, layer])) for at in range(len(KINDS)))) for layer in layers
        ),
    )


CLAIM = Claim(
    claimed="attention of early layers is independent of the query: every row of a head looks at the same keys; late "
    "layers look where the query says. (The paper measures the cosine of a layer's rows, in images; it has no number "
    "for text.)",
    data=f"{COUNT} passages of {WIDTH} tokens, {DATA}.",
    measure=measure,
    how=(
        f"`row_similarity`: mean cosine over pairs of {ROWS} rows, over the keys that both see; keys that receive 10 % "
        "or more of a head's attention are sinks and left out. A layer's number is the mean over its heads.",
        "The control is the same architecture with weights as they are initialised. Comparing over common keys takes "
        "out that later rows see more keys, so that length alone changes nothing: rows that look at all keys alike "
        "have a cosine of 1.",
        "The claim holds where the cosine falls from the first third of the layers to the last (interval over texts "
        "above 0), sinks removed, and more than in the untrained model.",
    ),
    settings={"count": COUNT, "width": WIDTH, "rows": ROWS},
)
