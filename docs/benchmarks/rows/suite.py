"""A whole forward with every streaming metric at once ÷ the model's own sdpa forward."""

import torch
from subject import SMALL, forward, load, tokens
from timing import compare, interleave

import probe
from probe.analysis.choice import choose

LENGTH, BUDGET = 2048, 2.0


def measure(rounds: int) -> dict[str, object]:
    """All fold metrics of ``--metric all`` in one sweep, against native; beside it those that read attention alone."""
    loaded = load(SMALL)
    ids = tokens(loaded, LENGTH)
    every = [one.spec for one in choose("all").metrics]
    at_attention = [one.spec for one in choose("all").metrics if not getattr(one, "points", ())]

    def observed(specs: list[str], ids: torch.Tensor = ids) -> None:
        with probe.observe(loaded, metrics=specs, mode="fused"):
            forward(loaded, ids)

    sides = {
        "native": lambda: forward(loaded, ids),
        "all": lambda: observed(every),
        "attention": lambda: observed(at_attention),
    }
    timed = interleave(sides, rounds)
    what = {
        "all": (f"all {len(every)} streaming metrics ÷ native sdpa", BUDGET),
        "attention": (f"the {len(at_attention)} of them that read attention alone ÷ native sdpa", None),
    }
    lines = [
        {"what": text, "n": LENGTH, "budget": budget, "better": "low", **compare(timed, name, "native")}
        for name, (text, budget) in what.items()
    ]
    left = "; ".join(choose("all").notes)
    return {
        "title": "SmolLM2-135M forward with every streaming metric ÷ native sdpa forward",
        "lines": lines,
        "notes": (f"metrics: {', '.join(every)}", *((left,) if left else ())),
    }
