"""Attention layers are more redundant than MLPs: those that turn the stream least can go at little loss."""

import random
from collections.abc import Sequence

import numpy as np

from probe.experiments.forwards import losses
from probe.experiments.redundancy import distances
from probe.interventions import skip_module
from probe.interventions.redundancy import least
from probe.interventions.reference import windows
from probe.interventions.skip_module import Kind
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import Finding, Row, Table
from probe.replay.intervals import interval, mean, spread
from probe.replay.needles import DETECTED_WITH, held_out, needle_of
from probe.replay.passages import DATA, passages
from probe.replay.reading import Reading
from probe.replay.work import Work

COUNT, WIDTH, SEEDS, TEXTS = 8, 128, 3, 8
SHARES = (0.1, 0.25)  # of the layers
NEEDLES, LENGTH = 5, 512
KINDS: tuple[Kind, ...] = ("attention", "mlp")
Scores = dict[Kind, dict[int, float]]  # S by layer
# By kind and number: the layers with the least S first, then the draws.
Drops = dict[tuple[Kind, int], list[tuple[int, ...]]]
Cost = dict[tuple[Kind, int], np.ndarray]  # rise of the loss, [run, passage]


def measure(work: Work) -> Finding:
    """Loss and recall with the attention or the MLP of some layers adding nothing."""
    found = work.keep("S", _distances, work.model, work.seed)
    scores = {kind: dict(enumerate(found[kind])) for kind in KINDS}
    sizes = [max(1, round(share * len(scores["attention"]))) for share in SHARES]
    drops = {(kind, n): _drops(scores[kind], n, work.seed) for kind in KINDS for n in sizes}
    prompts = work.few(passages(work.model, COUNT, WIDTH))
    rows = np.asarray([work.keep(one.id, _losses, work.model, one, drops) for one in prompts])
    cost, at = Cost(), 1
    for key, layers in drops.items():
        cost[key] = rows[:, at : at + len(layers)].T - rows[:, 0]  # [run, passage]
        at += len(layers)
    needles = work.few(held_out(work.model, NEEDLES, work.seed, (LENGTH,)))
    said = np.asarray(
        [work.keep(str(one.id), _recalls, work.model, one, drops, sizes[-1]) for one in needles]
    )
    return _finding(sizes, drops, scores, rows[:, 0], cost, said, [needle_of(one) for one in needles])


def _distances(loaded: LoadedModel, seed: int) -> dict[str, list[float]]:
    """S of every layer's attention and MLP over windows of the train part."""
    found = distances(loaded, windows(loaded, WIDTH, TEXTS, seed), "redundancy", "decoder")
    return {
        kind: [float(np.mean([one[layer] for one in each])) for layer in sorted(each[0])]
        for kind, each in found.items()
    }


def _drops(scores: dict[int, float], n: int, seed: int) -> list[tuple[int, ...]]:
    """The n layers with the least S, and as many others, drawn anew for each seed."""
    chosen = least(scores, n)
    others = [layer for layer in scores if layer not in chosen]
    draw = random.Random(f"{seed}/{n}")  # noqa: S311 -- not a secret
    return [chosen, *(tuple(sorted(draw.sample(others, n))) for _ in range(SEEDS))]


def _losses(loaded: LoadedModel, prompt: Prompt, drops: Drops) -> list[float]:
    """Loss without an edit, then with every drop."""
    made = [float(losses(loaded, prompt)[1:].mean())]
    for (kind, _), each in drops.items():
        for layers in each:
            edit = skip_module(kind, layers).prepare(loaded, None)
            made.append(float(losses(loaded, prompt, [edit])[1:].mean()))
    return made


def _recalls(loaded: LoadedModel, prompt: Prompt, drops: Drops, n: int) -> list[list[float]]:
    """Recall of the answer without an edit, with n attention layers dropped (least S, then draws), with n MLPs."""
    reading, wanted = Reading(loaded, prompt.tokens), str(prompt.answer)
    runs: list[tuple[Kind, tuple[int, ...]]] = [("attention", layers) for layers in drops["attention", n]]
    runs.append(("mlp", drops["mlp", n][0]))
    said = [reading.answer(wanted)]
    for kind, layers in runs:
        said.append(reading.answer(wanted, [skip_module(kind, layers)], rows=0))
    return [[one.recall, one.loss] for one in said]


