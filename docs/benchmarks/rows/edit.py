"""A forward with interventions on a few heads ÷ the same fused forward without them."""

from collections.abc import Callable
from typing import Any

from subject import SMALL, forward, load, tokens
from timing import compare, interleave

import probe
from probe.interventions import knockout, redistribute, scale, temperature, to_identity, uniform_past, zero
from probe.terms import DEFAULT_METRICS

BUDGET = 1.15
LENGTHS = (1024, 2048)
FEW = ["L17.H3", "L18.H6", "L18.H7", "L20.H6"]
# Ten heads over five layers, two of each.
TEN = [
    f"L{layer}.H{head}"
    for layer, heads in {3: "04", 10: "17", 17: "34", 18: "67", 20: "68"}.items()
    for head in heads
]
# Edits of z, of scores and of probabilities.
EDITS = {
    "zero, 4 heads in 3 layers": zero(heads=FEW),
    "scale, 4 heads in 3 layers": scale(heads=FEW, alpha=2.0),
    "temperature, 4 heads in 3 layers": temperature(1.5, heads=FEW),
    "uniform_past, 4 heads in 3 layers": uniform_past(heads=FEW),
    "knockout of keys 0–3, 4 heads in 3 layers": knockout("all", (0, 4), heads=FEW),
    "redistribute keys 0–3 to 4–63, 4 heads in 3 layers": redistribute((0, 4), (4, 64), heads=FEW),
    "to_identity, 4 heads in 3 layers": to_identity(heads=FEW),
    "zero, 10 heads in 5 layers": zero(heads=TEN),
    "knockout of keys 0–3, 10 heads in 5 layers": knockout("all", (0, 4), heads=TEN),
}


def measure(rounds: int) -> dict[str, object]:
    """Both sides observe with the default metrics in the fused mode; only one of them edits."""
    loaded = load(SMALL)
    lines = []
    for length in LENGTHS:
        ids = tokens(loaded, length)

        def observed(edits: tuple[Any, ...] = (), ids: object = ids) -> None:
            options = {"metrics": list(DEFAULT_METRICS), "mode": "fused"}
            with probe.observe(loaded, interventions=list(edits), **options):
                forward(loaded, ids)

        sides: dict[str, Callable[[], object]] = {"fused": observed}
        sides |= {name: lambda edit=edit, run=observed: run((edit,)) for name, edit in EDITS.items()}
        timed = interleave(sides, rounds)
        for name in EDITS:
            line = compare(timed, name, "fused")
            lines.append({"what": f"{name} ÷ none", "n": length, "budget": BUDGET, "better": "low", **line})
    return {"title": "SmolLM2-135M fused forward with an intervention ÷ without", "lines": lines}
