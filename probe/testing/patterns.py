"""Known patterns: attention whose answer can be written down, given to a metric as it would come from a model."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import UsageError
from probe.metrics.answering import answers
from probe.metrics.base import Metric
from probe.testing.feeding import Sample, feed

LENGTH = 16  # tokens of a known pattern: eight different ones, then the same eight again
PATTERNS = ("uniform", "first", "self", "previous", "duplicate", "induction")

_NEVER = -1e4  # a logit whose probability is exactly 0


def known_pattern(name: str) -> Float[Tensor, "1 query_pos key_pos"]:
    """One head over `LENGTH` tokens: uniform over the visible keys, or all mass on one key of each row.

    ``first``: the first key. ``self``: the query. ``previous``: the token before (row 0: itself). ``duplicate`` and
    ``induction``: the earlier occurrence, or the token after it (rows of the first half: themselves).
    """
    if name not in PATTERNS:
        raise UsageError(f"pattern {name!r} was asked; known: {', '.join(PATTERNS)}")
    if name == "uniform":
        return torch.ones(1, LENGTH, LENGTH)
    row = torch.arange(LENGTH)
    half = LENGTH // 2
    target = {
        "first": torch.zeros_like(row),
        "self": row,
        "previous": (row - 1).clamp_min(0),
        "duplicate": torch.where(row < half, row, row - half),
        "induction": torch.where(row < half, row, row - half + 1),
    }[name]
    return torch.nn.functional.one_hot(target, LENGTH).float()[None]


def on_pattern(
    metric: Metric,
    pattern: Float[Tensor, "head query_pos key_pos"],
    *,
    tokens: Sequence[int] | None = None,
    spans: Mapping[str, Sequence[bool]] | None = None,
    values: Float[Tensor, "kv_head key_pos d_v"] | None = None,
) -> np.ndarray:
    """A metric's value per head on causal attention of the given shape; one value for a metric of layers.

    Args:
        metric: A fresh metric.
        pattern: Weights of each row; keys after the query are ignored and rows are scaled to sum to 1.
        tokens: Token ids; all different unless given.
        spans: Named spans over the tokens.
        values: Value vectors; one number 1 per key unless given.

    Raises:
        UsageError: a row with no weight on a key it can see.
    """
    heads, length, _ = pattern.shape
    seen = pattern.double().tril()
    if bool((seen.sum(-1) <= 0).any()):
        raise UsageError(
            "a pattern was given with a row that looks at no visible key; give every row some weight"
        )
    values = torch.ones(1, length, 1) if values is None else values
    query = torch.where(seen > 0, seen.clamp_min(1e-300).log(), _NEVER)
    key = torch.eye(length, dtype=torch.float64).expand(values.shape[0], -1, -1)
    ids = torch.arange(length) if tokens is None else torch.tensor(tokens)
    flags = {name: torch.tensor(list(one), dtype=torch.bool) for name, one in (spans or {}).items()}
    sample = Sample(query[None], key[None], values.double()[None], ids, flags)
    answer = answers(feed(metric, [sample]), by_prompt=False, tokens=False)[0]
    return np.atleast_1d(answer.head_map.values[0])[:heads]
