"""As full attention is taken from more and more layers, loss stays and recall goes."""

from typing import Any

import numpy as np

from probe.experiments.forwards import losses
from probe.interventions import make
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import NONE, Estimate, Finding, Row, Table
from probe.replay.forced import DEPTHS, distance_of, far_needles, forced_recall
from probe.replay.intervals import interval, mean
from probe.replay.passages import DATA, passages
from probe.replay.work import Work

SHARES = (8 / 30, 15 / 30, 22 / 30, 1.0)  # of the layers: 8, 15, 22 and all of 30
HALF = 1  # which of them the verdict is about
SINKS, RECENT, LENGTH, NEEDLES, PASSAGES, WIDTH = 4, 128, 600, 6, 4, 512
Found = dict[str, tuple[np.ndarray, np.ndarray]]  # recall by needle and loss by passage, by name of the run
FLAT = 0.05  # loss that is flat rises by less than this share of itself


def measure(work: Work) -> Finding:
    """Recall of far needles and loss on ordinary text, with a window in some layers: spread evenly, or drawn."""
    layers = _depth(work.model)
    even = {f"{len(one)} of {layers}": one for one in _even(layers)}
    drawn = {
        name: _drawn(layers, len(one), work.seed + at)
        for at, (name, one) in enumerate(even.items())
        if len(one) < layers
    }
    runs = [[], *map(_edits, even.values()), *map(_edits, drawn.values())]
    runs.append([make(f"pattern:keep=sliding:window={SINKS + RECENT}")])
    needles = work.few(far_needles(work.model, NEEDLES, LENGTH, work.seed))
    texts = work.few(passages(work.model, PASSAGES, WIDTH))
    recall = np.asarray([work.keep(f"needle {one.id}", _recalls, work.model, one, runs) for one in needles]).T
    loss = np.asarray([work.keep(f"loss {one.id}", _losses, work.model, one, runs) for one in texts]).T
    names = ["none", *even, *(f"{name}, drawn" for name in drawn), f"{layers} of {layers}, no first tokens"]
    found = {name: (recall[at], loss[at]) for at, name in enumerate(names)}
    away = [distance_of(one) for one in needles]
    return _finding(found, list(even), drawn, f"{min(away)} to {max(away)}")


def _finding(found: Found, even: list[str], drawn: dict[str, tuple[int, ...]], away: str) -> Finding:
    base, half = found["none"], found[even[HALF]]
    lost = interval(half[0] - base[0])[1] < 0
    rise = float((half[1] - base[1]).mean())
    flat = rise < FLAT * float(base[1].mean())
    rows = [Row("recall of a far needle, full attention", mean(base[0]))]
    rows += [
        Row(f"recall, window in {name} layers", mean(found[name][0]), NONE, _control(found, name, 0))
        for name in even
    ]
    rows += [
        Row(
            f"change of the loss on ordinary text, nats per token, window in {name} layers",
            mean(found[name][1] - base[1], digits=3),
            NONE,
            _control(found, name, 1),
        )
        for name in even
    ]
    told = [
        f"{name}: recall {found[name][0].mean():.2f}, loss {found[name][1].mean():.3f}"
        for name in ("none", *even)
    ]
    return Finding(
        holds=bool(lost and flat),
        brief=f"layers with a window: {'; '.join(told)}",
        rows=tuple(rows),
        found=(
            f"With a window in {even[HALF]} layers: recall {half[0].mean():.2f} after {base[0].mean():.2f} "
            f"({'it falls' if lost else 'it does not fall beyond its interval'}), loss {half[1].mean():.3f} after "
            f"{base[1].mean():.3f} ({'flat' if flat else 'not flat'}: the bound is {FLAT:.0%}).",
            f"The answer lies {away} tokens before the end of the prompt; the window holds {RECENT}.",
        ),
        tables=(_table(found, drawn),),
    )


def _control(found: Found, name: str, part: int) -> Estimate | str:
    """The same for as many drawn layers: recall, or the change of the loss."""
    other = found.get(f"{name}, drawn")
    if other is None:
        return NONE
    return mean(other[0]) if part == 0 else mean(other[1] - found["none"][1], digits=3)


def _table(found: Found, drawn: dict[str, tuple[int, ...]]) -> Table:
    rows = [(name, str(mean(one[0])), str(mean(one[1], digits=3))) for name, one in found.items()]
    where = "; ".join(f"{name}: {', '.join(map(str, one))}" for name, one in drawn.items())
    return Table(
        f"Recall (over {NEEDLES} needles) and loss on ordinary text (over {PASSAGES} passages), by layers with a "
        f"window. Drawn layers: {where}",
        ("layers with a window", "recall", "loss"),
        tuple(rows),
    )


def _depth(loaded: LoadedModel) -> int:
    config: Any = loaded.model.config
    return int(config.get_text_config().num_hidden_layers)


def _even(layers: int) -> list[tuple[int, ...]]:
    """For each share, so many layers, evenly spaced."""
    counts = [round(share * layers) for share in SHARES]
    return [tuple(sorted({int((at + 0.5) * layers / count) for at in range(count)})) for count in counts]


def _drawn(layers: int, count: int, seed: int) -> tuple[int, ...]:
    return tuple(sorted(np.random.default_rng(seed).choice(layers, count, replace=False).tolist()))


def _edits(layers: tuple[int, ...]) -> list[Any]:
    named = "+".join(map(str, layers))
    return [make(f"pattern:keep=sink_recent:sinks={SINKS};recent={RECENT},layers={named}")] if layers else []


def _recalls(loaded: LoadedModel, prompt: Prompt, runs: list[list[Any]]) -> list[float]:
    return [forced_recall(loaded, prompt, edits)[0] for edits in runs]


def _losses(loaded: LoadedModel, prompt: Prompt, runs: list[list[Any]]) -> list[float]:
    return [float(losses(loaded, prompt, edits)[1:].mean()) for edits in runs]


CLAIM = Claim(
    claimed="how much a model can recall falls with the memory that it is left with, while its loss hardly tells: "
    "models that have full attention in few layers, or in none, come close in perplexity and stay behind in recall.",
    data=f"{NEEDLES} held-out needles in {LENGTH} tokens at depths {DEPTHS[0]} and {DEPTHS[1]}; {PASSAGES} passages "
    f"of {WIDTH} tokens, {DATA}.",
    measure=measure,
    how=(
        f"A window keeps the first {SINKS} tokens and the last {RECENT} in some layers; no weights are trained for "
        "it, as those of the paper's models are. Layers with a sliding window of their own are among them.",
        "Recall is the share of the answer's tokens that are the first choice, each after the true ones. Intervals "
        "are over needles, and over passages.",
        "The control takes as many layers drawn at random: what counts may be how many, or which.",
        "The claim holds where, with a window in half of the layers, recall falls (interval of the difference below "
        f"0) and the loss rises by less than {FLAT:.0%}.",
    ),
    settings={"window": [SINKS, RECENT], "length": LENGTH, "needles": NEEDLES, "passages": [PASSAGES, WIDTH]},
)
