"""True reach exceeds attention distance: gradients lie farther back than attention looks (or not)."""

import numpy as np

from probe.experiments.base import Ask
from probe.experiments.jacobian_range import JacobianRange
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import NONE, Finding, Row, Table
from probe.replay.intervals import interval, mean
from probe.replay.passages import DATA, passages
from probe.replay.work import Work
from probe.seam.places import places

PASSAGES, WIDTH, LAYERS, PROBES, BEYOND = 6, 256, 6, 2, 32
NAMES = ("gradient", "attention", "gradient_without_first", "attention_without_first", "uniform", "error")
PAIRS = {
    "": ("gradient", "attention"),
    ", first token left out": ("gradient_without_first", "attention_without_first"),
}


def measure(work: Work) -> Finding:
    """Shares of gradient and of attention beyond 32 tokens, by passage and layer."""
    layers = chosen_layers(work.model)
    rows = [
        work.keep(str(one.id), _of_passage, work.model, one, layers, work.seed)
        for one in work.few(passages(work.model, PASSAGES, WIDTH))
    ]
    found = {name: np.asarray([row[name] for row in rows], np.float64) for name in NAMES}
    gaps = {said: (found[one] - found[two]).mean(1) for said, (one, two) in PAIRS.items()}
    held = {said: bool(interval(gap)[0] > 0) for said, gap in gaps.items()}
    deep = {said: found[one][:, -1] - found[two][:, -1] for said, (one, two) in PAIRS.items()}
    farther = all(interval(gap)[0] > 0 for gap in deep.values())
    return Finding(
        holds=all(held.values()),
        but=""
        if all(held.values()) or not farther
        else f"; behind layer {layers[-1]} alone gradients do reach farther",
        brief=f"beyond {BEYOND} tokens: {mean(found['gradient'].mean(1))} of the gradient, "
        f"{mean(found['attention'].mean(1))} of attention; without the first token "
        f"{mean(found['gradient_without_first'].mean(1))} and {mean(found['attention_without_first'].mean(1))}",
        rows=tuple(
            Row(
                f"share of {'the gradient' if name.startswith('g') else 'attention'} beyond {BEYOND} tokens{said}",
                mean(found[name].mean(1)),
                NONE,
                mean(found["uniform"].mean(1)),
            )
            for said, both in PAIRS.items()
            for name in both
        ),
        tables=(_table(found, layers),),
        found=(
            *(
                f"Gradient minus attention{said}, mean over layers: {mean(gap)}; in layer {layers[-1]}: "
                f"{mean(deep[said])}. The claim {'holds' if held[said] else 'does not hold'} so."
                for said, gap in gaps.items()
            ),
            "The gradient's shares are estimates; their standard error over random vectors is "
            f"{found['error'].max():.3f} at the most for one passage and layer.",
        ),
    )


def chosen_layers(loaded: LoadedModel) -> list[int]:
    """Layers from the first to the last, evenly spaced."""
    last = max(place.layer for place in places(loaded.model).values())
    return sorted({round(layer) for layer in np.linspace(0, last, LAYERS)})


def _of_passage(loaded: LoadedModel, passage: Prompt, layers: list[int], seed: int) -> dict[str, list[float]]:
    spec = JacobianRange(beyond=BEYOND, rows=1, probes=PROBES, layers="+".join(map(str, layers)))
    (answer,) = spec.run(Ask(loaded, (passage,), seed))
    found = {"gradient": answer.head_map, **answer.extra}
    return {name: found[name].values.tolist() for name in NAMES}


def _table(found: dict[str, np.ndarray], layers: list[int]) -> Table:
    return Table(
        f"Share beyond {BEYOND} tokens by layer, the last row of a passage: mean [95 % interval over passages]",
        ("share of", *(f"layer {layer}" for layer in layers)),
        tuple(
            (name.replace("_", " "), *(str(mean(found[name][:, n])) for n in range(len(layers))))
            for name in NAMES[:-1]
        ),
    )


CLAIM = Claim(
    claimed="what a model's prediction depends on reaches farther back than attention distance tells: layers add up, "
    "and the influence of a token, measured by the Jacobian, decays slowly with distance (as a power law, exponent "
    "0.7 to 0.9).",
    data=f"{PASSAGES} passages of {WIDTH} tokens, {DATA}.",
    measure=measure,
    how=(
        "`jacobian_range`: ‖∂(residual stream of the last row)/∂(embedding of token j)‖ after a layer, all layers "
        f"below included, from {PROBES} random vectors; its share on tokens more than {BEYOND} behind, beside the "
        "share of attention there, in the same row and layer, mean over heads.",
        f"{LAYERS} layers, evenly spaced from the first to the last. The row's own token counts in both as near.",
        "The control is uniform attention: the share that keys beyond the distance have by their number.",
        "Much attention goes to the first token, a sink that carries little; so both are shown without it as well.",
        "The claim holds where the gradient's share is the larger, mean over layers (interval over passages), with the "
        "first token and without.",
    ),
    settings={"passages": PASSAGES, "width": WIDTH, "layers": LAYERS, "probes": PROBES, "beyond": BEYOND},
)
