"""Extreme tokens grow by training alone: sink and drained value in one layer, a residual peak in three."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from probe.experiments.bigram_backcopy import ROWS, Backcopied, Training, train
from probe.experiments.bigram_backcopy import measure as measured
from probe.prompts.bigram_backcopy import BigramBackcopy
from probe.replay.claim import Claim
from probe.replay.finding import NONE, Finding, Row, Table
from probe.replay.intervals import interval, mean
from probe.replay.work import Work

MODELS = {1: Training(layers=1, steps=800), 3: Training(layers=3, length=48, steps=2600)}
COUNT = 64
SAID = {1: "one layer", 3: "three layers"}
DO = {"trigger": "copy", "other": "do not copy"}


def measure(work: Work) -> Finding:
    """Train both models and measure them on fresh sequences, beside the same models before training."""
    found: dict[tuple[int, bool], dict[str, np.ndarray]] = {}
    for layers, training in MODELS.items():
        how = replace(training, seed=work.seed, steps=40 if work.small else training.steps)
        for trained in (True, False):
            key = f"{layers} layers, {'trained' if trained else 'untrained'}"
            values = work.keep(key, _measured, replace(how, steps=how.steps if trained else 1))
            found[layers, trained] = {name: np.array(one) for name, one in values.items()}
    one, three, raw = found[1, True], found[3, True], found[1, False]
    gap = (one["sink other"] - one["sink trigger"])[:, 0]
    sink, drain = interval(gap)[0] > 0, interval(1 - one["drain"][:, 0])[0] > 0
    at = int(three["peak"].mean(0).argmax())
    deep, flat = three["peak"][:, at], one["peak"][:, 0]
    peak, only = interval(deep - 1)[0] > 0, interval(deep - flat)[0] > 0
    return Finding(
        holds=bool(sink and drain and peak and only),
        brief=f"one layer: mass on BOS {mean(one['sink other'][:, 0])} at rows with nothing to copy, "
        f"{mean(one['sink trigger'][:, 0])} at rows that copy; ‖v_0‖ {mean(one['drain'][:, 0])} of the others'; "
        "residual "
        f"peak {mean(flat)} in one layer, {mean(deep)} in three",
        rows=(
            _row("mass on BOS at rows that do not copy", one, raw, "sink other"),
            _row("mass on BOS at rows that copy", one, raw, "sink trigger", "about 0"),
            _row("value norm of BOS over the others'", one, raw, "drain", "about 0"),
            _row("residual norm of BOS over the others', output", one, raw, "peak"),
            _row(f"the same, output of layer {at}", three, found[3, False], "peak", layer=at),
            *(
                Row(
                    f"{SAID[layers]}: loss above the best possible, rows that {DO[rows]}",
                    mean(found[layers, True][f"excess {rows}"], digits=3),
                )
                for layers in MODELS
                for rows in ROWS
            ),
        ),
        found=_words(sink=sink, drain=drain, peak=peak and only),
        tables=(_table(three),),
    )  # fmt: skip


def _measured(how: Training) -> dict[str, Any]:
    task = BigramBackcopy.of()
    found: Backcopied = measured(train(task, how), task, COUNT, how.length)
    flat = {
        f"{name} {rows}": values
        for name in ("sink", "gap", "excess")
        for rows, values in getattr(found, name).items()
    }
    return {
        name: np.round(one, 6).tolist()
        for name, one in {**flat, "drain": found.drain, "peak": found.peak}.items()
    }


def _row(
    what: str,
    found: dict[str, np.ndarray],
    raw: dict[str, np.ndarray],
    name: str,
    paper: str = NONE,
    layer: int = 0,
) -> Row:
    values, before = found[name], raw[name]
    return Row(f"{SAID[values.shape[1]]}: {what}", mean(values[:, layer]), paper, mean(before[:, layer]))


def _words(*, sink: bool, drain: bool, peak: bool) -> tuple[str, ...]:
    said = {True: "is there", False: "is not there"}
    return (
        f"One layer: the sink {said[sink]}, the drained value {said[drain]}. Three layers: the residual peak "
        f"{said[peak]}, "
        "after far fewer steps than the paper takes; its height there grows with training, so this is a lower bound.",
        "One training run each: intervals are over fresh sequences, not over runs.",
    )


def _told(how: Training) -> str:
    return f"{SAID[how.layers]}: {how.steps} steps of {how.batch} × {how.length} tokens, rate {how.rate:g}"


def _table(three: dict[str, np.ndarray]) -> Table:
    names = ("sink other", "sink trigger", "drain", "peak")
    return Table(
        "Three layers, by layer: mean [95 % interval over sequences]",
        (
            "layer",
            "mass on BOS, rows that do not copy",
            "rows that copy",
            "value norm",
            "residual norm, output",
        ),
        tuple((str(n), *(str(mean(three[name][:, n])) for name in names)) for n in range(3)),
    )


CLAIM = Claim(
    claimed="a small transformer trained on Bigram-Backcopy with softmax and Adam grows an attention sink at BOS on "
    "rows "
    "where nothing is to be copied, and drains its value, in one layer already; a residual peak comes in deeper "
    "models.",
    data="characters drawn from the bigrams of the shipped haystack's train part (the paper: tiny Shakespeare); "
    "sequences "
    "that are measured are drawn with another seed than those of the training.",
    measure=measure,
    how=(
        "This claim trains its own models; the model named here is not looked at. One and three layers of one head, "
        "width "
        "64, rotary positions, gated MLP, AdamW: "
        + "; ".join(_told(one) for one in MODELS.values())
        + ". The paper: width 256, 10 000 steps of 512 × 256, rate 3e-4.",
        f"Triggers are the three most frequent characters. Intervals are over {COUNT} sequences. The control is the "
        "same "
        "model after one step.",
        "The claim holds where, in one layer, mass on BOS is higher at rows that do not copy and its value is shorter "
        "than "
        "the others', and where in three layers its residual norm is above the others' and above that in one layer.",
    ),
    settings={"models": [asdict(one) for one in MODELS.values()], "count": COUNT},
)  # fmt: skip
