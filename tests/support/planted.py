"""Planted truth: attention whose heads are, by construction, what the metrics look for."""

import torch
from torch import Tensor

from probe.testing import Sample

HEADS = ("previous", "duplicate", "induction", "sink", "uniform", "local")

_SHARP = 60.0  # logit of the one key a head looks at: its mass is 1 to within e^-50


def repeated_tokens(half: int, seed: int = 0) -> Tensor:
    """Random tokens, all different, then the same again."""
    order = torch.randperm(half, generator=torch.Generator().manual_seed(seed))
    return torch.cat([order, order]) + 100


def targets(tokens: Tensor) -> dict[str, list[int]]:
    """The key that each head looks at from each row; rows with nothing to look at look at the first token."""
    ids = tokens.tolist()
    rows = range(len(ids))
    earlier = [[j for j in range(i) if ids[j] == ids[i]] for i in rows]
    return {
        "previous": [max(0, i - 1) for i in rows],
        "duplicate": [e[-1] if e else 0 for e in earlier],
        "induction": [e[-1] + 1 if e else 0 for e in earlier],
        "sink": [0 for _ in rows],
        "local": list(rows),
    }


def planted(tokens: Tensor) -> Sample:
    """One layer whose heads are `HEADS`: q holds the wanted logits of every key, k is the identity."""
    n = len(tokens)
    logits = torch.zeros(len(HEADS), n, n, dtype=torch.float64)
    for name, keys in targets(tokens).items():
        logits[HEADS.index(name), torch.arange(n), torch.tensor(keys)] = _SHARP
    identity = torch.eye(n, dtype=torch.float64)[None, None]
    spans = {"start": torch.arange(n) < 1}
    return Sample(logits[None], identity, torch.ones(1, 1, n, 1, dtype=torch.float64), tokens, spans)


def known_scores(tokens: Tensor) -> dict[str, dict[str, float]]:
    """What each metric must say of each planted head, for tokens that are all different and then repeated."""
    n, half = len(tokens), len(tokens) // 2
    uniform_rows = range(1, n + 1)

    def harmonic(terms: int) -> float:
        return sum(1 / i for i in range(1, terms + 1))

    return {
        # Row 1 of the previous-token head and row 0 of every head are where definitions differ by one.
        "previous_token": {
            "previous": 1.0,
            "sink": 1 / (n - 1),
            "local": 0.0,
            "uniform": (harmonic(n) - 1) / (n - 1),
        },
        "duplicate_token": {"duplicate": half / n, "induction": 0.0, "previous": 0.0, "local": 0.0},
        "duplicate_token:norm=matched": {"duplicate": 1.0},
        "induction": {"induction": half / n, "previous": 0.0, "local": 0.0},
        "induction:norm=matched": {"induction": 1.0},
        "sink": {"sink": 1.0, "local": 0.0, "previous": 1 / (n - 1), "uniform": (harmonic(n) - 1) / (n - 1)},
        "distance": {"local": 0.0, "sink": (n - 1) / 2, "previous": (n - 1) / n, "uniform": (n - 1) / 4},
        "max_prob": {"previous": 1.0, "sink": 1.0, "local": 1.0, "uniform": harmonic(n) / n},
        "effective_keys": {"previous": 1.0, "sink": 1.0, "uniform": sum(uniform_rows) / n},
        "entropy": {
            "sink": 0.0,
            "local": 0.0,
            "uniform": float(torch.arange(1, n + 1).double().log().mean()),
        },
        "entropy:normalized=true": {"sink": 0.0, "uniform": 1.0},
        "span_mass:span=start": {"sink": 1.0, "local": 0.0},
        "waad": {"local": 0.0, "sink": sum(min(i, 10) for i in range(n)) / n, "previous": (n - 1) / n},
    }
