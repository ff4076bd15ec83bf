"""Heterogeneous heads: which heads read something else than the others of their layer (Task-KV)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.errors import UsageError
from probe.experiments.base import Ask, told
from probe.experiments.forwards import watch
from probe.experiments.head_grid import by_prompt, head_grid
from probe.experiments.retrieval_answer import not_applicable
from probe.experiments.seen_rows import cannot_read
from probe.metrics.base import MetricInfo
from probe.metrics.making import at_least, one_of
from probe.report.answer import Answer
from probe.seam.call import AttentionCall

PerHead = Float[np.ndarray, "head"]


class HeterogeneousHeads:
    """Distance of a head's semantic vector from the mean of its layer's, 0 or more, in units of the values.

    c = mean over the last `window` queries of the head's attention, pooled over `kernel` neighbouring tokens; I = the
    `top` tokens with most of it; ``u_h = Σ_{j in I} c_j v_j``; distance = ``‖u_h - mean_h u_h‖``, mean over prompts.
    In layer of depth rank r (of R), ``f(r) = nβ - (nβ - m) / (R - 1) · r`` of n heads, rounded, count as
    heterogeneous: the farthest, and with `nearest` the nearest one too, as the paper's text has it. `extra`:
    ``heterogeneous`` (1 or 0 for each head) and ``count`` (f of each layer).

    He et al. 2025, Task-KV (arXiv:2501.15113); no code is public. Window, top and kernel are theirs, beta and m those
    for Mistral-7B; Llama-2-7B has beta=0.25, m=4. Distances are not divided by norms, and heads that share values
    (GQA) differ by c alone, there as here. Attention is that of the whole prompt: interventions of the call act.

    Args:
        window: last queries whose attention counts.
        top: tokens that make the semantic vector.
        kernel: width of the pooling, odd; 1 = none.
        pool: ``max`` or ``avg``.
        beta: share of heads in the first layer.
        m: heads in the last layer.
        nearest: also count the head nearest to the centre.
        tokens: the shipped text is cut to so many tokens.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="heterogeneous_heads",
        summary="Distance of what a head reads for the last queries from its layer's mean, 0 or more.",
        unit="activation",
        better="high",
        paper="He et al. 2025",
        bibtex="""@misc{he2025task,
  title={Task-{KV}: Task-aware {KV} Cache Optimization via Semantic Differentiation of Attention Heads},
  author={He, Xingyang and Liu, Jie and Chen, Shaowei},
  year={2025},
  eprint={2501.15113},
  archivePrefix={arXiv}
}""",
    )

    def __init__(
        self,
        window: int = 32,
        top: int = 256,
        kernel: int = 7,
        pool: Literal["max", "avg"] = "max",
        beta: float = 0.3,
        m: int = 1,
        nearest: bool = False,
        tokens: int = 1024,
    ) -> None:
        self.spec = self.info.name
        for name, value, low in (("window", window, 1), ("top", top, 1), ("kernel", kernel, 1), ("m", m, 0)):
            at_least(self.spec, name, value, low)
        at_least(self.spec, "tokens", tokens, 1)
        one_of(self.spec, "pool", pool, ("max", "avg"))
        if not 0 <= beta <= 1 or kernel % 2 == 0:
            raise UsageError(
                f"{self.spec}: beta was {beta} and kernel {kernel}; allowed is 0 <= beta <= 1 and an odd kernel"
            )
        self.window, self.top, self.kernel, self.pool = window, top, kernel, pool
        self.beta, self.m, self.nearest, self.tokens = beta, m, nearest, tokens

    def run(self, ask: Ask) -> list[Answer]:
        """One forward per prompt."""
        reason = cannot_read(ask.model)
        if reason:
            return [not_applicable(self.info, self.spec, ask.model, reason)]
        prompts, notes = ask.texts(self.tokens), dict[str, None]()
        grids, tower = [], "decoder"
        for number, prompt in enumerate(prompts):
            ask.tell(number, len(prompts), f"{self.spec}: {prompt.id}")
            seen = _Vectors(self)
            notes |= dict.fromkeys(watch(ask.model, prompt, [seen]))
            grids.append(head_grid(seen.distance))
            tower = seen.tower
        ask.tell(len(prompts), len(prompts), self.spec)
        return [self._answer([one.id for one in prompts], grids, tower, list(notes))]

    def _answer(
        self, names: Sequence[str], grids: Sequence[xr.DataArray], tower: str, notes: Sequence[str]
    ) -> Answer:
        stacked = by_prompt(grids, names)
        mean = grids[0].copy(data=stacked.values.mean(0))
        counts = head_counts([int(n) for n in mean["n_heads"]], self.beta, self.m)
        flags = np.full(mean.shape, np.nan)
        for row, count in enumerate(counts):
            values = mean.values[row, : int(mean["n_heads"][row])]
            flags[row, : len(values)] = farthest(values, count, self.nearest)
        layers = mean["layer"]
        line = (
            f"window={self.window}, top={self.top}, kernel={self.kernel}, pool={self.pool}, beta={self.beta:g}, "
            f"m={self.m}: {int(np.nansum(flags))} of {int(mean['n_heads'].sum())} heads are heterogeneous"
        )
        return Answer(
            **told(self.spec, self.info, tower),
            head_map=mean,
            by_prompt=stacked,
            extra={
                "heterogeneous": mean.copy(data=flags),
                "count": xr.DataArray(np.array(counts), dims=("layer",), coords={"layer": layers.values}),
            },
            notes=(line, *notes),
        )


