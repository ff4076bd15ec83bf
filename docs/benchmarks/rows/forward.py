"""A whole forward with the default metrics ÷ the model's own sdpa forward."""

import torch
from subject import SMALL, forward, load, tokens
from timing import compare, interleave

import probe
from probe.terms import DEFAULT_METRICS

BUDGET = {1024: 1.15, 2048: 1.4, 4096: 1.8}


def measure(rounds: int) -> dict[str, object]:
    """Both modes against native, at each length."""
    loaded = load(SMALL)
    lines = []
    for length, budget in BUDGET.items():
        ids = tokens(loaded, length)

        def observed(mode: str, ids: torch.Tensor = ids) -> None:
            with probe.observe(loaded, metrics=list(DEFAULT_METRICS), mode=mode):
                forward(loaded, ids)

        sides = {
            "native": lambda ids=ids: forward(loaded, ids),
            "fused": lambda: observed("fused"),
            "shadow": lambda: observed("shadow"),
        }
        timed = interleave(sides, rounds)
        for mode, limit in (("fused", budget), ("shadow", None)):
            line = compare(timed, mode, "native")
            lines.append(
                {"what": f"{mode} ÷ native sdpa", "n": length, "budget": limit, "better": "low", **line}
            )
    return {"title": "SmolLM2-135M forward with the default metrics ÷ native sdpa forward", "lines": lines}
