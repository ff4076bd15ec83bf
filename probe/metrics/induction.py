"""Induction heads: how much a row looks at the token after an earlier occurrence of its own token."""

from typing import Any, ClassVar

from probe_kernels.types import Match

from probe.metrics.base import MetricInfo
from probe.metrics.detector import TokenDetector
from probe.metrics.matching import after_same_token
from probe.prompts import Prompt, repeated_tokens
from probe.seam.call import AttentionCall


class Induction(TokenDetector):
    """Share of a head's mass on tokens that follow an earlier occurrence of the query's token, in [0, 1].

    Σ(A ⊙ P) / ΣA with P_ij = 1 where x_i = x_{j-1} and j <= i; equal to TransformerLens's detector (`mul`, nothing
    excluded). See `TokenDetector` for `norm` and coverage. Text repeats little: prefer repeated random tokens.

    Olsson et al., "In-context Learning and Induction Heads", 2022.

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> induction = torch.zeros(1, 4, 4)
    >>> induction[0, [0, 1, 2, 3], [0, 0, 1, 2]] = 1
    >>> on_pattern(Induction(), induction, tokens=[7, 8, 7, 8])  # two rows of four have something to copy
    array([0.5])
    >>> on_pattern(Induction(norm="matched"), induction, tokens=[7, 8, 7, 8])
    array([1.])
    """

    info: ClassVar = MetricInfo(
        name="induction",
        summary="Share of attention on tokens that follow an earlier occurrence of the query's token, in [0, 1].",
        unit="share",
        better="high",
        paper="Olsson et al. 2022",
        bibtex="""@article{olsson2022context,
  title={In-context Learning and Induction Heads},
  author={Olsson, Catherine and Elhage, Nelson and Nanda, Neel and Joseph, Nicholas and DasSarma, Nova and
          Henighan, Tom and Mann, Ben and others},
  journal={Transformer Circuits Thread},
  year={2022}
}""",
        causal_only=True,
        needs=frozenset({"tokens"}),
    )

    def default_prompts(self, tokenizer: Any, limit: int | None, seed: int) -> list[Prompt]:
        """Seeded repeated random tokens, of at most `limit` tokens: the input where nobody gave one."""
        length = 128 if limit is None else max(1, min(128, limit // 2 - 1))
        return repeated_tokens(tokenizer, length=min(length, len(tokenizer) // 2), seed=seed)

    def target(self, call: AttentionCall) -> Match:
        """Keys after a key with the query's token."""
        return after_same_token(call)
