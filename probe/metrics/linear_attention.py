"""Linear attention on a model's own q, k and v: what a head would give without its softmax."""

import torch
from jaxtyping import Float
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.errors import MetricError
from probe.metrics.effective_rank import EffectiveRank
from probe.seam.call import AttentionCall

CHUNK = 64  # rows at a time: inside a chunk the map is whole, before it the state d×d stands for all keys


def linear_attention(
    query: Float[Tensor, "batch head token d"],
    key: Float[Tensor, "batch kv_head token d"],
    value: Float[Tensor, "batch kv_head token d_v"],
) -> Float[Tensor, "batch head token d_v"]:
    """Causal linear attention with the feature map φ(x) = ELU(x) + 1, float32 or wider.

    ``z_i = Σ_{j≤i} φ(q_i)·φ(k_j) v_j / Σ_{j≤i} φ(q_i)·φ(k_j)``; scores are not scaled. In chunks: no n×n map is made.
    Katharopoulos et al., "Transformers are RNNs", ICML 2020.
    """
    group = query.shape[1] // key.shape[1]
    wide = torch.promote_types(query.dtype, torch.float32)
    q = torch.nn.functional.elu(query.to(wide)) + 1.0
    k = (torch.nn.functional.elu(key.to(wide)) + 1.0).repeat_interleave(group, 1)
    ones = value.new_ones(*value.shape[:-1], 1, dtype=wide)
    v = torch.cat([value.to(wide), ones], -1).repeat_interleave(group, 1)  # the last column sums the weights
    state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    parts = []
    for start in range(0, q.shape[2], CHUNK):
        at = slice(start, start + CHUNK)
        inside = (q[:, :, at] @ k[:, :, at].transpose(-1, -2)).tril() @ v[:, :, at]
        parts.append(q[:, :, at] @ state + inside)
        state = state + k[:, :, at].transpose(-1, -2) @ v[:, :, at]
    summed = torch.cat(parts, dim=2)
    return summed[..., :-1] / summed[..., -1:]


class LinearRank(EffectiveRank):
    """`EffectiveRank` of what linear attention would give on the same q, k and v: a comparison, in no table.

    Only for plain causal attention over a whole prompt without padding, where no window hides a key; elsewhere it is
    not applicable, and says why. Give an instance to `analyze` or `observe`: ``metrics=[LinearRank()]``.
    """

    need = Want(z=False)

    def __init__(self, centred: bool = False) -> None:
        super().__init__(centred=centred)
        self.spec = "linear_" + self.spec

    def applies(self, call: AttentionCall) -> str | None:
        """Why linear attention would not see the same keys; None where it does."""
        if call.scores is None or call.scores.value is None or call.scores.sinks is not None:
            return "linear attention needs q, k and v, and has no learned sink"
        _, n_query, n_key = call.size
        whole = call.causal and n_query == n_key and not call.layout.mask.any_of
        hidden = not (bool(call.query_real.all()) and bool(call.key_real.all()))
        if not whole or hidden or call.layout.query_segment is not None or not _sees_all(call):
            return "linear attention is compared over whole prompts with plain causal attention alone"
        return None

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Fold linear attention's outputs of real rows."""
        if call.scores is None or call.scores.value is None:
            raise MetricError(f"{self.spec} was asked; {call.place.module} gave no q, k and v")
        scores, value = call.scores, call.scores.value
        with torch.no_grad():
            z = linear_attention(scores.query, scores.key, value)
        self.fold(call, {"z": (z, call.query_real)})


def _sees_all(call: AttentionCall) -> bool:
    """Whether the last row sees every key: then no window hides one from any row."""
    last, first = int(call.layout.query_pos.max()), int(call.layout.key_pos.min())
    for rule in call.layout.mask.all_of:
        seen_from = rule.full(last, last)[0] if rule.full is not None else last
        if seen_from is not None and seen_from > first:
            return False
    return True
