"""The attribution head of the context circuit points to the sentence that states the answer (or not)."""

from typing import Any

import numpy as np

from probe.circuits.answer_heads import attribution_heads
from probe.errors import UsageError
from probe.models import LoadedModel
from probe.replay.claim import Claim
from probe.replay.finding import Estimate, Finding, Row, not_asked
from probe.replay.intervals import interval
from probe.replay.work import Work

SEEDS, COUNT, DELTA = 4, 16, 0.95


def measure(work: Work) -> Finding:
    """How often the head's sentence is the one that states the answer, beside all heads of the same layer."""
    seeds = range(1 if work.small else SEEDS)
    found = [work.keep(f"seed {seed}", _one, work.model, seed) for seed in seeds]
    named = [one for one in found if one.get("head")]
    if not named:
        return not_asked("no circuit had a head, or the model does not answer from the context")
    hits, layer, size = (
        np.asarray([one[name] for one in named], np.float64) for name in ("hits", "others", "size")
    )
    low, high = interval(hits) if len(hits) > 1 else (float("nan"), float("nan"))
    own = Estimate(float(hits.mean()), low, high)
    gain = np.asarray([one["steered"] - one["plain"] for one in named])
    random = np.asarray([one["random"] - one["plain"] for one in named])
    heads = tuple(dict.fromkeys(str(one["head"]) for one in named))
    ranges = Estimate(float(layer.mean()), float(layer.min()), float(layer.max()), "range")
    return Finding(
        holds=bool(own.value > 0.5 and hits.min() > layer.max()),
        brief=f"{', '.join(heads)}: the right sentence in {own} of prompts (other heads of the layer {ranges})",
        rows=(
            Row("share of prompts whose sentence is found; control: the other heads of its layer", own, control=ranges),
            Row("heads in the context's circuit", Estimate(float(size.mean()), digits=0), "≈ 10"),
            Row(
                "change of accuracy when the sentence is said again; control: another sentence",
                Estimate(float(gain.mean())), "up to 0.09", Estimate(float(random.mean())),
            ),
        ),
        found=(f"{len(named)} of {len(found)} sets of pairs gave an attribution head.",),
        heads=heads,
    )  # fmt: skip


def _one(loaded: LoadedModel, seed: int) -> dict[str, Any]:
    """The head of one set of pairs, its hits, those of its layer, and what steering does."""
    try:
        report = attribution_heads(
            loaded, "counterfactual", memory=None, delta=DELTA, count=COUNT, seed=seed, min_accuracy=0.6
        )
    except UsageError:
        return {"head": None}
    (key,) = report
    extra: Any = report.answer(key).extra
    head = report.provenance.settings.get("attribution_head")
    if head is None or "source_hits" not in extra:
        return {"head": None}
    layer, unit = (int(part[1:]) for part in str(head).split("."))
    hits = extra["source_hits"].sel(layer=layer)
    said = {str(run): float(extra["steering"].sel(run=run)[0]) for run in extra["steering"]["run"].values}
    plain, steered, random = said.values()
    return {
        "head": str(head),
        "hits": round(float(hits.sel(head=unit)), 4),
        "others": round(float(hits.drop_sel(head=unit).mean()), 4),
        "size": int(extra["in_circuit"].sum()),
        "plain": plain,
        "steered": steered,
        "random": random,
    }


CLAIM = Claim(
    claimed="one head of the circuit that answers from the context, the one with the lowest entropy, attends to "
    "where the "
    "answer stands, so that its attention attributes answers; saying the sentence again makes answers better (up "
    "to 9 %).",
    data=f"{COUNT} seeded pairs of the task `counterfactual` for each of {SEEDS} seeds; circuit, head and numbers "
    "come from "
    "the same prompts (nothing is held out: the rule leaves no choice among heads).",
    measure=measure,
    how=(
        f"`attribution_heads` at its defaults (delta {DELTA}): the circuit by activation patching at the last "
        "position, the "
        "head by entropy without the first token, the sentence by attention within a window round the token that "
        "is looked "
        "at most. The interval is over seeds; the control is the mean of the other heads of the same layer.",
        "The claim holds where the head finds the sentence in more than half of the prompts, and in more than any "
        "other "
        "layer mean does.",
    ),
    settings={"seeds": SEEDS, "count": COUNT, "delta": DELTA},
)
