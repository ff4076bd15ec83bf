"""Rotary positions prefer what is near; the causal mask alone does not."""

from typing import ClassVar

import numpy as np
import torch
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.metrics.answering import answers
from probe.metrics.base import MetricInfo, wanted
from probe.metrics.row_metric import RowMetric
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.readouts.evaluating import evaluating
from probe.replay.claim import Claim
from probe.replay.finding import NONE, Finding, Row, Table
from probe.replay.intervals import interval, mean
from probe.replay.passages import DATA, passages
from probe.replay.work import Work
from probe.seam.call import AttentionCall
from probe.seam.session import Session

WIDTH, COUNT, FROM = 256, 8, 16
KINDS = ("rotary", "equal")


class RelativeDistance(RowMetric):
    """Mean distance of a row's attention over that of a uniform row: 1 is uniform, below 1 is near.

    The first key is left out of both unless `sinks`.
    """

    info: ClassVar = MetricInfo(
        "relative_distance", "Distance over a uniform row's.", "ratio", "high", "", ""
    )
    need: ClassVar = Want(z=False, distance=True, first=(1,), visible=True)

    def __init__(self, *, sinks: bool) -> None:
        super().__init__()
        self.sinks = sinks

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Rows from `FROM` on that keep some mass beside the first key."""
        distance, first = wanted(attended.distance, "distance"), attended.first[1]
        at = (wanted(attended.visible, "visible") - 1)[:, None].to(distance.dtype)  # keys before the query
        if self.sinks:
            score, weight = distance / (at / 2).clamp_min(1), torch.ones_like(distance)
        else:
            rest = (1 - first).clamp_min(1e-6)
            score = (distance - first * at) / rest / ((at - 1) / 2).clamp_min(1)
            weight = (first < 0.999).to(distance.dtype)
        rows: Tensor = call.query_real & (at[:, 0] >= FROM)
        self.add(call, score * weight, rows, weight)


def measure(work: Work) -> Finding:
    """Relative distance on shuffled tokens, positions as they are and all equal, the first key left out and not."""
    prompts = work.few(passages(work.model, COUNT, WIDTH))
    found = np.asarray(
        [work.keep(str(one.id), _by_kind, work.model, one, work.seed) for one in prompts], np.float64
    )
    rotary, equal = (np.nanmean(found[:, 0, at], (1, 2)) for at in range(2))
    with_sinks = [np.nanmean(found[:, 1, at], (1, 2)) for at in range(2)]
    near, rises = interval(1 - rotary)[0] > 0, interval(equal - rotary)[0] > 0
    alone = interval(equal)
    return Finding(
        holds=bool(near and rises),
        brief=f"relative distance {mean(rotary)} with rotary positions, {mean(equal)} with equal ones (uniform: 1), "
        "first "
        f"key left out; {mean(with_sinks[0])} and {mean(with_sinks[1])} with it",
        rows=(
            Row("relative distance, rotary positions, first key left out", mean(rotary), NONE, "1 (uniform rows)"),
            Row("relative distance, equal positions, first key left out", mean(equal), NONE, "1 (uniform rows)"),
            Row("equal minus rotary, text by text", mean(equal - rotary)),
            *(Row(f"relative distance, {kind} positions, first key included", mean(values), NONE, "1 (uniform rows)")
              for kind, values in zip(KINDS, with_sinks, strict=True)),
        ),
        found=(
            f"With equal positions only the causal mask tells order: the mean is {mean(equal)}; "
            + ("1 is inside the interval." if alone[0] <= 1 <= alone[1] else "1 is outside the interval, so it is not "
               f"exactly uniform: attention lies {'farther' if alone[0] > 1 else 'nearer'} than that."),
        ),
        tables=(_table(found[:, 0]),),
    )  # fmt: skip


def _by_kind(loaded: LoadedModel, prompt: Prompt, seed: int) -> list[list[list[list[float]]]]:
    """Without and with the first key, for rotary and equal positions: relative distance [layer, head]."""
    ids = np.array(prompt.tokens)
    start = int(prompt.bos)
    np.random.default_rng(seed).shuffle(ids[start:])
    tokens = torch.from_numpy(ids)[None].to(loaded.device)
    order = torch.arange(len(ids), device=loaded.device)[None]
    by_kind = []
    for positions in (order, torch.zeros_like(order)):
        metrics = [RelativeDistance(sinks=sinks) for sinks in (False, True)]
        with evaluating(loaded.model), torch.no_grad(), Session(loaded.model, metrics):
            # The mask is given: without one, positions that do not count up would be read as packed sequences.
            loaded.model(
                input_ids=tokens, position_ids=positions, attention_mask=torch.ones_like(tokens),
                logits_to_keep=1, use_cache=False,
            )  # fmt: skip
        by_kind.append([answers(one)[0].head_map.values.round(5).tolist() for one in metrics])
    return [[kind[at] for kind in by_kind] for at in range(2)]


def _table(found: np.ndarray) -> Table:
    layers = range(0, found.shape[2], max(1, found.shape[2] // 10))
    return Table(
        f"Relative distance, mean over a layer's heads, first key left out, {len(found)} texts: mean [95 % interval]",
        ("layer", *(f"{kind} positions" for kind in KINDS)),
        tuple((str(n), *(str(mean(np.nanmean(found[:, at, n], -1))) for at in range(2))) for n in layers),
    )


CLAIM = Claim(
    claimed="rotary position embeddings make attention prefer near tokens even where content says nothing; the causal "
    "mask "
    "alone does not.",
    data=f"{COUNT} passages of {WIDTH} tokens, {DATA}; their tokens are shuffled, so that content is no reason to look "
    "near.",
    measure=measure,
    how=(
        "Relative distance: mean of query position less key position under a row's attention, over that of a row that "
        f"looks at all visible keys alike (so length is divided out); rows from {FROM} on, mean over rows and heads. "
        "The "
        "first key, a sink, is left out and rows renormalised; rows that have less than 0.001 beside it do not count.",
        "Equal positions: every token gets position 0, so that rotation cancels; the mask is unchanged.",
        "The claim holds where rotary attention is nearer than uniform and nearer than with equal positions (both "
        "intervals "
        "over texts). The model was not trained with equal positions.",
    ),
    settings={"width": WIDTH, "count": COUNT, "from": FROM},
)
