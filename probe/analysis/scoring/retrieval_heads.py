"""The heads that are masked where nobody names any: those that retrieve best."""

from dataclasses import dataclass

from probe.analysis.choices import Progress
from probe.errors import UsageError
from probe.experiments import Retrieval
from probe.experiments.base import Ask
from probe.models import LoadedModel
from probe.report.ranking import cells, top_heads

# Six tests. On SmolLM2-135M they name the same top 5 % of heads as the protocol's 24, in a sixth of the time.
LENGTHS, NEEDLES = "500", 2


@dataclass(frozen=True)
class ChosenHeads:
    """Heads by name, the best first, and lines about how they were found."""

    heads: tuple[str, ...]
    notes: tuple[str, ...]


def retrieval_heads(
    loaded: LoadedModel, share: float, seed: int, progress: Progress | None = None
) -> ChosenHeads:
    """The best `share` of a model's heads by their retrieval score, at least one, and none that never copied.

    The score is that of `probe.experiments.Retrieval`: copies of a needle hidden in prose, over all visible keys.
    AttentionInfluence (arXiv:2505.07293) takes the same score on JSON lookups of its own making; a note says so.

    Raises:
        UsageError: no head has a score: the model cannot be asked, or passes no test.
    """
    experiment = Retrieval(lengths=LENGTHS, needles=NEEDLES)
    spec = f"{experiment.spec}:lengths={LENGTHS},needles={NEEDLES}"
    (answer,) = experiment.run(Ask(loaded, seed=seed, progress=progress))
    n_heads = sum(1 for _ in cells(answer.head_map))
    wanted = max(1, round(share * n_heads))
    best = [name for name, score in top_heads(answer, wanted) if score > 0]
    if not best:
        why = "; ".join(answer.notes)
        raise UsageError(
            f"no heads were named, and {loaded.name} shows no retrieval heads to mask ({why}): name some with "
            "heads (--heads L18.H6,...)"
        )
    found = f"the {len(best)} of {n_heads} heads ({share:.3g} of them asked) that score highest on {spec}"
    line = (
        f"masked are {found}, needles hidden in prose; the paper (arXiv:2505.07293) finds its heads on JSON lookups, "
        "so they may differ"
    )
    return ChosenHeads(tuple(best), (line, *(f"{spec}: {note}" for note in answer.notes)))
