"""What makes the patterns of a run, kept layer by layer: queries, keys, and how they lie."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Float, Int
from probe_kernels import pattern_block
from probe_kernels.types import Attended, Layout, Scores, Want
from torch import Tensor

from probe.errors import UnsupportedAttentionError
from probe.interventions.target import Target
from probe.seam.call import AttentionCall

Layer = tuple[str, int]  # module and layer: one module may be several layers


@dataclass(frozen=True)
class KeptPattern:
    """One layer's attention for one sequence, its pattern not formed yet."""

    scores: Scores
    layout: Layout
    query_at: Int[Tensor, "query"]  # storage row of each real query
    key_at: Int[Tensor, "key"]  # storage column of each real key
    sink_mass: Float[Tensor, "head query_pos"] | None  # of a learned sink, by storage row

    def rows(self, index: Int[Tensor, "row"], heads: Sequence[int]) -> Float[Tensor, "chosen row key"]:
        """Rows of the pattern by real-token number (ascending), over all real keys; memory is that of the rows."""
        n_keys = int(self.scores.key.shape[2])
        at = self.query_at[index]
        return pattern_block(self.scores, self.layout, at, slice(0, n_keys), heads=heads)[0][..., self.key_at]


@dataclass
class KeepPatterns:
    """Observer that keeps queries, keys and layouts of every call of the target's layers."""

    target: Target
    layers: dict[Layer, list[KeptPattern]] = field(default_factory=dict)

    def want(self, _call: AttentionCall) -> Want:
        """Nothing beyond what every sweep gives (the mass of learned sinks is among it)."""
        return Want(z=False)

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Keep one call."""
        if not self.target.covers(call.place):
            return
        if call.scores is None:
            raise UnsupportedAttentionError(
                f"{call.place.module} bypasses transformers' attention registry, so its queries cannot be kept"
            )
        scores = _detached(call.scores)
        key = (call.place.module, call.place.layer)
        # Rows that are no prompts (tiles of an image) come several to a call.
        for row in range(call.size[0]):
            sinks = attended.sink_mass
            self.layers.setdefault(key, []).append(
                KeptPattern(
                    _of_row(scores, row),
                    call.layout if call.size[0] == 1 else _layout_of_row(call.layout, row),
                    (call.query_index[row] >= 0).nonzero()[:, 0],
                    (call.key_index[row] >= 0).nonzero()[:, 0],
                    None if sinks is None else sinks[row].detach(),
                )
            )


def _detached(scores: Scores) -> Scores:
    return replace(
        scores,
        query=scores.query.detach(),
        key=scores.key.detach(),
        value=None,
        sinks=None if scores.sinks is None else scores.sinks.detach(),
        bias=None if scores.bias is None else scores.bias.detach(),
    )


def _of_row(scores: Scores, row: int) -> Scores:
    if len(scores.query) == 1:
        return scores
    bias, sinks = scores.bias, scores.sinks
    return replace(
        scores,
        query=scores.query[row : row + 1],
        key=scores.key[row : row + 1],
        bias=bias if bias is None or bias.shape[0] == 1 else bias[row : row + 1],
        sinks=sinks if sinks is None or sinks.ndim == 1 or len(sinks) == 1 else sinks[row : row + 1],
    )


def _layout_of_row(layout: Layout, row: int) -> Layout:
    """One row of a layout; positions and flags are kept whole, as the mask may tell rows apart."""
    names = ("query_pos", "key_pos", "query_segment", "key_segment", "query_real", "key_real")
    tensors = {name: getattr(layout, name) for name in names}
    cut = {name: one[row : row + 1] for name, one in tensors.items() if one is not None and len(one) > 1}
    return replace(layout, **cut)
