"""Softmax with rotary positions cannot see position alone: of copies of one token, every position is the same."""

from typing import Any

import numpy as np
import torch
from probe_kernels.types import Attended, Want

from probe.experiments.forwards import watch
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import NONE, Finding, Row
from probe.replay.intervals import mean
from probe.replay.passages import passages
from probe.replay.work import Work
from probe.seam.call import Activation, AttentionCall

WIDTH, COUNT, LIMIT = 128, 8, 1e-4
WHAT = (
    "residual stream after the last block",
    "z of every head",
    "pattern: most a row differs from a uniform one",
)


def measure(work: Work) -> Finding:
    """How far rows differ from row 0 for copies of one token, for copies after another token, and for text."""
    plain = work.few(passages(work.model, COUNT, WIDTH))
    draw = np.random.default_rng(work.seed)
    ids = sorted({int(token) for one in plain for token in one.tokens[1:]})
    drawn = [int(token) for token in draw.choice(ids, 2 * len(plain), replace=False)]
    copies, after = [], []
    for number in range(len(plain)):
        token, front = drawn[2 * number : 2 * number + 2]
        copies.append(work.keep(f"copies {number}", _differs, work.model, [token] * WIDTH))
        after.append(work.keep(f"after {number}", _differs, work.model, [front] + [token] * (WIDTH - 1)))
    text = [work.keep(str(one.id), _differs, work.model, list(one.tokens)) for one in plain]
    same, moved, free = (np.asarray(one, np.float64) for one in (copies, after, text))
    largest = float(same[:, :2].max())
    return Finding(
        holds=largest <= LIMIT and float(moved[:, 0].min()) > 100 * LIMIT,
        brief=f"copies of one token: positions differ by at most {largest:.1e} of their norm; after one other token by "
        f"{mean(moved[:, 0])}; in text by {mean(free[:, 0])}; yet rows are not uniform (up to {mean(same[:, 2])} "
        "beside "
        "it)",
        rows=tuple(
            Row(f"{what}, {case}", mean(values[:, at], digits=digits), NONE, mean(free[:, at], digits=3))
            for at, what in enumerate(WHAT)
            for case, values, digits in ((CASES[0], same, 3 if at == 2 else 7), (CASES[1], moved, 3))
        ),
        found=(
            "Equal, to rounding: what enters and leaves every block at every position, every head's z, and so the "
            "logits. "
            "Not equal: the patterns. Rotary positions make a row look more at some distances than at others, but all "
            "values are one vector, so that any weights that sum to 1 give the same z.",
            "One other token in front is enough to break it: then the mass on that token tells how far back it lies. A "
            "beginning-of-sequence token is such a token.",
        ),
    )  # fmt: skip


CASES = ("copies of one token", "copies after one other token")


def _differs(loaded: LoadedModel, ids: list[int]) -> list[float]:
    """Largest relative difference of a later row from the first row of copies: residual stream, z; and from uniform."""
    seen = _Rows(start=0 if ids[0] == ids[1] else 1)
    watch(loaded, Prompt.of_tokens(ids), [seen])
    return [float(seen.resid), float(seen.z), float(seen.uneven)]


class _Rows:
    """An observer of how far rows differ; rows before `start` are left out."""

    points = frozenset({"resid_post"})

    def __init__(self, start: int) -> None:
        self.start = start
        self.resid = self.z = self.uneven = 0.0

    def want(self, call: AttentionCall) -> Want:
        """z, and the largest probability of each row."""
        return Want(z=True, top=True, visible=True)

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """The largest differences of this layer."""
        z, top, visible = attended.z, attended.top_p, attended.visible
        if z is not None and top is not None and visible is not None:
            self.z = max(self.z, _apart(z[0, :, self.start :]))
            self.uneven = max(self.uneven, float((top[0] - 1 / visible[0].clamp_min(1)).max()))

    def activation(self, seen: Activation) -> None:
        """The last block's output, which every other is overwritten by."""
        self.resid = _apart(seen.value[:, self.start :])


def _apart(rows: Any) -> float:
    """Largest ‖row - first row‖ / ‖first row‖ over heads."""
    first = rows[:, :1].double()
    far = torch.linalg.vector_norm(rows.double() - first, dim=-1)
    return float((far / torch.linalg.vector_norm(first, dim=-1).clamp_min(1e-12)).max())


CLAIM = Claim(
    claimed="with relative position embeddings, softmax attention over n copies of one token gives every position the "
    "same "
    "output: position alone cannot be seen (a law).",
    data="eight random tokens of the shipped texts, 128 copies each; beside them eight passages of those texts. "
    "Nothing is "
    "chosen or tuned on them.",
    measure=measure,
    how=(
        "No beginning-of-sequence token is put in front of copies. Differences are the largest over rows (and heads), "
        "relative to the first row.",
        f"The claim holds where copies differ by at most {LIMIT:g} in the residual stream and in z, which is rounding, "
        "and "
        "where one other token in front makes them differ by a hundred times that, so that it could fail. The control "
        "column is ordinary text.",
    ),
    settings={"width": WIDTH, "count": COUNT},
)
