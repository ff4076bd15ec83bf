"""From calibrated attention per token to scores of documents, and to their ranking."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from probe.experiments.query_rows import Example


def document_scores(
    calibrated: Float[np.ndarray, "*head token"], documents: Sequence[np.ndarray], drop: float = 2.0
) -> Float[np.ndarray, "document *head"]:
    """Sum over the tokens of each document, without those below its mean − `drop` · its standard deviation.

    The deviation is unbiased, and each head and document has its own; `drop` = 0 keeps every token, and a document of
    one token keeps it.

    >>> document_scores(np.array([0.0, 1.0, 1.0, 1.0, 1.0, 1.0, -9.0]), [np.arange(7) > 0], drop=2.0)
    array([5.])
    """
    scores = []
    for flags in documents:
        values = calibrated[..., flags]
        if drop > 0 and values.shape[-1] > 1:
            bound = values.mean(-1, keepdims=True) - drop * values.std(-1, ddof=1, keepdims=True)
            values = np.where(values >= bound, values, 0.0)
        scores.append(values.sum(-1))
    return np.stack(scores)


def gold_scores(
    calibrated: dict[int, Float[np.ndarray, "head token"]], example: Example, drop: float
) -> dict[int, Float[np.ndarray, "head"]]:
    """Per layer and head, the sum of the scores of the documents that answer."""
    return {
        layer: document_scores(values, example.documents, drop)[list(example.gold)].sum(0)
        for layer, values in calibrated.items()
    }


def summed_scores(
    calibrated: dict[int, Float[np.ndarray, "head token"]],
    heads: Sequence[tuple[int, int]],
    example: Example,
    drop: float,
) -> Float[np.ndarray, "document"]:
    """Scores of documents by the sum over heads; tokens are dropped after summing, as in the authors' code."""
    total = np.sum([calibrated[layer][head] for layer, head in heads], axis=0)
    return document_scores(total, example.documents, drop)


def gold_rank(scores: Float[np.ndarray, "document"], gold: Sequence[int]) -> int:
    """Rank of the best document that answers, 1 for the first; equal scores rank it behind."""
    best = max(float(scores[at]) for at in gold)
    others = np.delete(scores, list(gold))
    return int((others >= best).sum()) + 1
