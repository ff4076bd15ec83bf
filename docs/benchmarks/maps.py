"""The default metrics computed from whole maps, as one would without this project.

Straightforward vectorised torch, a few passes over each map; nothing is computed that no metric needs.
"""

import torch
from torch import Tensor

from probe.terms import DEFAULT_METRICS


def default_metrics(pattern: Tensor) -> dict[str, Tensor]:
    """The five default metrics of one layer's causal map ``[1, head, n, n]``, per head."""
    pattern = pattern[0]
    n = pattern.shape[-1]
    position = torch.arange(n, dtype=pattern.dtype)
    key_mean = pattern @ position  # Σ_j p_ij · j
    received = pattern.sum(1) / (n - position)
    centred = received.double() - received.double().mean(-1, keepdim=True)
    return {
        "entropy": torch.special.entr(pattern).sum(-1).mean(-1),
        "sink": pattern[:, 1:, 0].mean(-1),
        "received": centred.pow(4).mean(-1) / centred.square().mean(-1).square() - 3,
        "distance": (pattern.sum(-1) * position - key_mean).mean(-1),
        "previous_token": pattern.diagonal(-1, 1, 2).mean(-1),
    }


def from_bridge(bridge: object, ids: Tensor) -> list[dict[str, Tensor]]:
    """The metrics of every layer's map out of a TransformerLens cache that holds the patterns alone."""
    with torch.inference_mode():
        _, cache = bridge.run_with_cache(ids, names_filter=lambda name: name.endswith("attn.hook_pattern"))
    patterns = [value for name, value in cache.items() if name.endswith("hook_pattern")]
    return [default_metrics(pattern) for pattern in patterns]


def agreement(from_maps: list[dict[str, Tensor]], report: object) -> str:
    """How far the two ways lie apart per metric; stops the run where they do not measure the same thing."""
    apart = {}
    for name in DEFAULT_METRICS:
        theirs = torch.stack([layer[name] for layer in from_maps])
        ours = torch.from_numpy(report[name].values.copy())
        apart[name] = float(((theirs - ours).abs() / (1 + ours.abs())).max())
    worst = max(apart.values())
    if not worst < 1e-3:
        raise SystemExit(f"the two sides were to measure the same thing; they differ: {apart}")
    return f"the two sides agree to {worst:.1e} relative on every default metric and head"
