"""Mixing tokens is indispensable, that the mixing depends on the text is not, in a part of the layers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from probe.analysis.ready import ready
from probe.experiments.forwards import losses
from probe.interventions import static, to_identity, uniform_past
from probe.interventions.reference import windows
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import Finding, Row, Table
from probe.replay.intervals import interval, mean
from probe.replay.passages import DATA, passages
from probe.replay.work import Work

COUNT, WIDTH, TEXTS = 8, 128, 32
COLLAPSE, CHEAP = 1.0, 0.1  # nats: a loss more than this higher is a collapse; a share of the identity's cost
IDENTITY, STATIC, UNIFORM = "identity", "static", "uniform"
KINDS = (IDENTITY, STATIC, UNIFORM)


def measure(work: Work) -> Finding:
    """Loss with the attention of some layers replaced: by the identity, by its mean map, by a uniform row."""
    places, prompts = parts(work.model), work.few(passages(work.model, COUNT, WIDTH))
    make = _maker(work.model, work.seed)
    base = np.asarray([work.keep(f"{one.id}, none", _loss, work.model, one, ()) for one in prompts])
    cost = {
        (kind, place): np.asarray(
            [
                work.keep(f"{one.id}, {kind}, {place}", _edited, work.model, one, make, kind, places[place])
                for one in prompts
            ]
        )
        - base
        for place in places
        for kind in KINDS
    }
    subsets = [place for place in places if place != "all"]
    collapse = interval(cost[IDENTITY, "all"])[0] > COLLAPSE
    needed = all(interval(cost[IDENTITY, place] - cost[STATIC, place])[0] > 0 for place in subsets)
    cheap = [
        place for place in subsets if interval(cost[STATIC, place] - CHEAP * cost[IDENTITY, place])[1] < 0
    ]
    return Finding(
        holds=bool(collapse and needed and cheap),
        brief=f"loss {base.mean():.2f}; identity in all layers +{cost[IDENTITY, 'all'].mean():.2f} nats, static map "
        f"+{cost[STATIC, 'all'].mean():.2f}; static in the last third +{cost[STATIC, 'last third'].mean():.2f} "
        f"(identity +{cost[IDENTITY, 'last third'].mean():.2f})",
        rows=(
            Row("loss, nats per token, unedited", mean(base)),
            *(
                Row(
                    f"rise of the loss: {kind} in {place}",
                    mean(cost[kind, place]),
                    control=mean(cost[UNIFORM, place]),
                )
                for kind in (IDENTITY, STATIC)
                for place in places
            ),
        ),
        found=(
            f"Without mixing anywhere the loss {'collapses' if collapse else 'does not collapse'}. The static map "
            f"costs {'less than the identity in every part' if needed else 'no less than the identity in some part'}.",
            f"Static at a tenth of the identity's cost or less: {', '.join(cheap) or 'in no part'}.",
        ),
        tables=(_table(places, cost),),
    )


def parts(loaded: LoadedModel) -> dict[str, list[int]]:
    """Which layers are edited, by name: all, every other one, and the thirds of the depth."""
    n = int(loaded.model.config.get_text_config().num_hidden_layers)  # type: ignore[union-attr, operator]
    third = n // 3
    return {
        "all": list(range(n)),
        "odd": list(range(1, n, 2)),
        "first third": list(range(third)),
        "middle third": list(range(third, n - third)),
        "last third": list(range(n - third, n)),
    }


def _maker(loaded: LoadedModel, seed: int) -> Callable[[str, Sequence[int]], Any]:
    """Makes the edit of a kind in some layers; maps are made at the first use, once for all layers."""
    maps: list[Any] = []

    def make(kind: str, layers: Sequence[int]) -> Any:
        if kind == IDENTITY:
            return to_identity(layers=list(layers))
        if kind == UNIFORM:
            return uniform_past(layers=list(layers))
        if not maps:
            maps.append(static(over=windows(loaded, WIDTH, TEXTS, seed), size=WIDTH).prepare(loaded))
        return _on(maps[0], layers)

    return make


def _on(whole: Any, layers: Sequence[int]) -> Any:
    """A static edit of all layers, on some of them."""
    return replace(whole, target=static(layers=list(layers)).target)


def _edited(loaded: LoadedModel, prompt: Prompt, make: Any, kind: str, layers: Sequence[int]) -> float:
    return _loss(loaded, prompt, (make(kind, layers),))


def _loss(loaded: LoadedModel, prompt: Prompt, edits: Sequence[Any]) -> float:
    return float(losses(loaded, prompt, ready(list(edits), loaded))[1:].mean())


def _table(places: Mapping[str, Sequence[int]], cost: Mapping[tuple[str, str], np.ndarray]) -> Table:
    return Table(
        "Rise of the loss, nats per token: mean [95 % interval over passages]",
        ("in the layers", "how many", *KINDS),
        tuple(
            (place, str(len(layers)), *(str(mean(cost[kind, place])) for kind in KINDS))
            for place, layers in places.items()
        ),
    )


CLAIM = Claim(
    claimed="mixing information across tokens is indispensable; that the mixing depends on the sequence can be given "
    "up in a subset of the layers, and a variant that fails alone can do well beside standard attention. (The paper "
    "trains with its variants; here a trained model's attention is replaced, which is harder, so that its numbers "
    "are no measure.)",
    data=f"{COUNT} passages of {WIDTH} tokens, {DATA}. Mean maps are of {TEXTS} windows of the train part.",
    measure=measure,
    how=(
        "Identity: every token sees itself only (`to_identity`). Static: every head has its mean map over the "
        "reference (`static`), whatever the text. The control mixes without anything learned: rows are uniform over "
        "the visible keys (`uniform_past`) in the same layers.",
        "The thirds have as many layers each (the middle one the rest), so that they are one another's controls.",
        f"The claim holds where the identity in all layers raises the loss by more than {COLLAPSE:g} nat, the identity "
        "costs more than the static map in every part (intervals over passages), and in some part the static map costs "
        f"less than {CHEAP:g} of what the identity costs there. Nothing was measured before these were set.",
    ),
    settings={"count": COUNT, "width": WIDTH, "texts": TEXTS},
)
