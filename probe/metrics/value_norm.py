"""Norm of the value vectors: heads drain the values of tokens that serve as sinks."""

from typing import ClassVar

import torch
from probe_kernels.types import Attended, Want

from probe.errors import MetricError
from probe.metrics.base import MetricInfo
from probe.metrics.token_metric import TokenMetric, TokenSums
from probe.seam.call import AttentionCall


class ValueNorm(TokenMetric):
    """Mean Euclidean norm of a head's value vectors over real tokens, 0 or more, in units of the activations.

    Token map: ‖v_j‖. Each key counts once, however many steps of a KV cache see it. Query heads that share a
    key/value head share its number.

    Guo et al., "Active-Dormant Attention Heads", 2024 (value-state drain).

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> on_pattern(ValueNorm(), torch.ones(1, 3, 3), values=torch.tensor([[[3.0, 4.0]] * 3]))
    array([5.])
    """

    info: ClassVar = MetricInfo(
        name="value_norm",
        summary="Mean Euclidean norm of a head's value vectors, 0 or more, in units of the activations.",
        unit="activation",
        better="high",
        paper="Guo et al. 2024",
        bibtex="""@misc{guo2024active,
  title={Active-Dormant Attention Heads: Mechanistically Demystifying Extreme-Token Phenomena in LLMs},
  author={Guo, Tianyu and Pai, Druv and Bai, Yu and Jiao, Jiantao and Jordan, Michael I. and Mei, Song},
  year={2024},
  eprint={2410.13835},
  archivePrefix={arXiv}
}""",
        per_token=True,
        needs=frozenset({"values"}),
    )
    need: ClassVar = Want(z=False)

    def tokens(self, call: AttentionCall, attended: Attended) -> TokenSums:
        """Norms of the keys that no earlier call has counted."""
        if call.scores is None or call.scores.value is None:
            raise MetricError(
                f"{self.spec} was asked; {call.place.module} was given no values: leave this metric out"
            )
        norm = torch.linalg.vector_norm(call.scores.value.float(), dim=-1)
        index = call.key_index
        counted = [len(self.cell(call, row).get("token_weight", ())) for row in range(len(index))]
        new = index >= torch.tensor(counted, device=index.device)[:, None]
        norm = norm.repeat_interleave(call.n_heads // call.n_kv_heads, dim=1)
        return TokenSums(norm, new.to(norm.dtype), index.masked_fill(~new, -1))
