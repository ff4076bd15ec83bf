"""The tables of what masking gave: recall and loss of answers, loss on ordinary text, and continuations."""

from collections.abc import Sequence

import numpy as np

from probe.replay.finding import NONE, Estimate, Table
from probe.replay.intervals import mean, spread
from probe.replay.masked import SEEDS, TOP, Masked
from probe.replay.needles import by_length, lengths_of


def tables(found: Masked) -> tuple[Table, ...]:
    """All three: of the top heads and of their controls, under each kind of masking."""
    return _recall_table(found), _loss_table(found), _choice_table(found)


def _line(masking: str, by_run: np.ndarray, *cells: Estimate | str) -> tuple[str, ...]:
    """One row: of the controls where there are several runs, of the top heads where there is one."""
    heads = f"top {TOP}" if len(by_run) == 1 else f"{TOP} others of the same layers"
    return (masking, heads, *map(str, cells))


def _told(by_run: np.ndarray, groups: Sequence[object] | None = None, digits: int = 2) -> Estimate:
    """An interval for one run, a range for several."""
    return mean(by_run[0], groups, digits) if len(by_run) == 1 else spread(by_run, digits)


def _recall_table(found: Masked) -> Table:
    needles, base = found.needles, found.base
    at = lengths_of(found.prompts)
    lengths = by_length(found.prompts, base.recall[0])
    rows = [("none", NONE, str(_told(base.recall, needles)), *lengths, str(_told(base.loss, needles)))]
    for kind, one in zip(found.kinds, found.recalled, strict=True):
        for runs in (slice(1), slice(1, None)):
            recall, loss = one.recall[runs], one.loss[runs]
            lengths = by_length(found.prompts, recall.mean(0))
            rows.append(_line(kind.name, recall, _told(recall, needles), *lengths, _told(loss, needles)))
    return Table(
        f"Recall of the answer (ROUGE-1) and its loss (nats per token), {len(found.prompts)} prompts of "
        f"{len(set(needles))} needles: mean [95 % interval over needles]; controls: mean over {SEEDS} seeds "
        "(lowest – highest)",
        ("masking", "heads", "recall", *(f"{length} tokens" for length in at), "answer loss"),
        tuple(rows),
    )


def _loss_table(found: Masked) -> Table:
    base = found.ordinary.base
    rows: list[tuple[str, ...]] = [("none", NONE, str(mean(base, digits=3)), NONE)]
    for kind, runs in zip(found.kinds, found.ordinary.edited, strict=True):
        for part in (runs[:1], runs[1:]):
            rows.append(_line(kind.name, part, _told(part, digits=3), _told(part - base, digits=3)))
    return Table(
        f"Loss on ordinary text, nats per token, {len(base)} passages of {found.ordinary.width} tokens: mean "
        "[95 % interval over passages]; controls as above",
        ("masking", "heads", "loss", "change"),
        tuple(rows),
    )


def _choice_table(found: Masked) -> Table:
    told = found.continued
    rows: list[tuple[str, ...]] = [
        ("none", NONE, str(mean(told.right)), str(mean(told.loss, digits=3)), NONE)
    ]
    for kind, (loss, right) in zip(found.kinds, told.kinds, strict=True):
        for runs in (slice(1), slice(1, None)):
            some, rise = loss[runs], loss[runs] - told.loss
            rows.append(
                _line(kind.name, some, _told(right[runs]), _told(some, digits=3), _told(rise, digits=3))
            )
    return Table(
        f"Continuations, {len(told.loss)} choices: how often the true one of four has the lowest loss, and its loss "
        "in nats per token: mean [95 % interval over choices]; controls as above",
        ("masking", "heads", "true one chosen", "its loss", "change"),
        tuple(rows),
    )
