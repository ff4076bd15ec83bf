"""At one density, finer and sorted patterns keep more of the attention; powers of two reach all in few layers."""

from typing import Any

import numpy as np
from probe_kernels.select import power_of_two, reach, sliding

from probe.interventions import make
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.densities import at_density, kept_by, powers_kept, window_like
from probe.replay.finding import NONE, Finding, Row, Table
from probe.replay.forced import far_needles, forced_recall
from probe.replay.intervals import interval, mean
from probe.replay.passages import DATA, passages
from probe.replay.work import Work

WIDTH, COUNT, NEEDLES, LENGTH, DEEPEST = 384, 4, 6, 600, 6
POOLED = tuple(f"pooled_topk:block=32,tau={tau}" for tau in (0.5, 0.8, 0.95))
PAIRS = {
    "single keys against blocks, the best of each": (
        "oracle_topk:k=96",
        tuple(f"oracle_topk:block=32,k={k}" for k in (2, 3, 5)),
    ),
    "stripes near an anchor against blocks by pooled scores": (
        "anchor_stripe:theta=4,block=32,step=2",
        POOLED,
    ),
    "blocks of sorted keys against blocks by pooled scores": (
        "permuted_block:block=32,segment=128,tau=0.7",
        POOLED,
    ),
}
LOT = ("random_blocks:density=0.2,block=32", "random_blocks:density=0.55,block=32")
SPECS = tuple(dict.fromkeys(one for fine, coarse in PAIRS.values() for one in (fine, *coarse))) + LOT
BLOCK = 16  # of the pattern that a needle is asked under


def measure(work: Work) -> Finding:
    """Mass kept by the finer of two patterns and by the other at its density; the reach of powers of two; needles."""
    texts = work.few(passages(work.model, COUNT, WIDTH), 1)
    points = np.asarray(
        [work.keep(one.id, kept_by, work.model, one, SPECS) for one in texts]
    )  # text, pattern, 2
    law = work.keep("reach", _reaches)
    edits = _asked(work.seed)
    needles = work.few(far_needles(work.model, NEEDLES, LENGTH, work.seed))
    recall = [work.keep(one.id, _recalls, work.model, one, list(edits.values())) for one in needles]
    return _finding(points, bool(law), dict(zip(edits, np.asarray(recall).T, strict=True)))


def _finding(points: np.ndarray, law: bool, recall: dict[str, np.ndarray]) -> Finding:
    rows, told, higher = [], [], []
    for name, (fine, coarse) in PAIRS.items():
        at, own = points[:, SPECS.index(fine)].T
        other, lot = (_read_off(points, some, at) for some in (coarse, LOT))
        gap = own - other
        higher.append(interval(gap)[0] > 0)
        rows += [
            Row(f"mass kept at density {at.mean():.2f}, {name}: the first", mean(own), NONE, mean(lot)),
            Row(f"mass kept at density {at.mean():.2f}, {name}: the second", mean(other), NONE, mean(lot)),
            Row(f"{name}: the difference", mean(gap, digits=3)),
        ]
        told.append(f"{name} {own.mean():.2f} and {other.mean():.2f}")
    rows += [Row(f"recall of a far needle, {name}", mean(one)) for name, one in recall.items()]
    return Finding(
        holds=bool(all(higher) and law),
        brief=f"mass kept at one density: {'; '.join(told)}",
        rows=tuple(rows),
        found=(
            f"The first keeps more than the second in {sum(higher)} of {len(higher)} comparisons.",
            f"Every token at a distance below 2^d is in reach after d layers of powers of two, d up to {DEEPEST}: "
            f"{'always' if law else 'NOT always'}; a window of w reaches d·(w − 1) tokens and no further.",
            "Recall of a needle that lies out of the window, in a model that was not trained for any of it: "
            + ", ".join(f"{name} {one.mean():.2f}" for name, one in recall.items())
            + ".",
        ),
        tables=(_table(points),),
    )


def _read_off(points: np.ndarray, specs: tuple[str, ...], densities: np.ndarray) -> np.ndarray:
    """Mass that a family keeps at one density per text, between its budgets."""
    part = points[:, [SPECS.index(spec) for spec in specs]]
    return np.asarray([at_density(one, float(at)) for one, at in zip(part, densities, strict=True)])


def _reaches() -> bool:
    """Whether powers of two reach every distance below 2^d, and a window d·(w − 1) and no further, at every depth."""
    n, window = 2 ** (DEEPEST + 1), 5
    apart = np.arange(n)[:, None] - np.arange(n)
    found = True
    for depth in range(1, DEEPEST + 1):
        powers = reach(power_of_two(block=1, keep_first=False), depth, n).numpy()
        near = reach(sliding(window=window), depth, n).numpy()
        found &= bool(powers[(apart >= 0) & (apart < 2**depth)].all())
        found &= bool((near == ((apart >= 0) & (apart <= depth * (window - 1)))).all())
    return found


def _asked(seed: int) -> dict[str, list[Any]]:
    """Edits of every layer that keep as many pairs of `LENGTH` tokens."""
    kept = powers_kept(LENGTH, BLOCK)
    share = kept.sum() / (LENGTH * (LENGTH + 1) / 2)
    recent = window_like(kept, BLOCK)
    return {
        "full attention": [],
        f"powers of two (density {share:.2f})": [make(f"pattern:keep=power_of_two:block={BLOCK}")],
        f"first {BLOCK} and last {recent}": [make(f"pattern:keep=sink_recent:sinks={BLOCK};recent={recent}")],
        "blocks drawn by lot": [
            make(f"pattern:keep=random_blocks:density={share:.3f};block={BLOCK};seed={seed}")
        ],
    }


def _recalls(loaded: LoadedModel, prompt: Prompt, runs: list[list[Any]]) -> list[float]:
    return [forced_recall(loaded, prompt, edits)[0] for edits in runs]


def _table(points: np.ndarray) -> Table:
    rows = [
        (f"`{spec}`", f"{points[:, at, 0].mean():.3f}", str(mean(points[:, at, 1])))
        for at, spec in enumerate(SPECS)
    ]
    title = "Density and mass kept, means over heads [interval over passages]"
    return Table(title, ("pattern", "density", "mass kept"), tuple(rows))


CLAIM = Claim(
    claimed="at equal density, choosing single keys keeps more of the attention than choosing blocks, and so do "
    "blocks of keys that were sorted first; a pattern of distances that are powers of two reaches every token in "
    "log₂ n layers, and finds a passkey that a window of the same density does not.",
    data=f"{COUNT} passages of {WIDTH} tokens, {DATA}; {NEEDLES} held-out needles in {LENGTH} tokens.",
    measure=measure,
    how=(
        "Patterns choose in one dense forward. The first of two is measured at one budget, the second at several "
        "around it, and read off between them at the first one's density, passage by passage.",
        "All keep the first and the diagonal block, so that a first-token sink helps none of them more than another.",
        "The control is blocks drawn by lot at that density. Intervals are over passages, those of recall over "
        "needles.",
        "A needle is asked with the pattern in every layer of a model that was not trained for it; powers of two, a "
        "window with first tokens, and blocks by lot keep as many pairs.",
        "The claim holds where the first keeps more than the second in every comparison (intervals of the differences "
        "above 0), and the law of reach is never broken. Recall is told beside.",
    ),
    settings={
        "passages": [COUNT, WIDTH],
        "needles": [NEEDLES, LENGTH],
        "patterns": list(SPECS),
        "block": BLOCK,
    },
)
