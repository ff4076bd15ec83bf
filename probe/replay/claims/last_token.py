"""Sums are worked out at the last token: others may wait, and are then looked at in few layers (or not)."""

from typing import Any

import numpy as np

from probe.circuits import make_pairs
from probe.circuits.patching import activation_patching
from probe.circuits.waiting import all_for_one
from probe.models import LoadedModel
from probe.replay.claim import Claim
from probe.replay.finding import Finding, Row
from probe.replay.intervals import mean
from probe.replay.work import Work

COUNT, TRANSFER, KEPT, DEEP = 32, 2, 0.8, 1 / 3


def measure(work: Work) -> Finding:
    """Accuracy when tokens wait, at the layer that half of the pairs choose, on the other half."""
    count = 8 if work.small else COUNT
    train, held = (
        work.keep(part, _scan, work.model, part, count, work.seed) for part in ("train", "held_out")
    )
    chosen = _latest(np.asarray(train["kept"], np.float64))
    depth = np.asarray(held["layers"])[chosen] / len(held["layers"])
    by_pair = np.asarray(held["by_pair"], np.float64)[:, chosen]
    own = by_pair[np.isfinite(by_pair)]
    control = float(np.asarray(held["position"], np.float64)[chosen])
    cut = float(np.asarray(held["cut"], np.float64)[chosen])
    where = work.keep("patched", _by_layer, work.model, count, work.seed)
    handed = _first_above(np.asarray(where["end"], np.float64), 0.9)
    holds = bool(own.mean() >= KEPT and depth >= DEEP)
    kept = mean(own)
    return Finding(
        holds=holds,
        brief=f"waiting until layer {held['layers'][chosen]} of {len(held['layers'])}, then {TRANSFER} layers of "
        f"looking back, keeps {kept} of what is solved (control {control:.2f})",
        rows=(
            Row(
                "share of solved sums that stay solved; control: means whatever the token",
                kept,
                "≈ 1",
                f"{control:.2f}",
            ),
            Row("the same without any look back", f"{cut:.2f}"),
            Row(
                "depth of the layer that is waited for, as a share of all layers",
                f"{depth:.2f}",
                "0.44 – 0.47",
            ),
            Row("first layer whose last token alone carries 0.9 of the difference", handed),
        ),
        found=(
            f"{len(own)} solved sums of the held-out half. The layer is the last one that keeps {KEPT} of the sums "
            "of the "
            "other half (the first layer where none does).",
        ),
    )


def _latest(kept: np.ndarray) -> int:
    enough = np.flatnonzero(kept >= KEPT)
    return int(enough[-1]) if len(enough) else 0


def _first_above(values: np.ndarray, least: float) -> str:
    """The first layer from which on the values stay at `least` or above."""
    below = np.flatnonzero(values < least)
    first = int(below[-1]) + 1 if len(below) else 0
    return f"{first} of {len(values)}" if first < len(values) else "none"


def _scan(loaded: LoadedModel, part: Any, count: int, seed: int) -> dict[str, Any]:
    """By layer: accuracy kept, that by pair, with unconditional means, and without a look back."""
    pairs = make_pairs("arithmetic", loaded.tokenizer, count=count, seed=seed, part=part)
    report = all_for_one(loaded, pairs, TRANSFER, transfers=(0,), min_accuracy=0.5)
    (key,) = report
    answer = report.answer(key)
    extra: Any = answer.extra
    by_pair = None if answer.by_prompt is None else answer.by_prompt.values
    return {
        "layers": [int(layer) for layer in answer.head_map.coords["layer"].values],
        "kept": _listed(answer.head_map.values),
        "by_pair": None if by_pair is None else [_listed(row) for row in by_pair],
        "position": _listed(extra["control"].sel(mean="position").values),
        "cut": _listed(extra["grid"].sel(transfer=0).values),
    }


def _by_layer(loaded: LoadedModel, count: int, seed: int) -> dict[str, Any]:
    """Recovery of the stream entering each layer at the last token alone."""
    pairs = make_pairs("arithmetic", loaded.tokenizer, count=count, seed=seed, part="held_out")
    report = activation_patching(loaded, pairs, "resid_pre", at="end", min_accuracy=0.5)
    (key,) = report
    return {"end": _listed(report[key].values)}


def _listed(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(one) else round(float(one), 4) for one in values]


CLAIM = Claim(
    claimed="mental arithmetic is done at the last token: in Llama-3-8B the others may be given the mean state of "
    "their "
    "token until about layer 14 or 15 of 32, then be looked at by the last token in two layers only, and most sums "
    "are still solved (All-for-One).",
    data=f"{COUNT} seeded sums of the task `arithmetic` in each part: the train part chooses the layer, the held-out "
    "part is measured.",
    measure=measure,
    how=(
        f"`all_for_one` with {TRANSFER} layers of transfer. Means are over the prompts of the other pairs of the "
        "half. Of "
        "the layers, that is taken which is the last to keep 0.8 of the sums of the half that chooses. The "
        "interval is "
        "over sums. Control: the mean of the position whatever its token.",
        f"The claim holds where {KEPT} of the held-out sums stay solved and the layer lies behind the first third "
        "of the "
        "layers. Both bounds are ours.",
    ),
    settings={"count": COUNT, "transfer": TRANSFER, "kept": KEPT},
)
