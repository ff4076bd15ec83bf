"""The report of a method that reads weights: there are no prompts."""

from collections.abc import Mapping, Sequence
from typing import Any

from probe_kernels import chosen_backend

from probe.analysis.records import model_record
from probe.circuits.study import CircuitOptions
from probe.models import LoadedModel
from probe.report import Report
from probe.report.answer import Answer
from probe.report.provenance import Provenance, utc_now

#: What is held in all readings of heads' weights.
HELD = (
    "weights of heads hold the gains of the norms that they pass, not their scales; queries and keys are those at "
    "position 0, where rotary positions turn nothing; biases are left out"
)
INNER = "queries or keys pass a norm of their own; its gain is taken, its scale left out"


def weights_report(
    loaded: LoadedModel,
    options: CircuitOptions,
    answer: Answer,
    settings: Mapping[str, Any],
    started: str,
    notes: Sequence[str] = (),
) -> Report:
    """The report of one answer that was read off weights."""
    provenance = Provenance(
        model=model_record(loaded),
        kernels=chosen_backend(None, loaded.device),
        seed=options.seed,
        started=started,
        ended=utc_now(),
        settings=dict(settings),
        notes=tuple(dict.fromkeys([*loaded.notes, HELD, *notes])),
    )
    return Report([answer], provenance, [])
