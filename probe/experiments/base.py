"""What an experiment is: it brings its own prompts and runs, and answers in the same report as the metrics."""

from collections.abc import Callable
from typing import ClassVar, Protocol, runtime_checkable

from probe.metrics.base import MetricInfo
from probe.models import LoadedModel
from probe.report.answer import Answer

Progress = Callable[[int, int, str], None]  # done, total, what


@runtime_checkable
class Experiment(Protocol):
    """Runs the model on prompts of its own. `spec` is the spec as typed, the key of its answers."""

    info: ClassVar[MetricInfo]
    spec: str

    def run(self, model: LoadedModel, *, seed: int = 0, progress: Progress | None = None) -> list[Answer]:
        """Run and answer, one `Answer` per tower."""
