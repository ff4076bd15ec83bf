"""Which attention a metric may speak about: the reasons for "not applicable", in one place."""

from typing import Literal

from probe.seam.call import AttentionCall

# positions: queries and keys lie in one sequence, so that distances mean something.
# values: q, k, v or z, which the eager fallback does not give.
# tokens: token ids and spans, which embeddings and pixels do not have.
Need = Literal["positions", "values", "tokens"]


def reason_against(call: AttentionCall, *, causal_only: bool, needs: frozenset[Need]) -> str | None:
    """Why a metric with these needs says nothing about a call; None where it applies."""
    tower = call.place.tower
    if tower == "cross" and (causal_only or needs & {"positions", "tokens"}):
        return "cross-attention reads another sequence, so distances and matches between query and key mean nothing"
    if causal_only and not call.causal:
        return "attention is bidirectional, and the metric is defined for causal attention"
    if "values" in needs and call.scores is None:
        return "the model gave only its attention weights (eager fallback), not q, k, v or z"
    if "tokens" in needs and call.batch.tokens is None:
        return "the model was given no token ids (embeddings or pixels)"
    if "tokens" in needs and tower not in {"decoder", "encoder"}:
        return f"the {tower} tower does not read the prompt's tokens"
    return None
