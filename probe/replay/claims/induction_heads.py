"""Masking induction heads costs where a text says again what it said before, and little where it does not."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.analysis.analyze import analyze
from probe.experiments.forwards import losses
from probe.interventions import zero
from probe.models import LoadedModel
from probe.prompts import Prompt, repeated_tokens
from probe.replay.claim import Claim
from probe.replay.finding import NONE, Estimate, Finding, Row, Table
from probe.replay.heads import Controls, by_head, highest
from probe.replay.intervals import mean, spread
from probe.replay.passages import DATA, passages
from probe.replay.work import Work

TOP, SEEDS, COUNT, HALF = 10, 5, 8, 64
HELD_OUT = 1000  # seed of the repeated tokens that heads are tested on; they are found on those of seed 0
KINDS = ("random tokens", "ordinary text")


@dataclass(frozen=True)
class Said:
    """What masking adds on one kind of input, and whether the claim holds there."""

    rows: tuple[Row, ...]
    shown: tuple[str, ...]
    holds: bool
    brief: str


def measure(work: Work) -> Finding:
    """Loss that masking the top induction heads adds in the first and in the second saying, beside controls."""
    scores = work.once("induction on repeated tokens", _scores, work.model)
    top = highest(scores, TOP)
    controls = Controls.of(zero(top), top, SEEDS, work.model, work.seed)
    edits = [zero(top), *(zero(heads) for heads in controls.heads)]
    found = {kind: _of_kind(work, kind, edits) for kind in KINDS}
    holds = [one.holds for one in found.values()]
    said = ", ".join(f"{kind}: {'holds' if one.holds else 'does not hold'}" for kind, one in found.items())
    return Finding(
        holds=all(holds),
        brief="; ".join(one.brief for one in found.values()),
        rows=tuple(row for one in found.values() for row in one.rows),
        found=(f"By input: {said}.",),
        but="" if len(set(holds)) == 1 else f"; {said}",
        tables=(
            Table(
                f"Loss without edits, and what the top {TOP} add: mean [95 % interval over prompts]",
                (
                    "input",
                    "first saying",
                    "second saying",
                    "added above controls, second",
                    "second less first",
                ),
                tuple(one.shown for one in found.values()),
            ),
        ),
        how=_told(controls, scores),
        heads=tuple(top),
    )


def _of_kind(work: Work, kind: str, edits: list[Any]) -> Said:
    prompts = work.few(_prompts(work, kind))
    found = np.asarray([work.keep(f"{kind}: {one.id}", _halves, work.model, one, edits) for one in prompts])
    added = found[:, 1:] - found[:, :1]  # prompt, edit, half
    first, second = mean(added[:, 0, 0], digits=3), mean(added[:, 0, 1], digits=3)
    random = [spread(added[:, 1:, half].T, 3) for half in (0, 1)]
    more = mean(added[:, 0, 1] - added[:, 1:, 1].mean(1), digits=3)
    where = mean(added[:, 0, 1] - added[:, 0, 0], digits=3)
    return Said(
        rows=(
            Row(f"{kind}: loss added in the second saying, nats per token", second, NONE, random[1]),
            Row(f"{kind}: loss added in the first saying", first, NONE, random[0]),
        ),
        shown=(kind, *(f"{value:.2f}" for value in found[:, 0].mean(0)), str(more), str(where)),
        holds=_above(more) and _above(where),
        brief=f"{kind} said again: {second.value:+.2f} nats (controls {random[1].value:+.2f}), first saying "
        f"{first.value:+.2f}",
    )


def _scores(loaded: LoadedModel) -> dict[str, float]:
    """Induction score of every head on the metric's own prompts: repeated random tokens, seed 0."""
    return by_head(analyze(loaded, None, ["induction"], seed=0)["induction"])


def _prompts(work: Work, kind: str) -> list[Prompt]:
    """Prompts that say the same `HALF` tokens twice: random ones, or the start of a passage."""
    tokenizer = work.model.tokenizer
    if kind == KINDS[0]:
        return repeated_tokens(tokenizer, length=HALF, count=COUNT, seed=HELD_OUT + work.seed)
    made = []
    for one in passages(work.model, COUNT, HALF + 1):
        front = 1 if one.spans["bos"].any() else 0
        said = list(one.tokens[front : front + HALF])
        made.append(Prompt.of_tokens([*one.tokens[:front], *said, *said], tokenizer, id=one.id))
    return made


def _halves(loaded: LoadedModel, prompt: Prompt, edits: list[Any]) -> list[list[float]]:
    """By run (none, then each edit): mean loss of the first and of the second saying, without their first tokens."""
    start = len(prompt.tokens) - 2 * HALF
    rows = []
    for one in [[], *([edit] for edit in edits)]:
        loss = losses(loaded, prompt, one).numpy()[start:]
        rows.append([float(loss[1:HALF].mean()), float(loss[HALF + 1 :].mean())])
    return rows


def _above(one: Estimate) -> bool:
    return one.low is not None and one.low > 0


def _told(controls: Controls, scores: dict[str, float]) -> tuple[str, ...]:
    lines = []
    for seed, heads in zip(controls.seeds, controls.heads, strict=True):
        own = [scores.get(head, 0.0) for head in heads]
        lines.append(
            f"Control {seed}: {', '.join(heads)}; induction scores: mean {np.mean(own):.3f}, highest {max(own):.3f}."
        )
    return tuple(lines)


CLAIM = Claim(
    claimed="induction heads copy what followed an earlier occurrence of the current token; they are the main source "
    "of in-context learning: knocking them out takes it away, and little else (shown for small attention-only models).",
    data=f"{COUNT} prompts of {HALF} random tokens said twice, of other seeds than those that heads are found on (held "
    f"out); and the first {HALF} tokens of {COUNT} passages said twice, {DATA}.",
    measure=measure,
    how=(
        f"The {TOP} heads with the highest `induction` score on its own prompts (four of 128 random tokens said twice, "
        "seed 0), at most half of a layer's, give zero in every row.",
        "Loss is the mean over a saying, its first token left out: nothing before it tells it.",
        f"Controls: as many other heads of the same layers, {SEEDS} draws; the range is over draws.",
        "The claim holds on an input where the loss that masking adds in the second saying is above the mean of the "
        "controls' and above what it adds in the first, both by the whole interval over prompts; and as a whole where "
        "it does on both inputs.",
    ),
    settings={"top": TOP, "seeds": SEEDS, "count": COUNT, "half": HALF, "held out": HELD_OUT},
)
