"""What a run may be asked to measure: suites, metrics and experiments, by name."""

from collections.abc import Sequence

from probe.errors import UnknownNameError, UsageError
from probe.experiments import BUILT_IN as EXPERIMENTS
from probe.metrics.table import BUILT_IN as METRICS
from probe.terms import Spec

SUITE = "suite:"
# As `probe.analysis.suites` has them, which loads torch; a test compares the two.
SUITES = ("retrieval", "sinks", "rhythm", "anchors", "entropy", "importance", "redundancy", "depends", "all")


def choices() -> list[dict[str, object]]:
    """What the form lists, in groups."""
    return [
        {"group": "Suites", "items": [SUITE + name for name in SUITES]},
        {"group": "Metrics, while a text is read", "items": sorted(METRICS)},
        {"group": "Experiments, which run the model themselves", "items": sorted(EXPERIMENTS)},
    ]


def checked_specs(specs: Sequence[str]) -> list[str]:
    """Specs of metrics, experiments and suites, each one looked at for its form.

    Raises:
        UnknownNameError: no such suite.
        UsageError: a spec that is written in another way, or is named twice.
    """
    if len(set(specs)) < len(specs):
        raise UsageError("a metric was asked twice; name each once")
    return [_checked(spec) for spec in specs]


def _checked(spec: str) -> str:
    if not spec.startswith(SUITE):
        return Spec.parse(spec).text
    name = spec.removeprefix(SUITE)
    if name not in SUITES:
        raise UnknownNameError.of("suite", name, SUITES)
    return spec
