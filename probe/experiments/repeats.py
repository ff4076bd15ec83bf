"""Tokens that a context could have told: those that complete an n-gram which stood there before."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool


def recalled(tokens: Sequence[int], ngram: int = 2) -> Bool[np.ndarray, "token"]:
    """Which tokens complete an n-gram that occurred earlier in the prompt; its first occurrence does not count.

    >>> recalled([5, 6, 7, 5, 6, 8]).tolist()
    [False, False, False, False, True, False]
    """
    seen: set[tuple[int, ...]] = set()
    flags = np.zeros(len(tokens), dtype=bool)
    for end in range(ngram, len(tokens) + 1):
        gram = tuple(tokens[end - ngram : end])
        flags[end - 1] = gram in seen
        seen.add(gram)
    return flags
