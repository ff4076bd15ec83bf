"""The provenance of an ablation."""

from collections.abc import Sequence

from probe.analysis.ablation.options import AblateOptions
from probe.analysis.first_use import drift_of
from probe.analysis.inputs import Inputs
from probe.analysis.records import bos_of, model_record
from probe.models import LoadedModel
from probe.report.provenance import Provenance, utc_now


def record(
    loaded: LoadedModel, inputs: Inputs, options: AblateOptions, started: str, notes: Sequence[str]
) -> Provenance:
    """Where the numbers came from: weights, prompts, choices, software."""
    return Provenance(
        model=model_record(loaded),
        mode="fused",
        tokens=inputs.n_tokens,
        prompts=inputs.n_prompts,
        seed=options.seed,
        logit_drift=drift_of(loaded.model, "fused"),
        bos=bos_of(inputs.items),
        command=options.command,
        started=started,
        ended=utc_now(),
        settings={
            "controls": options.controls,
            "new_tokens": options.new_tokens,
            "max_tokens": options.max_tokens,
            "stepwise": options.stepwise,
        },
        notes=tuple(notes),
    )
