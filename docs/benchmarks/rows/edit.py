"""A forward with interventions on a few heads ÷ the same fused forward without them."""

from collections.abc import Callable

from subject import SMALL, forward, load, tokens
from timing import compare, interleave

import probe
from probe.interventions import knockout, zero
from probe.terms import DEFAULT_METRICS

BUDGET = 1.15
LENGTHS = (1024, 2048)
# Ten heads over five layers, two of each.
HEADS = [
    f"L{layer}.H{head}"
    for layer, heads in {3: "04", 10: "17", 17: "34", 18: "67", 20: "68"}.items()
    for head in heads
]
EDITS = {
    "knockout of keys 0–3, all queries": knockout("all", (0, 4), heads=HEADS),
    "zero": zero(heads=HEADS),
}


def measure(rounds: int) -> dict[str, object]:
    """Both sides observe with the default metrics in the fused mode; only one of them edits."""
    loaded = load(SMALL)
    lines = []
    for length in LENGTHS:
        ids = tokens(loaded, length)

        def observed(edits: tuple[object, ...] = (), ids: object = ids) -> None:
            options = {"metrics": list(DEFAULT_METRICS), "mode": "fused"}
            with probe.observe(loaded, interventions=list(edits), **options):
                forward(loaded, ids)

        sides: dict[str, Callable[[], object]] = {"fused": observed}
        sides |= {name: lambda edit=edit, run=observed: run((edit,)) for name, edit in EDITS.items()}
        timed = interleave(sides, rounds)
        for name in EDITS:
            line = compare(timed, name, "fused")
            what = f"{name}: {len(HEADS)} heads in 5 layers ÷ none"
            lines.append({"what": what, "n": length, "budget": BUDGET, "better": "low", **line})
    return {"title": "SmolLM2-135M fused forward with an intervention ÷ without", "lines": lines}
