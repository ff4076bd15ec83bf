"""Metrics by brute force: plain loops over the dense float64 pattern of one prompt, for comparison."""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.spatial.distance import mahalanobis
from scipy.stats import kurtosis
from sklearn.covariance import oas

from probe.testing import Sample

Row = tuple[float, float]  # total and weight of one head in one prompt


def pattern(
    sample: Sample, layer: int, window: int | None = None, sinks: torch.Tensor | None = None
) -> np.ndarray:
    """The pattern ``[head, query_pos, key_pos]``; rows sum to one less the learned sink's share."""
    q, k = sample.query[layer].double(), sample.key[layer].double()
    k = k.repeat_interleave(q.shape[0] // k.shape[0], 0)
    s = sample.scale * q @ k.transpose(1, 2)
    n = sample.length
    gap = torch.arange(n)[:, None] - torch.arange(n)[None]
    seen = (gap >= 0) & (gap < (window or n + 1))
    e = torch.where(seen, s, -torch.inf).exp()
    total = e.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + sinks.double().exp()[:, None, None]
    return (e / total).numpy()


class Dense:
    """One head's pattern with what its prompt knows."""

    def __init__(
        self, p: np.ndarray, sample: Sample, window: int | None, head: int, sinks: bool, layer: int = 0
    ) -> None:
        self.p, self.sample, self.sinks = p, sample, sinks
        self.n = len(p)
        self.tokens = sample.tokens.tolist()
        self.sees = [[j for j in range(i + 1) if window is None or i - j < window] for i in range(self.n)]
        kv = head // (sample.query.shape[1] // sample.key.shape[1])
        self.v = sample.value[layer, kv].double().numpy()
        self.q, self.k = sample.query[layer, head].double().numpy(), sample.key[layer, kv].double().numpy()

    def sink_mass(self, i: int) -> float:
        return 1 - self.p[i].sum() if self.sinks else 0.0


def _rows(score: Callable[[Dense, int], float | None]) -> Callable[[Dense], Row]:
    def total(d: Dense) -> Row:
        found = [one for one in (score(d, i) for i in range(d.n)) if one is not None]
        return sum(found), len(found)

    return total


def _h(values: list[float]) -> float:
    return -sum(x * math.log(x) for x in values if x > 1e-7)


def _entropy(d: Dense, i: int) -> float:
    return _h([*d.p[i], d.sink_mass(i)])


def _normalized(d: Dense, i: int) -> float | None:
    outcomes = len(d.sees[i]) + d.sinks
    return None if len(d.sees[i]) == 1 else _entropy(d, i) / math.log(outcomes)


def _sink(n: int) -> Callable[[Dense, int], float | None]:
    return lambda d, i: None if len(d.sees[i]) <= n else float(sum(d.p[i, j] for j in d.sees[i][:n]))


def received_map(d: Dense) -> np.ndarray:
    """Attention received per query that can see the token."""
    return np.array([d.p[:, j].sum() / sum(j in d.sees[i] for i in range(d.n)) for j in range(d.n)])


def future_map(d: Dense, lo: int, hi: int) -> np.ndarray:
    """Mean attention from queries in the horizon."""
    out = np.full(d.n, np.nan)
    for j in range(d.n):
        got = [d.p[i, j] for i in range(d.n) if lo <= i - j <= hi and j in d.sees[i]]
        out[j] = np.mean(got) if got else np.nan
    return out


def waad_map(d: Dense, window: int) -> np.ndarray:
    """Clipped distance of each query."""
    return np.array([sum(d.p[i, j] * min(i - j, window) for j in range(i + 1)) for i in range(d.n)])


def _mean_of(values: np.ndarray) -> Row:
    known = values[~np.isnan(values)]
    return float(known.sum()), len(known)


def _match(d: Dense, i: int, after: bool) -> list[int]:
    if after:
        return [j for j in range(1, i + 1) if d.tokens[j - 1] == d.tokens[i] and j in d.sees[i]]
    return [j for j in range(i) if d.tokens[j] == d.tokens[i] and j in d.sees[i]]


def _detector(after: bool, matched: bool) -> Callable[[Dense], Row]:
    def total(d: Dense) -> Row:
        mass = sum(float(sum(d.p[i, j] for j in _match(d, i, after))) for i in range(d.n))
        rows = sum(bool(_match(d, i, after)) for i in range(d.n))
        return mass, float(rows) if matched else float(d.p.sum())

    return total


def _effective_rank(z: np.ndarray) -> Row:
    sigma = np.linalg.svd(z, compute_uv=False)
    share = sigma[sigma > 1e-6 * sigma.sum()] / sigma.sum()
    return float(np.exp(_h(share.tolist()))) * len(z), len(z)


def _qk_shift(d: Dense, skip: int) -> Row:
    """Each vector's distance by itself, with scikit-learn's shrunk covariance."""
    at = np.arange(d.n)
    fit, unseen = d.k[(at >= skip) & (at % 2 == 0)], d.k[(at >= skip) & (at % 2 == 1)]
    covariance, _ = oas(fit)
    far = [
        math.sqrt(np.mean([mahalanobis(x, fit.mean(0), np.linalg.inv(covariance)) ** 2 for x in vectors]))
        for vectors in (d.q[skip:], unseen)
    ]
    return far[0] / far[1] * (d.n - skip), d.n - skip


def column_entropy_map(d: Dense, least: int) -> np.ndarray:
    """Entropy of each column made to sum to 1, over the log of how many queries see its key."""
    out = np.full(d.n, np.nan)
    for j in range(d.n):
        column = np.array([d.p[i, j] for i in range(d.n) if j in d.sees[i]])
        if len(column) >= least:
            out[j] = _h([*(column / column.sum())]) / math.log(len(column))
    return out


def _key_mass(key: int) -> Callable[[Dense], Row]:
    return lambda d: (float(d.p[:, key].sum()), float(sum(key in d.sees[i] for i in range(d.n))))


def _sink_gap(others: bool) -> Callable[[Dense, int], float | None]:
    def score(d: Dense, i: int) -> float | None:
        s = {j: d.sample.scale * float(d.q[i] @ d.k[j]) for j in d.sees[i]}
        first = d.sees[i][0]
        counted = [s[j] for j in s if not others or j not in (first, i)]
        return None if len(counted) < (1 if others else 2) else s[first] - float(np.mean(counted))

    return score


def _value_drain(d: Dense, at: int) -> Row:
    norms = np.linalg.norm(d.v, axis=-1)
    return float(norms[at] / np.delete(norms, at).mean()), 1.0


def _margin(d: Dense, i: int) -> float | None:
    """Entropy less the bound of Zhai et al. for the row's own centred logits; a learned sink is one more outcome."""
    outcomes = [d.p[i, j] for j in d.sees[i]] + ([d.sink_mass(i)] if d.sinks else [])
    if len(outcomes) < 2:
        return None
    t, logits = len(outcomes), np.log(outcomes)
    sigma = float(np.linalg.norm(logits - logits.mean()))
    beta = math.exp(-sigma * math.sqrt(t / (t - 1)))
    bound = math.log(1 + (t - 1) * beta) + sigma * math.sqrt(t * (t - 1)) * beta / (1 + (t - 1) * beta)
    return _entropy(d, i) - bound


def _span(name: str) -> Callable[[Dense, int], float | None]:
    def score(d: Dense, i: int) -> float | None:
        inside = [j for j, flag in enumerate(d.sample.spans[name].tolist()) if flag]
        return float(d.p[i, inside].sum()) if inside and i > max(inside) else None

    return score


def source_map(d: Dense, name: str, form: str) -> np.ndarray:
    """What each row gives to a span, as it is, less a uniform row's, or as a ratio of means."""
    inside, out = d.sample.spans[name].tolist(), np.full(d.n, np.nan)
    for i in range(d.n):
        mass = sum(d.p[i, j] for j in d.sees[i] if inside[j])
        rest = sum(d.p[i, j] for j in d.sees[i] if not inside[j])
        near, far = sum(inside[j] for j in d.sees[i]), sum(not inside[j] for j in d.sees[i])
        if form == "share":
            out[i] = mass
        elif form == "excess":
            out[i] = mass - near / (near + far)
        elif near and far:
            out[i] = (mass / near) / (mass / near + rest / far)
    return out


def _source(name: str, form: str) -> Callable[[Dense], Row]:
    def total(d: Dense) -> Row:
        inside = d.sample.spans[name].tolist()
        rows = [i for i in range(d.n) if any(inside[:i]) and not inside[i]]
        return _mean_of(source_map(d, name, form)[rows])

    return total


TOKEN_MAPS: dict[str, Callable[[Dense], np.ndarray]] = {
    "received": received_map,
    "future_influence:lo=1,hi=4": lambda d: future_map(d, 1, 4),
    "future_influence": lambda d: future_map(d, 10, 100),
    "waad": lambda d: waad_map(d, 10),
    "waad:window=3": lambda d: waad_map(d, 3),
    "value_norm": lambda d: np.linalg.norm(d.v, axis=-1),
    "value_drain": lambda d: np.linalg.norm(d.v, axis=-1),
    "column_entropy": lambda d: column_entropy_map(d, 2),
    "column_entropy:least=4": lambda d: column_entropy_map(d, 4),
}

ORACLES: dict[str, Callable[[Dense], Row]] = {
    "entropy": _rows(_entropy),
    "entropy:normalized=true": _rows(_normalized),
    "sink": _rows(_sink(1)),
    "sink:n=3": _rows(_sink(3)),
    "received": lambda d: (float(kurtosis(received_map(d))), 1.0),
    **{name: (lambda d, m=m: _mean_of(m(d))) for name, m in TOKEN_MAPS.items() if name != "received"},
    "distance": _rows(lambda d, i: float(sum(d.p[i, j] * (i - j) for j in range(i + 1)))),
    "previous_token": _rows(lambda d, i: float(d.p[i, i - 1]) if i else None),
    "duplicate_token": _detector(after=False, matched=False),
    "duplicate_token:norm=matched": _detector(after=False, matched=True),
    "induction": _detector(after=True, matched=False),
    "induction:norm=matched": _detector(after=True, matched=True),
    "max_prob": _rows(lambda d, i: float(d.p[i].max())),
    "effective_keys": _rows(lambda d, i: float(d.p[i].sum() ** 2 / (d.p[i] ** 2).sum())),
    "source_share": _source("prompt", "share"),
    "source_share:form=excess": _source("prompt", "excess"),
    "source_share:source=middle,form=lookback": _source("middle", "lookback"),
    "source_share:source=none": _source("none", "share"),
    "span_mass:span=middle": _rows(_span("middle")),
    "span_mass:span=none": _rows(_span("none")),
    "effective_rank": lambda d: _effective_rank(d.p @ d.v),
    "effective_rank:centred=true": lambda d: _effective_rank(d.p @ d.v - (d.p @ d.v).mean(0)),
    "qk_shift": lambda d: _qk_shift(d, 0),
    "qk_shift:skip=2": lambda d: _qk_shift(d, 2),
    "key_mass": _key_mass(0),
    "key_mass:key=3": _key_mass(3),
    "sink_logit_gap": _rows(_sink_gap(others=True)),
    "sink_logit_gap:mean=all": _rows(_sink_gap(others=False)),
    "column_entropy": lambda d: (float(np.nanmax(column_entropy_map(d, 2))), 1.0),
    "column_entropy:least=4": lambda d: (float(np.nanmax(column_entropy_map(d, 4))), 1.0),
    "value_drain": lambda d: _value_drain(d, 0),
    "value_drain:span=middle": lambda d: _value_drain(d, d.n // 3),
    "concentration": lambda d: (float(np.linalg.norm(d.p)), 1.0),
    "concentration:of=rows": _rows(lambda d, i: float((d.p[i] ** 2).sum())),
    "local_focus": _rows(lambda d, i: float(d.p[i, i])),
    "local_focus:offset=2": _rows(lambda d, i: float(d.p[i, i - 2]) if i >= 2 else None),
    "entropy_bound": _rows(_margin),
    "head_importance": _rows(lambda d, i: float(np.abs(d.p[i] @ d.v).sum())),
    "head_output_norm": _rows(lambda d, i: float(np.linalg.norm(d.p[i] @ d.v))),
}


def expected(spec: str, prompts: list[Sample], window: int | None, sinks: torch.Tensor | None) -> np.ndarray:
    """The head map that `spec` must have, ``[layer, head]``."""
    layers, heads = prompts[0].query.shape[:2]
    out = np.full((layers, heads), np.nan)
    for layer in range(layers):
        patterns = [pattern(one, layer, window, sinks) for one in prompts]
        for head in range(heads):
            rows = [
                ORACLES[spec](Dense(p[head], one, window, head, sinks is not None, layer))
                for p, one in zip(patterns, prompts, strict=True)
            ]
            weight = sum(row[1] for row in rows)
            out[layer, head] = sum(row[0] for row in rows) / weight if weight else np.nan
    return out
