"""What a dormant head gives is nothing: taking it away is harmless there, and costs elsewhere."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from probe.experiments.folding import fold
from probe.experiments.forwards import losses
from probe.interventions import drop, zero
from probe.metrics.answering import answers
from probe.metrics.making import make
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.prompts.domains import domain_texts
from probe.replay.claim import Claim
from probe.replay.finding import NONE, Finding, Row, Table
from probe.replay.heads import Controls, by_head, highest
from probe.replay.intervals import interval, mean, spread
from probe.replay.work import Work

WIDTH, TOP, SEEDS, TRAIN = 64, 8, 3, 4
EDITS = ("the heads' whole output (zero)", "what they take from the first token (drop)")


def measure(work: Work) -> Finding:
    """Loss of held-out texts with the heads that rest most taken away, and with as many others of the same layers."""
    named = _texts(work)
    train, held = (
        [one for one in named if (int(str(one.id).split(":")[1]) < TRAIN) == kind] for kind in (True, False)
    )
    held = work.few(held)
    mass = work.keep("sink mass of heads", _mass, work.model, work.few(train))
    top = highest(mass, TOP)
    controls = Controls.of(zero(top), top, SEEDS, work.model, work.seed)
    groups = [top, *controls.heads]
    runs = [*(zero(heads) for heads in groups), *(drop("all", (0, 1), heads) for heads in groups)]
    kept = [work.keep(str(one.id), _by_run, work.model, one, runs) for one in held]
    values = np.asarray(kept).T  # run, text
    rise = (values[1:] - values[0]).reshape(len(EDITS), len(groups), -1)
    rows, lines, holds = list[Row](), list[str](), True
    for what, one in zip(EDITS, rise, strict=True):
        gap = one[1:].mean(0) - one[0]
        cheaper = interval(gap)[0] > 0
        holds &= cheaper or what != EDITS[0]
        rows.append(
            Row(
                f"change of the loss, nats per token: without {what}",
                mean(one[0], digits=3),
                NONE,
                spread(one[1:], 3),
            )
        )
        lines.append(
            f"Without {what}: others minus dormant heads, text by text: {mean(gap, digits=3)}; the dormant heads' own "
            f"change is {mean(one[0], digits=3)}, {_size(one[0])}."
        )
    own = [np.mean([mass[head] for head in heads]) for heads in groups]
    zeroed = rise[0]
    return Finding(
        holds=bool(holds),
        brief=f"loss {mean(zeroed[0], digits=3)} nats without the {TOP} heads that rest most (mass on the first token "
        f"{own[0]:.2f}), {spread(zeroed[1:], 3)} without {TOP} others of their layers ({np.mean(own[1:]):.2f})",
        rows=tuple(rows),
        found=tuple(lines),
        tables=(_table(held, rise),),
        how=(
            f"Dormant: the {TOP} heads with the most mass on the first token on the other texts, at most half of a "
            "layer's: " + ", ".join(f"{head} {mass[head]:.2f}" for head in top) + ".",
            *(f"Control {seed}: {', '.join(heads)}; mean mass on the first token {number:.2f}."
              for seed, heads, number in zip(controls.seeds, controls.heads, own[1:], strict=True)),
        ),
        heads=tuple(top),
    )  # fmt: skip


def _texts(work: Work) -> list[Prompt]:
    return [
        Prompt.of(text, work.model.tokenizer, id=f"{domain}:{number}").truncate(WIDTH)
        for domain, some in domain_texts().items()
        for number, text in enumerate(some)
    ]


def _mass(loaded: LoadedModel, prompts: Sequence[Prompt]) -> dict[str, float]:
    metric = make("sink")
    fold(loaded, prompts, [metric])
    return by_head(answers(metric)[0].head_map)


def _by_run(loaded: LoadedModel, prompt: Prompt, runs: Sequence[Any]) -> list[float]:
    return [float(losses(loaded, prompt, edits).nanmean()) for edits in ([], *([one] for one in runs))]


def _size(rise: np.ndarray) -> str:
    low, high = interval(rise)
    return "not told from 0" if low <= 0 <= high else f"not 0: the loss {'rises' if low > 0 else 'falls'}"


def _table(held: Sequence[Prompt], rise: np.ndarray) -> Table:
    label = np.array([str(one.id).split(":")[0] for one in held])
    rows = []
    for what, one in zip(EDITS, rise, strict=True):
        for name in dict.fromkeys(label):
            own = label == name
            rows.append((what, str(name), str(mean(one[0][own], digits=3)), str(spread(one[1:][:, own], 3))))
    title = "Change of the loss, nats per token, by domain: mean [95 % interval over texts]; controls: lowest – highest"
    return Table(title, ("taken away", "domain", f"{TOP} dormant heads", f"{TOP} others"), tuple(rows))


CLAIM = Claim(
    claimed="a dormant head puts its mass on a sink token whose value is drained, so it adds nothing: removing it "
    "leaves "
    "the loss unchanged. Removing a head where it is active raises the loss.",
    data="heads are chosen on the first four texts of each domain (story, code, JSON, lists of "
    "`datasets/domains.jsonl`), "
    "the loss is measured on the other four, which stand for the held-out part.",
    measure=measure,
    how=(
        f"Texts are cut to {WIDTH} tokens. `zero` takes the heads' output; `drop` takes only what they get from the "
        "first "
        "token, rows not renormalised.",
        f"A control takes away as many other heads of the same layers, {SEEDS} draws.",
        "The claim holds where zeroing the dormant heads costs less than zeroing the controls: the interval over texts "
        "of "
        "the difference is above 0. Whether it costs nothing at all is told beside it.",
    ),
    settings={"width": WIDTH, "top": TOP, "seeds": SEEDS},
)
