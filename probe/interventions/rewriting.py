"""Scores that are put in the place of the model's own, so that a row becomes exactly the softmax of them."""

from probe_kernels.types import Edits
from torch import Tensor

from probe.errors import UnsupportedAttentionError
from probe.interventions.editing import Change, edit_probs, edit_scores
from probe.interventions.target import Target
from probe.interventions.widening import joined
from probe.seam.call import AttentionCall


def rewrite_scores(target: Target, call: AttentionCall, change: Change) -> Edits:
    """Rows that are the softmax of `change`'s scores over visible keys alone, whatever bias and learned sink.

    A learned sink keeps no mass: the keys' probabilities are scaled up to sum to 1. `change` may leave hidden keys at
    any value. A row that sees no key stays empty.
    """
    if call.scores is None:
        raise UnsupportedAttentionError(f"{call.place.module}: there are no scores to rewrite in this call")
    sinks = call.scores.sinks
    heads = list(target.heads_of(call))

    def rewritten(block: Tensor, rows: slice, keys: slice) -> Tensor:
        hidden = block == float("-inf")
        made = change(block, rows, keys)
        if sinks is not None:
            # A constant per row changes no softmax of keys; level with the sink, no key's mass is lost to rounding.
            level = sinks[heads][None, :, None] if sinks.ndim == 1 else sinks[:, heads, rows]
            top = made.masked_fill(hidden, float("-inf")).amax(-1, keepdim=True)
            made = made - top.nan_to_num(0.0, neginf=0.0) + level[..., None].to(made.dtype)
        return made.masked_fill(hidden, float("-inf"))

    edits = edit_scores(target, call, rewritten)
    return edits if sinks is None or not edits.scores else joined(edits, without_sink(target, call))


def without_sink(target: Target, call: AttentionCall) -> Edits:
    """Rows scaled up to sum to 1 with no mass left on a learned sink."""

    def whole(p: Tensor, _rows: slice, _keys: slice) -> Tensor:
        mass = p.sum(-1, keepdim=True)
        return p / mass.masked_fill(mass == 0, 1.0)

    return edit_probs(target, call, whole, sink=0.0)
