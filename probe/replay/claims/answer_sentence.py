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
from probe.terms import HeadId

SEEDS, COUNT, DELTA = 4, 16, 0.95
LEVEL = 0.05  # of other heads that may do as well


def measure(work: Work) -> Finding:
    """How often the head's sentence is the one that states the answer, beside the circuit's others and all heads."""
    seeds = range(1 if work.small else SEEDS)
    found = [work.keep(f"seed {seed}", _one, work.model, seed) for seed in seeds]
    named = [one for one in found if one.get("head")]
    if not named:
        return not_asked("no circuit had a head, or the model does not answer from the context")
    hits, circuit, rivals, size = (
        np.asarray([one[name] for one in named], np.float64) for name in ("hits", "circuit", "rivals", "size")
    )
    low, high = interval(hits) if len(hits) > 1 else (float("nan"), float("nan"))
    own = Estimate(float(hits.mean()), low, high)
    gain = np.asarray([one["steered"] - one["plain"] for one in named])
    random = np.asarray([one["random"] - one["plain"] for one in named])
    heads = tuple(dict.fromkeys(str(one["head"]) for one in named))
    others = Estimate(
        float(np.nanmean(circuit)), float(np.nanmin(circuit)), float(np.nanmax(circuit)), "range"
    )
    chance = Estimate(float(rivals.mean()), float(rivals.min()), float(rivals.max()), "range")
    return Finding(
        holds=bool(own.value > 0.5 and (rivals <= LEVEL).all()),
        brief=f"{', '.join(heads)}: the right sentence in {own} of prompts (the circuit's other heads {others}); "
        f"{chance} of all heads do as well",
        rows=(
            Row("share of prompts whose sentence is found; control: the circuit's other heads", own, control=others),
            Row("share of all heads that find as many: the chance of a head drawn at random", chance),
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
    name = report.provenance.settings.get("attribution_head")
    if name is None or "source_hits" not in extra:
        return {"head": None}
    head, all_hits = HeadId.parse(str(name)), extra["source_hits"]
    hits = float(all_hits.sel(layer=head.layer, head=head.head))
    drawn = all_hits.values[np.isfinite(all_hits.values)]
    circuit = all_hits.where(extra["in_circuit"].astype(bool)).values
    circuit[head.layer, head.head] = np.nan
    said = {str(run): float(extra["steering"].sel(run=run)[0]) for run in extra["steering"]["run"].values}
    plain, steered, random = said.values()
    return {
        "head": str(head),
        "hits": round(hits, 4),
        "circuit": round(float(np.nanmean(circuit)), 4) if np.isfinite(circuit).any() else None,
        "rivals": round(float((drawn >= hits).sum() - 1) / (drawn.size - 1), 4),
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
        "head by entropy without the first token, the sentence by attention within a window round the token that is "
        "looked at most. The interval is over seeds; controls are the circuit's other heads, and every other head of "
        "the model.",
        f"The claim holds where the head finds the sentence in more than half of the prompts, and with every seed at "
        f"most {LEVEL:.0%} of the other heads find as many: a head drawn at random would then hardly do as well.",
    ),
    settings={"seeds": SEEDS, "count": COUNT, "delta": DELTA},
)
