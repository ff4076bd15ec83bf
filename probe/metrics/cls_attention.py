"""CLS attention: what the token that stands for the whole reads from each of the others."""

from collections.abc import Callable
from typing import ClassVar

import torch
from probe_kernels.types import Attended, Want
from torch import Tensor, nn

from probe.metrics.base import Cell, MetricInfo
from probe.metrics.cls_token import no_cls, vision_has_cls
from probe.metrics.token_metric import TokenMetric, TokenSums
from probe.seam.call import AttentionCall


class ClsAttention(TokenMetric):
    """Probability that the CLS token's row gives to the other tokens, in [0, 1].

    Token map: p_{CLS,j}, undefined at CLS itself; its mean over the heads of a layer ranks patches as FasterVLM does
    (there the second last vision layer). Head: the sum of its token map, 1 less what CLS keeps for itself; mean over
    prompts. Text encoders whose tokenizer puts a CLS token first, and vision towers with a learned first token; others
    are not applicable.

    Zhang et al. 2024, [CLS] Attention is All You Need for Training-Free Visual Token Pruning (arXiv:2412.01818).

    >>> ClsAttention().info.per_token
    True
    """

    info: ClassVar = MetricInfo(
        name="cls_attention",
        summary="Probability that the CLS token gives to the other tokens, in [0, 1].",
        unit="probability",
        better="high",
        paper="Zhang et al. 2024",
        bibtex="""@misc{zhang2024cls,
  title={[{CLS}] Attention is All You Need for Training-Free Visual Token Pruning: Make {VLM} Inference Faster},
  author={Zhang, Qizhe and Cheng, Aosong and Lu, Ming and Zhuo, Zhiyong and Wang, Minqi and Cao, Jiajun and
          Guo, Shaobo and She, Qi and Zhang, Shanghang},
  year={2024},
  eprint={2412.01818},
  archivePrefix={arXiv}
}""",
        per_token=True,
    )

    def __init__(self) -> None:
        super().__init__()
        self._vision = False

    def prepare(self, model: nn.Module) -> Callable[[], None]:
        """Look whether a vision tower has a learned first token."""
        self._vision = vision_has_cls(model)
        return lambda: None

    def applies(self, call: AttentionCall) -> str | None:
        """Only where every sequence starts with a CLS token."""
        return super().applies(call) or no_cls(call, self._vision)

    def asks(self, call: AttentionCall) -> Want:
        """Column mass from the row of CLS alone."""
        rows = torch.where(call.query_index == 0, 0, -1).to(torch.int16)
        return Want(z=False, query_groups={self.own: rows})

    def tokens(self, call: AttentionCall, attended: Attended) -> TokenSums:
        """The row of CLS, and weight 1 for every other token."""
        row = attended.query_groups[self.own]
        row = row[:, :, 0] if row.shape[2] else row.new_zeros(*row.shape[:2], row.shape[-1])
        return TokenSums(row, call.key_index > 0, call.key_index)

    def head(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """Sum of the token map; weight 1."""
        total = self.token(cell).nansum(-1)
        return total, torch.ones_like(total)
