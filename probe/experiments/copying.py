"""The retrieval score of one test: which heads copied which answer tokens (Wu et al. 2024)."""

from collections.abc import Mapping, Sequence

import numpy as np

from probe.experiments.decoding import Step


def copy_scores(
    steps: Sequence[Step],
    tokens: Sequence[int],
    answer: np.ndarray,
    heads: Mapping[int, int],
    *,
    dedup: bool = True,
    anywhere: bool = False,
) -> dict[int, np.ndarray]:
    """Per layer, the share of the answer's tokens that each head copied: 0 to 1 with `dedup`.

    A head copies at a step iff the key it looks at most lies in the answer's span and holds the very token that the
    step emits. ``dedup``: |{copied token ids}| / |{answer token ids}|. Without it every hit counts 1 / (answer tokens),
    as in the authors' code: repeated hits can exceed 1.

    Args:
        steps: the decode steps.
        tokens: the prompt's tokens; keys behind them are generated and never part of the answer.
        answer: one flag per prompt token.
        heads: heads per layer, so that a layer which never copied still answers 0.
        dedup: count each answer token once.
        anywhere: the key may lie anywhere in the prompt, if it holds the emitted token and the answer has that token.
    """
    ids = np.asarray(tokens)
    wanted = ids[answer]
    inside = np.isin(ids, wanted) if anywhere else answer
    copied: dict[int, list[set[int]]] = {layer: [set() for _ in range(n)] for layer, n in heads.items()}
    hits = {layer: np.zeros(n) for layer, n in heads.items()}
    for step in steps:
        for layer, top in step.top.items():
            for head in np.flatnonzero((top >= 0) & (top < len(ids))):
                key = int(top[head])
                if inside[key] and ids[key] == step.token:
                    copied[layer][head].add(step.token)
                    hits[layer][head] += 1
    if not dedup:
        return {layer: count / len(wanted) for layer, count in hits.items()}
    n_unique = len(set(wanted.tolist()))
    return {layer: np.array([len(one) / n_unique for one in found]) for layer, found in copied.items()}
