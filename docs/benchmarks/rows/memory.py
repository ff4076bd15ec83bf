"""Peak memory with the default metrics above that of the native forward, SmolLM2 at 8192 tokens."""

import statistics

import peak
from subject import SMALL

LENGTH = 8192
BUDGET_MB = 300


def measure(rounds: int) -> dict[str, object]:
    """Each forward in a fresh process; the native one is repeated as often."""
    repeats = max(1, rounds // 3)
    seen = {
        mode: [peak.of(SMALL, LENGTH, mode) for _ in range(repeats)] for mode in ("native", "fused", "shadow")
    }
    middle = {
        mode: statistics.median(one["peak"] - one["before"] for one in runs) for mode, runs in seen.items()
    }
    lines = [
        {
            "what": f"{mode} above native sdpa",
            "n": LENGTH,
            "value": middle[mode] - middle["native"],
            "unit": "MB",
            "budget": BUDGET_MB if mode == "fused" else None,
            "better": "low",
            "over_s": statistics.median(one["seconds"] for one in seen[mode]),
            "under_s": statistics.median(one["seconds"] for one in seen["native"]),
            "rounds": repeats,
        }
        for mode in ("fused", "shadow")
    ]
    notes = [
        f"peak above the loaded model: {', '.join(f'{mode} {mb:.0f} MB' for mode, mb in middle.items())}"
    ]
    return {"title": "Peak memory with the default metrics, SmolLM2-135M", "lines": lines, "notes": notes}