def head_counts(n_heads: Sequence[int], beta: float, m: int) -> list[int]:
    """f(r) of every layer: from n·beta heads in the first to m in the last, rounded half up, 0 to n."""
    ranks = len(n_heads)
    counts = []
    for rank, n in enumerate(n_heads):
        wanted = n * beta - (n * beta - m) / max(1, ranks - 1) * rank
        counts.append(min(n, max(0, math.floor(wanted + 0.5))))
    return counts


def farthest(distance: PerHead, count: int, nearest: bool) -> PerHead:
    """1 for the `count` heads farthest from the centre (ties by number), and for the nearest one where asked."""
    order = np.argsort(-distance, kind="stable")
    flags = np.zeros(len(distance))
    flags[order[:count]] = 1.0
    if nearest:
        flags[order[-1]] = 1.0
    return flags


def semantic_vectors(
    received: Float[Tensor, "head key"],
    value: Float[Tensor, "kv_head key d_v"],
    top: int,
    kernel: int,
    pool: str,
) -> Float[Tensor, "head d_v"]:
    """u_h: the values of the tokens that receive most, weighed by what they receive after pooling."""
    pooling = torch.nn.functional.max_pool1d if pool == "max" else torch.nn.functional.avg_pool1d
    weight = pooling(received[None], kernel, stride=1, padding=kernel // 2)[0]
    kept = weight.argsort(dim=-1, descending=True, stable=True)[:, :top]  # pooling makes ties: the first win
    weight = torch.zeros_like(weight).scatter_(-1, kept, weight.gather(-1, kept))
    value = value.to(weight.dtype).repeat_interleave(len(weight) // len(value), 0)
    return torch.einsum("hk,hkd->hd", weight, value)


@dataclass
class _Vectors:
    """An observer that gathers each layer's distances."""

    how: HeterogeneousHeads
    distance: dict[int, PerHead] = field(default_factory=dict)
    tower: str = "decoder"

    def want(self, call: AttentionCall) -> Want:
        """Column mass of the last queries."""
        n = call.size[1]
        rows = torch.where(torch.arange(n) >= n - self.how.window, 0, -1)[None].to(torch.int16)
        return Want(z=False, query_groups={f"last {id(self)}": rows.to(call.layout.query_pos.device)})

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """The distances of one layer."""
        if call.place.tower not in ("decoder", "encoder") or call.scores is None or call.scores.value is None:
            return
        self.tower = call.place.tower
        rows = min(self.how.window, call.size[1])
        received = attended.query_groups[f"last {id(self)}"][0, :, 0].double() / rows
        value = call.scores.value[0].double()
        vectors = semantic_vectors(received, value, self.how.top, self.how.kernel, self.how.pool)
        distance = torch.linalg.vector_norm(vectors - vectors.mean(0), dim=-1)
        self.distance[call.place.layer] = distance.cpu().numpy()
