"""The arrays that can be captured: their axes, their unit, and what a missing key means."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of array: axes after ``layer``, in glossary words, and what it holds."""

    axes: tuple[str, ...]
    summary: str
    fill: float | None = None  # value at keys that a row was never given (later ones): what hidden keys have

    @property
    def head_axis(self) -> str | None:
        """``head``, ``kv_head``, or None where there is no head."""
        return self.axes[0] if self.axes[0] in ("head", "kv_head") else None

    @property
    def row_axis(self) -> str | None:
        """``query_pos`` or ``token``; None for keys and values."""
        return next((axis for axis in self.axes if axis in ("query_pos", "token")), None)


KINDS: dict[str, Kind] = {
    "pattern": Kind(("head", "query_pos", "key_pos"), "probability after the softmax, 0..1, float32", 0.0),
    "scores": Kind(
        ("head", "query_pos", "key_pos"),
        "q·k × scale, softcapped and biased, before the softmax; -inf where hidden; float32",
        float("-inf"),
    ),
    "lse": Kind(("head", "query_pos"), "log Σ e^score over visible keys and a learned sink, nats, float32"),
    "z": Kind(("head", "query_pos", "d_head"), "the head's output before W_O"),
    "head_out": Kind(
        ("head", "query_pos", "d_model"), "what the head adds through its slice of W_O, without bias"
    ),
    "q": Kind(("head", "query_pos", "d_head"), "queries as the scores see them (after RoPE and norms)"),
    "k": Kind(("kv_head", "key_pos", "d_head"), "keys as the scores see them, not repeated over the group"),
    "v": Kind(("kv_head", "key_pos", "d_head"), "values, not repeated over the group"),
    "resid_pre": Kind(("token", "d_model"), "the residual stream as the block gets it"),
    "resid_post": Kind(("token", "d_model"), "the residual stream as the block leaves it"),
    "mlp_out": Kind(("token", "d_model"), "what the block's MLP returns"),
}

POINTS = frozenset({"resid_pre", "resid_post", "mlp_out"})
