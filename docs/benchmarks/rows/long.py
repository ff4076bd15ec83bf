"""Gemma-3-270M at 16 384 tokens: it runs; how long it takes and how much memory it needs."""

import peak
from subject import LONG

LENGTH = 16384


def measure(rounds: int) -> dict[str, object]:
    """One forward each, native and observed; `rounds` does not apply to minutes-long runs."""
    del rounds
    seen = {mode: peak.of(LONG, LENGTH, mode) for mode in ("native", "fused")}
    above = {mode: one["peak"] - one["before"] for mode, one in seen.items()}
    line = {
        "what": "fused above native sdpa",
        "n": LENGTH,
        "value": above["fused"] - above["native"],
        "unit": "MB",
        "budget": None,
        "better": "low",
        "over_s": seen["fused"]["seconds"],
        "under_s": seen["native"]["seconds"],
        "rounds": 1,
    }
    notes = [
        "peak resident memory: " + ", ".join(f"{mode} {one['peak']:.0f} MB" for mode, one in seen.items())
    ]
    return {"title": "Gemma-3-270M, default metrics, one forward", "lines": [line], "notes": notes}
