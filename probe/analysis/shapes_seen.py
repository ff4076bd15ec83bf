"""What a model's layers look like, learned from one short forward: heads and widths, never read from a config."""

from dataclasses import dataclass

from probe_kernels.types import Attended, Want

from probe.seam.call import AttentionCall


@dataclass(frozen=True)
class LayerShape:
    """One attention layer: query heads, key/value heads, widths of keys and values."""

    tower: str
    layer: int
    n_heads: int
    n_kv_heads: int
    d_qk: int
    d_v: int

    def kept_bytes(self, n_tokens: int) -> int:
        """Bytes that ``keep="qk"`` writes for a prompt: float16 q and k, float32 lse, four int64 positions."""
        widths = (self.n_heads + self.n_kv_heads) * self.d_qk * 2
        return n_tokens * (widths + self.n_heads * 4 + 4 * 8)


class ShapesSeen:
    """An observer that notes every layer's shape."""

    def __init__(self) -> None:
        self.layers: dict[tuple[str, int], LayerShape] = {}

    def want(self, call: AttentionCall) -> Want:
        """Nothing."""
        return Want(z=False)

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Note the shape of one call."""
        place, scores = call.place, call.scores
        d_qk = 0 if scores is None else int(scores.key.shape[3])
        d_v = 0 if scores is None or scores.value is None else int(scores.value.shape[3])
        shape = LayerShape(place.tower, place.layer, call.n_heads, call.n_kv_heads, d_qk, d_v)
        self.layers[place.tower, place.layer] = shape
