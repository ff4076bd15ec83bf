"""What was asked of an analysis, checked before anything runs."""

from dataclasses import dataclass, field
from typing import Any

from probe.analysis.choice import Choice, check_backend, choose
from probe.analysis.inputs import Inputs, read_inputs
from probe.analysis.options import AnalyzeOptions
from probe.analysis.own_inputs import has_own
from probe.analysis.ready import check_interventions, ready
from probe.analysis.resume import check_output
from probe.errors import UsageError
from probe.interventions.base import edits_pattern
from probe.metrics.base import Metric
from probe.models import LoadedModel, load
from probe.models.untrained import check_buildable
from probe.report.provenance import utc_now
from probe.seam.places import places


@dataclass(frozen=True)
class Plan:
    """Everything that was asked, checked."""

    loaded: LoadedModel
    inputs: Inputs
    choice: Choice
    interventions: tuple[Any, ...]
    options: AnalyzeOptions
    shipped: bool = (
        False  # nobody gave prompts: metrics with a better input than the shipped text take theirs
    )
    started: str = field(default_factory=utc_now)

    @property
    def on_inputs(self) -> tuple[Metric, ...]:
        """The metrics that watch the plan's inputs."""
        return tuple(metric for metric in self.choice.metrics if metric not in self.on_own)

    @property
    def on_own(self) -> tuple[Metric, ...]:
        """The metrics that watch prompts of their own."""
        if not self.shipped:
            return ()
        return tuple(metric for metric in self.choice.metrics if has_own(metric))

    @property
    def sweeps(self) -> bool:
        """Whether the plan's inputs are run at all."""
        return bool(self.on_inputs) or self.options.keep != "none"


def prepare(
    model: object, prompts: object, metrics: object, interventions: object, options: AnalyzeOptions
) -> Plan:
    """Check everything that can be checked without running the model, cheapest first."""
    choice = choose(metrics)
    edits = check_interventions(interventions)
    if options.mode == "shadow" and edits:
        raise UsageError("mode='shadow' was asked with interventions; edits need mode='fused'")
    if options.keep == "qk" and any(map(edits_pattern, edits)):
        raise UsageError(
            "keep='qk' was asked with an intervention that edits scores; kept queries and keys do not hold the "
            "edit: use keep='map'"
        )
    check_backend(options.kernels)
    if options.folder is not None:
        check_output(options.folder)
    loaded = load(model, device=options.device, dtype=options.dtype)
    check_backend(options.kernels, loaded)
    if not places(loaded.model):
        raise UsageError(f"{loaded.name} was asked; it has no attention layers: give a transformer")
    if options.baseline is not None:
        check_buildable(loaded)
    inputs = read_inputs(prompts, loaded, options)
    edits = ready(edits, loaded, [item.prompt for item in inputs.items if item.prompt is not None])
    return Plan(loaded, inputs, choice, edits, options, shipped=prompts is None)
