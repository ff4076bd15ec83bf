"""Heads masked in two ways: what the runs gave, and the words for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.prompts import Prompt
from probe.replay.finding import NONE, Finding, Row, Table
from probe.replay.intervals import interval, mean, spread
from probe.replay.needles import needle_of
from probe.replay.ordinary import Losses

TOP, SEEDS = 10, 5
PAPER = "uniform over the cache, decode only"
MASKED = "below 0.50 (50 heads)"


@dataclass(frozen=True)
class Kind:
    """One way of masking: the edit of the top heads, those of the controls, and the first row that they touch."""

    name: str
    edit: Any
    others: tuple[Any, ...]
    rows: int | None  # None: decode steps alone


@dataclass(frozen=True)
class Recalled:
    """ROUGE-1 recall and answer loss by run (the edit, then its controls) and prompt."""

    recall: np.ndarray
    loss: np.ndarray


@dataclass(frozen=True)
class Continued:
    """Loss of the true continuation, and whether it is chosen among four; by kind ``[run, choice]``."""

    loss: np.ndarray
    right: np.ndarray
    kinds: tuple[tuple[np.ndarray, np.ndarray], ...]

    @classmethod
    def of(cls, loss: np.ndarray, right: np.ndarray, kinds: int) -> "Continued":
        """Run 0 is unedited; as many runs of each kind follow it."""
        width = (len(loss) - 1) // kinds
        cuts = [slice(1 + width * at, 1 + width * (at + 1)) for at in range(kinds)]
        return cls(loss[0], right[0], tuple((loss[cut], right[cut]) for cut in cuts))


@dataclass(frozen=True)
class Masked:
    """All that masking gave: recall by kind, loss on ordinary text, and continuations."""

    prompts: tuple[Prompt, ...]
    kinds: tuple[Kind, ...]
    base: Recalled
    recalled: tuple[Recalled, ...]
    ordinary: Losses
    continued: Continued

    @property
    def needles(self) -> list[str]:
        """The needle of every prompt: intervals of recall are over needles."""
        return [needle_of(prompt) for prompt in self.prompts]


def finding(
    found: Masked, tables: tuple[Table, ...], how: tuple[str, ...], heads: tuple[str, ...]
) -> Finding:
    """Whether recall falls under every kind of masking, and what it costs ordinary text."""
    rows = [Row("recall of the answer, nothing masked", mean(found.base.recall[0], found.needles))]
    lines, brief, held, dear = list[str](), list[str](), list[bool](), list[str]()
    for number, (kind, one) in enumerate(zip(found.kinds, found.recalled, strict=True)):
        loss = found.ordinary.edited[number]
        rise = loss - found.ordinary.base
        rows += [*_rows(kind, one, rise, found.needles), _choice_row(kind, found.continued, number)]
        lost, words = _recall_words(kind, one, found)
        held.append(lost)
        lines += [
            words,
            f"{kind.name}, ordinary text: {_loss_words(loss, found.ordinary.base)}",
            _continued_words(kind, found.continued, number),
        ]
        if interval(loss[0] - loss[1:].mean(0))[0] > 0:
            dear.append(kind.name)
        brief.append(_brief(kind, one, rise))
    more = f" for recall; loss on ordinary text rises more than with controls ({', '.join(dear)})"
    return Finding(
        holds=all(held),
        brief=f"unedited: recall {found.base.recall.mean():.2f}; {'; '.join(brief)}",
        rows=tuple(rows),
        found=tuple(lines),
        but=more if dear and all(held) else "",
        tables=tables,
        how=how,
        heads=heads,
    )


def _brief(kind: Kind, one: Recalled, rise: np.ndarray) -> str:
    means, rises = one.recall.mean(1), rise.mean(1)
    return (
        f"{kind.name}: recall {means[0]:.2f} (controls {means[1:].mean():.2f}), loss on ordinary text "
        f"{rises[0]:+.3f} nats (controls {rises[1:].mean():+.3f})"
    )


def _rows(kind: Kind, one: Recalled, rise: np.ndarray, needles: Sequence[str]) -> list[Row]:
    return [
        Row(
            f"recall of the answer, top {TOP} masked ({kind.name})",
            mean(one.recall[0], needles),
            paper=MASKED if kind.name == PAPER else NONE,
            control=spread(one.recall[1:]),
        ),
        Row(
            f"change of the loss on ordinary text, nats per token ({kind.name})",
            mean(rise[0], digits=3),
            control=spread(rise[1:], 3),
        ),
    ]


def _choice_row(kind: Kind, found: Continued, number: int) -> Row:
    loss, _ = found.kinds[number]
    rise = loss - found.loss
    return Row(
        f"change of the loss of a true continuation, nats per token ({kind.name})",
        mean(rise[0], digits=3),
        control=spread(rise[1:], 3),
    )


def _recall_words(kind: Kind, one: Recalled, found: Masked) -> tuple[bool, str]:
    gap, means = one.recall[0] - one.recall[1:].mean(0), one.recall.mean(1)
    lost = bool(interval(gap, found.needles)[1] < 0 and means[0] < means[1:].min())
    return lost, (
        f"{kind.name}: recall {means[0]:.2f} with the top {TOP}, {means[1:].mean():.2f} with controls "
        f"({means[1:].min():.2f} at the lowest), {found.base.recall.mean():.2f} without an edit; top minus controls, "
        f"prompt by prompt: {mean(gap, found.needles)}. The claim {'holds' if lost else 'does not hold'} here."
    )


def _loss_words(runs: np.ndarray, base: np.ndarray) -> str:
    rise, other = runs[0] - base, (runs[1:] - base).mean(0)
    gap = rise - other
    low, high = interval(gap)
    alike = "the interval holds 0: alike" if low <= 0 <= high else "the interval leaves out 0: not alike"
    return (
        f"the loss changes by {rise.mean():.3f} nats with the top {TOP} and by {other.mean():.3f} with controls; the "
        f"difference, passage by passage: {mean(gap, digits=3)} ({alike})."
    )


def _continued_words(kind: Kind, found: Continued, number: int) -> str:
    loss, right = found.kinds[number]
    gap = loss[0] - loss[1:].mean(0)
    return (
        f"{kind.name}, continuations: the true one is chosen in {right[0].mean():.2f} of the cases with the top {TOP}, "
        f"{right[1:].mean():.2f} with controls, {found.right.mean():.2f} without an edit; its loss changes by "
        f"{mean(loss[0] - found.loss, digits=3)} nats, minus controls {mean(gap, digits=3)}."
    )