def _finding(
    sizes: Sequence[int],
    drops: Drops,
    scores: Scores,
    base: np.ndarray,
    cost: Cost,
    said: np.ndarray,
    needles: list[str],
) -> Finding:
    cheaper = all(interval(cost["attention", n][0] - cost["mlp", n][0])[1] < 0 for n in sizes)
    chosen = all((cost["attention", n][0].mean() < cost["attention", n][1:].mean(1)).all() for n in sizes)
    most, layers = sizes[-1], len(scores["attention"])
    recall = said[:, :, 0].T  # [run, needle]
    return Finding(
        holds=bool(cheaper and chosen),
        brief=f"{most} of {layers} layers: attention +{cost['attention', most][0].mean():.2f} nats (other layers "
        f"{spread(cost['attention', most][1:])}), MLP +{cost['mlp', most][0].mean():.2f}; recall "
        f"{recall[0].mean():.2f} → {recall[1].mean():.2f}",
        rows=(
            Row("loss, nats per token, nothing dropped", mean(base)),
            *(
                Row(
                    f"rise of the loss, {kind} of the {n} least of {layers} layers dropped",
                    mean(cost[kind, n][0]),
                    "little (half of the layers of 70 billion weights: 2.4 % of performance)"
                    if kind == "attention"
                    else "much more",
                    spread(cost[kind, n][1:]),
                )
                for n in sizes
                for kind in KINDS
            ),
            Row("recall of a hidden answer, nothing dropped", mean(recall[0], needles)),
            Row(
                f"recall, attention of the {most} least layers dropped",
                mean(recall[1], needles),
                control=spread(recall[2:-1]),
            ),
            Row(f"recall, MLP of the {most} least layers dropped", mean(recall[-1], needles)),
        ),
        found=(
            f"Attention {'costs less than MLP' if cheaper else 'does not cost less than MLP'} at every number of "
            f"layers (intervals over passages); the layers with the least S "
            f"{'cost less' if chosen else 'do not always cost less'} than every draw of as many other layers.",
            f"What stays of the loss need not stay of recall: {recall[1].mean():.2f} of {recall[0].mean():.2f} with "
            f"the {most} least attention layers dropped, {recall[2:-1].mean():.2f} with others.",
        ),
        tables=(_layers_table(drops, scores),),
    )  # fmt: skip


def _layers_table(drops: Drops, scores: Scores) -> Table:
    return Table(
        "Layers that are dropped for the least S = 1 - cos(x, x + f(x)), and the largest S among them",
        ("module", "how many", "layers", "S at most"),
        tuple(
            (
                kind,
                str(n),
                ", ".join(map(str, each[0])),
                f"{max(scores[kind][layer] for layer in each[0]):.4f}",
            )
            for (kind, n), each in drops.items()
        ),
    )


CLAIM = Claim(
    claimed="attention layers are redundant, MLPs are not: by similarity of the stream before and after, half of the "
    "attention layers of Llama-2-70B can be dropped for 2.4 % of its performance; dropping MLPs costs far more.",
    data=f"loss: {COUNT} passages of {WIDTH} tokens, {DATA}. Recall: needles {DETECTED_WITH + 1} to "
    f"{DETECTED_WITH + NEEDLES} at {LENGTH} tokens, of the held-out part. Layers are chosen on {TEXTS} windows of the "
    "train part.",
    measure=measure,
    how=(
        "`skip_module`: the attention (or the MLP) of a layer adds nothing to the residual stream, in every row. "
        "Layers are ranked by S as LLM-Drop does (`redundancy`), attention and MLP apart.",
        f"Control: as many layers that were not chosen, {SEEDS} draws; the first layer may be among them.",
        f"{SHARES[0]:.0%} and {SHARES[1]:.0%} of the layers are dropped. The claim holds where the rise of the loss is "
        "less for attention than for MLP at both (interval of the difference over passages), and the least layers' "
        "attention costs less than that of every draw. Recall stands beside it: what loss does not show.",
    ),
    settings={
        "count": COUNT, "width": WIDTH, "seeds": SEEDS, "texts": TEXTS, "shares": SHARES, "needles": NEEDLES,
        "length": LENGTH,
    },
)  # fmt: skip
