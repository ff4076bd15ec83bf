"""Sink logit gap: how far the score of a row's first key lies above the mean of the others."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from probe_kernels import score_block
from probe_kernels.types import Attended, Scores, Want
from torch import Tensor

from probe.errors import MetricError
from probe.metrics.base import MetricInfo
from probe.metrics.making import one_of
from probe.metrics.papers import GUO_2024
from probe.metrics.row_metric import RowMetric
from probe.seam.call import AttentionCall
from probe.shapes import RowStat

_BLOCK_NUMBERS = 2**22  # scores of a block of rows


class SinkLogitGap(RowMetric):
    """Mean over rows of the first key's score less the mean score of the others, in nats (any sign).

    Δ_i = s_{i,0} - mean_{1<=j<i} s_ij, over rows with such a j (``mean="others"``: the paper's toy model);
    ``mean="all"`` takes the mean over every visible key, key 0 and the row's own included (the authors' notebooks),
    over rows that see two keys or more. Key 0 is the first key that the row sees. s is what the softmax is given,
    before any intervention.

    Under a plain causal mask s̄_i = scale·q_i·mean(k), by prefix sums of k, in O(n·d). Softcap, bias, ALiBi, windows
    and packed rows have no such form: there the scores are formed block of rows by block of rows, exactly, which costs
    one more product of q and k and never holds n×n of them.

    Guo et al., "Active-Dormant Attention Heads", 2024.

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> twice = torch.ones(1, 5, 5)
    >>> twice[:, :, 0] = 2
    >>> on_pattern(SinkLogitGap(), twice).round(4)  # ln 2
    array([0.6931])
    """

    info: ClassVar = MetricInfo(
        name="sink_logit_gap",
        summary="Mean of a row's score on its first key less its mean score on the others, in nats.",
        unit="nats",
        better="high",
        paper="Guo et al. 2024",
        bibtex=GUO_2024,
        needs=frozenset({"positions", "values"}),
    )
    need: ClassVar = Want(z=False)

    def __init__(self, mean: Literal["others", "all"] = "others") -> None:
        super().__init__(mean=mean)
        one_of("sink_logit_gap", "mean", mean, ("others", "all"))
        self.others = mean == "others"

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Add the gaps of the rows that have one to each prompt's cell."""
        if call.scores is None:
            raise MetricError(f"{self.spec} was asked; {call.place.module} was given no q and k")
        with torch.no_grad():
            if _plain(call):
                gap, count = _by_prefix(call, call.scores, self.others)
            else:
                gap, count = _by_rows(call, call.scores, self.others)
        counts = count >= (1 if self.others else 2)
        self.add(call, gap.masked_fill(~counts, 0.0), call.query_real, counts.to(gap.dtype))


def _plain(call: AttentionCall) -> bool:
    """Whether scores are scale·q·k and every query sees exactly the real keys up to itself, in order."""
    scores, layout = call.scores, call.layout
    if scores is None or scores.softcap is not None or scores.bias is not None or scores.alibi is not None:
        return False
    packed = layout.query_segment is not None or layout.key_segment is not None
    return layout.mask.names == ("causal",) and not packed and bool((layout.key_pos.diff(dim=-1) > 0).all())


def _by_prefix(call: AttentionCall, scores: Scores, others: bool) -> tuple[RowStat, RowStat]:
    """Gap of each row, and of how many keys its mean is."""
    batch, n_query, n_key = call.size
    real = call.key_real
    key = scores.key.double().masked_fill(~real[:, None, :, None], 0.0)
    query_pos = call.layout.query_pos.expand(batch, -1).contiguous()
    key_pos = call.layout.key_pos.expand(batch, -1).contiguous()
    last = torch.searchsorted(key_pos, query_pos, right=True) - 1  # the query's own key, in storage
    at = last.clamp(0, n_key - 1)

    def of_rows(keys: Float[Tensor, "batch kv_head key_pos d"]) -> Float[Tensor, "batch kv_head query_pos d"]:
        return keys.gather(2, at[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3]))

    total, count = of_rows(key.cumsum(2)), real.long().cumsum(1).gather(1, at)
    front = real.long().argmax(1)
    first = key.gather(2, front[:, None, None, None].expand(-1, key.shape[1], 1, key.shape[3]))
    if others:
        total, count = total - first - of_rows(key), count - 2
    count = count.masked_fill(last < 0, 0).clamp_min(0)
    # The gap is linear in k: one product with (k_0 - mean k) of each row gives it.
    apart = first - total / count.clamp_min(1)[:, None, :, None]
    query = scores.query.double() * scores.scale
    query = query.reshape(batch, key.shape[1], -1, n_query, query.shape[-1])
    gap: Tensor = torch.linalg.vecdot(query, apart[:, :, None]).flatten(1, 2)
    return gap.float(), count[:, None].expand(-1, gap.shape[1], n_query).float()


def _by_rows(call: AttentionCall, scores: Scores, others: bool) -> tuple[RowStat, RowStat]:
    """The same from the scores themselves, block of rows by block of rows."""
    layout, (batch, n_query, n_key) = call.layout, call.size
    step = max(1, _BLOCK_NUMBERS // (batch * call.n_heads * n_key))
    gaps, counts = [], []
    for start in range(0, n_query, step):
        rows = slice(start, min(start + step, n_query))
        own = layout.query_pos[:, rows, None] == layout.key_pos[:, None]
        block = score_block(scores, layout, rows, slice(0, n_key))
        gap, count = _of_block(block, own[:, None] if others else None)
        gaps.append(gap)
        counts.append(count)
    return torch.cat(gaps, dim=2), torch.cat(counts, dim=2).float()


def _of_block(
    s: Float[Tensor, "batch head rows keys"], own: Bool[Tensor, "b 1 rows keys"] | None
) -> tuple[Float[Tensor, "batch head rows"], Int[Tensor, "batch head rows"]]:
    seen = s > -torch.inf
    first = seen.to(torch.uint8).argmax(-1, keepdim=True)
    counted = seen if own is None else (seen & ~own).scatter(-1, first, False)
    count = counted.sum(-1)
    mean = s.masked_fill(~counted, 0.0).sum(-1) / count.clamp_min(1)
    return s.gather(-1, first)[..., 0] - mean, count
