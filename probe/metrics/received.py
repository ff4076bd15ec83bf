"""Attention received: what the queries that can see a token give it, and how peaked that is over tokens."""

from typing import ClassVar

import torch
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.metrics.base import Cell, MetricInfo, wanted
from probe.metrics.token_metric import TokenMetric, TokenSums
from probe.seam.call import AttentionCall

_NOISE = 1e-5  # spread, relative to the largest value, below which float32 sums cannot tell the values apart


class Received(TokenMetric):
    """Kurtosis over tokens of the attention they receive (no unit, -2 or more; high = few tokens receive most of it).

    Token map: r_j = Σ_i p_ij / (queries that see j), in [0, 1]. Head: Fisher's biased kurtosis m4/m2² - 3 of r over
    the tokens of a prompt, averaged over prompts; undefined where all tokens receive the same.

    Bogdan et al., "Thought Anchors: Which LLM Reasoning Steps Matter?", 2025 (receiver heads).

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> to_first = torch.zeros(1, 6, 6)
    >>> to_first[:, :, 0] = 1
    >>> on_pattern(Received(), to_first).round(6)  # one token of six receives all
    array([1.2])
    """

    info: ClassVar = MetricInfo(
        name="received",
        summary="Kurtosis over tokens of attention received per query that can see them, -2 or more, no unit.",
        unit="kurtosis",
        better="high",
        paper="Bogdan et al. 2025",
        bibtex="""@misc{bogdan2025thought,
  title={Thought Anchors: Which LLM Reasoning Steps Matter?},
  author={Bogdan, Paul C. and Macar, Uzay and Nanda, Neel and Conmy, Arthur},
  year={2025},
  eprint={2506.19143},
  archivePrefix={arXiv}
}""",
        per_token=True,
    )
    need: ClassVar = Want(z=False, column=True)

    def tokens(self, call: AttentionCall, attended: Attended) -> TokenSums:
        """Column mass, and how many real queries see each key."""
        column, seen_by = wanted(attended.column, "column"), wanted(attended.seen_by, "column")
        return TokenSums(column, seen_by.expand(len(column), -1), call.key_index)

    def head(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """Kurtosis of the token map; weight 1, or 0 where it is undefined."""
        seen = cell["token_weight"] > 0
        value = kurtosis(self.token(cell)[:, seen])
        return value.nan_to_num(0.0), (~value.isnan()).to(torch.float64)


def kurtosis(values: Tensor) -> Tensor:
    """Fisher's biased kurtosis over the last axis, as ``scipy.stats.kurtosis``; NaN where the values do not differ."""
    if values.shape[-1] == 0:
        return values.new_full(values.shape[:-1], torch.nan)
    centred = values - values.mean(-1, keepdim=True)
    variance = centred.square().mean(-1)
    differs = variance.sqrt() > _NOISE * values.abs().amax(-1)
    return torch.where(
        differs, centred.pow(4).mean(-1) / variance.clamp_min(1e-300).square() - 3.0, torch.nan
    )
