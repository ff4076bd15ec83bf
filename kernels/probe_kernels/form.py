"""Forms the block of a chunk for the whole batch and every head at once, edits applied."""

from probe_kernels.block import Block, Inputs, edit_probs, edit_scores, normalise
from probe_kernels.chunks import Chunk, Ground
from probe_kernels.types import Edits


def form(inputs: Inputs, ground: Ground, chunk: Chunk, edits: Edits) -> Block:
    """The block of a chunk for the whole batch and every head, edits applied."""
    batch, heads = inputs.scores.query.shape[:2]
    s = inputs.raw(chunk, ground.layout.query_pos, ground.layout.key_pos)
    s = edit_scores(s, chunk, edits)
    every = slice(0, heads)
    block = normalise(s, chunk, slice(0, batch), every, inputs.sinks(every, chunk.rows))
    return edit_probs(block, edits) if edits.probs else block
