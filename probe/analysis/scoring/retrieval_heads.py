"""The heads that are masked where nobody names any: those that retrieve best."""

from dataclasses import dataclass

from probe.analysis.choices import Progress
from probe.errors import UsageError
from probe.experiments.base import Ask
from probe.metrics.making import make
from probe.models import LoadedModel
from probe.report.ranking import cells, top_heads

SPECS: dict[str, str] = {
    "json": "json_retrieval",
    # Six tests. On SmolLM2-135M they name the same top 5 % of heads as the protocol's 24, in a sixth of the time.
    "needles": "retrieval:lengths=500,needles=2",
}
_WHAT: dict[str, str] = {
    "json": "values looked up in JSON objects, the task of the paper (arXiv:2505.07293)",
    "needles": (
        "needles hidden in prose; the paper (arXiv:2505.07293) finds its heads on JSON lookups, so they may differ"
    ),
}


@dataclass(frozen=True)
class ChosenHeads:
    """Heads by name, the best first, and lines about how they were found."""

    heads: tuple[str, ...]
    notes: tuple[str, ...]


def retrieval_heads(
    loaded: LoadedModel, share: float, seed: int, detect: str = "json", progress: Progress | None = None
) -> ChosenHeads:
    """The best `share` of a model's heads by their retrieval score, at least one, and none that never copied.

    The score is a head's share of copied answer tokens, over all visible keys: of values looked up in JSON objects
    (``detect="json"``, as AttentionInfluence does, arXiv:2505.07293; see `probe.experiments.json_retrieval`), or of
    needles hidden in prose (``"needles"``; see `probe.experiments.retrieval`).

    Raises:
        UsageError: no head has a score: the model cannot be asked, or passes no test.
    """
    spec = SPECS[detect]
    (answer,) = make(spec).run(Ask(loaded, seed=seed, progress=progress))
    n_heads = sum(1 for _ in cells(answer.head_map))
    wanted = max(1, round(share * n_heads))
    best = [name for name, score in top_heads(answer, wanted) if score > 0]
    if not best:
        why, other = "; ".join(answer.notes), next(one for one in SPECS if one != detect)
        raise UsageError(
            f"no heads were named, and {loaded.name} shows no retrieval heads to mask ({why}): name some with "
            f"heads (--heads L18.H6,...), or try detect={other}"
        )
    found = f"the {len(best)} of {n_heads} heads ({share:.3g} of them asked) that score highest on {spec}"
    line = f"masked are {found}, {_WHAT[detect]}"
    return ChosenHeads(tuple(best), (line, *(f"{spec}: {note}" for note in answer.notes)))
