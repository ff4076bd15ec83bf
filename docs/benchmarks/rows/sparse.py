"""Attention under random blocks ÷ the same sweep over every key: time falls with density, and where that stops."""

import torch
from probe_kernels import Want, attend, sweep
from probe_kernels.bench import Shape, problem
from probe_kernels.select import Selection, Site, random_blocks, sink_recent
from probe_kernels.testing import assert_attended_close
from probe_kernels.types import Layout, Scores
from probe_kernels.visit import Visit
from timing import compare, interleave

LENGTH, BLOCK = 8192, 128
HEADS, KV_HEADS, WIDTH = 9, 3, 64
DENSITIES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
BUDGETS = {0.25: 0.45}
WANT = Want(lse=True, entropy=True)


def gate() -> None:
    """A wrong path is not timed: the torch path must agree with the reference."""
    scores, layout = problem(700, Shape(HEADS, KV_HEADS, WIDTH), seed=1)
    visit = random_blocks(0.4, 64).select(scores, layout, Site()).visit
    found, exact = (
        attend(scores, layout, WANT, visit=visit, backend=name) for name in ("torch", "reference")
    )
    assert_attended_close(found, exact)


def shared(visit: Visit) -> Visit:
    """The first head's lists for all heads."""
    return Visit(visit.rows, visit.index[:, :1].contiguous())


def cases(scores: Scores, layout: Layout) -> dict[tuple[str, float], Selection]:
    """What is timed, by kind and density as counted."""
    found: dict[tuple[str, float], Selection] = {}
    for density in DENSITIES:
        visit = random_blocks(density, BLOCK).select(scores, layout, Site()).visit
        found["lists by head", density] = Selection(visit=visit)
        found["one list for all heads", density] = Selection(visit=shared(visit))
    for recent in (256, 2048):
        selection = sink_recent(4, recent).select(scores, layout, Site())
        counted = round(float(selection.density(scores, layout)[0, 0]), 2)
        found[f"sink_recent:sinks=4,recent={recent}", counted] = selection
    return found


def measure(rounds: int) -> dict[str, object]:
    """Blocks of 128 tokens by lot, drawn for each head or once, on random q, k, v of SmolLM2's head shape."""
    gate()
    scores, layout = problem(LENGTH, Shape(HEADS, KV_HEADS, WIDTH))
    lines = []
    for (kind, density), selection in cases(scores, layout).items():

        def dense() -> torch.Tensor:
            return sweep.attend(scores, layout, WANT).z

        def sparse(selection: Selection = selection) -> torch.Tensor:
            narrowed = selection.narrowed(layout)
            return attend(scores, narrowed, WANT, visit=selection.visit, backend="torch").z

        with torch.inference_mode():
            timed = interleave({"dense": dense, "sparse": sparse}, rounds)
        what = f"density {density:g}, {kind}"
        ratios = compare(timed, "sparse", "dense")
        lines.append({"what": what, "n": LENGTH, "budget": BUDGETS.get(density), "better": "low", **ratios})
    return {
        "title": f"Attention under a pattern, {HEADS} heads, d {WIDTH}, causal, z, lse and entropy ÷ every key",
        "lines": lines,
        "notes": ["Where a line is above 1, a pattern as dense as that costs more than it saves."],
    }
