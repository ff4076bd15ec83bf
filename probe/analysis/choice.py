"""What was asked to be computed: metrics and experiments, from specs or ready-made."""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from probe_kernels import BackendError, backend_for, chosen_backend
from probe_kernels.types import Scores, Want

from probe.analysis.suites import PREFIX, suite
from probe.errors import UsageError
from probe.experiments import EXPERIMENTS
from probe.experiments.base import Experiment
from probe.metrics.base import Metric
from probe.metrics.making import make, names, parameters
from probe.metrics.table import METRICS
from probe.models import LoadedModel
from probe.terms import DEFAULT_METRICS


@dataclass(frozen=True)
class Choice:
    """Metrics that observe the user's prompts, experiments that bring their own, and what was left out."""

    metrics: tuple[Metric, ...]
    experiments: tuple[Experiment, ...]
    notes: tuple[str, ...] = ()
    in_group: frozenset[str] = frozenset()  # specs that came with a suite or with all, not by name

    @property
    def specs(self) -> list[str]:
        """Every spec, in order."""
        return [metric.spec for metric in self.metrics] + [one.spec for one in self.experiments]


def choose(metrics: object) -> Choice:
    """Read what was asked: specs, instances, ``"suite:NAME"``, ``"all"``, or None for the default metrics.

    ``"all"`` leaves out what takes many forwards (`MetricInfo.slow`) or needs a parameter, and says so. Instances are
    copied without what they have seen, so that they can be used again.

    Raises:
        UnknownNameError: a metric or parameter that does not exist.
        UsageError: a spec twice, or something that is neither a spec nor a metric.
    """
    notes: tuple[str, ...] = ()
    if metrics is None:
        asked: list[object] = list(DEFAULT_METRICS)
    elif metrics == "all":
        asked, notes = _all()
    elif isinstance(metrics, Sequence) and not isinstance(metrics, str):
        asked = list(metrics)
    else:
        asked = [metrics]
    unfolded = _unfolded(asked)
    named = set() if metrics == "all" else {one for one in asked if isinstance(one, str)}
    in_group = frozenset(one for one in unfolded if isinstance(one, str)) - named
    made: list[Any] = [*map(_one, unfolded)]
    specs = [one.spec for one in made]
    for spec in specs:
        if specs.count(spec) > 1:
            raise UsageError(f"{spec!r} was asked twice; name each metric once")
    experiments = tuple(one for one in made if _is_experiment(one))
    return Choice(tuple(one for one in made if not _is_experiment(one)), experiments, notes, in_group)


def check_backend(kernels: str | None, loaded: LoadedModel | None = None) -> None:
    """Raise `UsageError` where the backend that was asked does not exist or cannot serve the model.

    Before a model is loaded, only its name is checked.
    """
    try:
        chosen_backend(kernels)
        if loaded is not None:
            dtype = next((p.dtype for p in loaded.model.parameters() if p.is_floating_point()), None)
            one = torch.zeros(1, 1, 1, 1, dtype=dtype, device=loaded.device)
            backend_for(Scores(one, one, one, 1.0), Want(), kernels)
    except BackendError as error:
        raise UsageError(str(error)) from error


def _unfolded(asked: Sequence[object]) -> list[object]:
    """The same with every suite replaced by its specs; one that was asked already is not asked again."""
    specs: list[object] = [one for one in asked if not _is_suite(one)]
    for name in filter(_is_suite, asked):
        specs += [spec for spec in suite(str(name).removeprefix(PREFIX)) if spec not in specs]
    return specs


def _is_suite(asked: object) -> bool:
    return isinstance(asked, str) and asked.startswith(PREFIX)


def _all() -> tuple[list[object], tuple[str, ...]]:
    asked: list[object] = []
    left: list[str] = []
    for name in names():
        made = _class(name)
        needs = [k for k, v in parameters(made).items() if v.default is inspect.Parameter.empty]
        if needs:
            left.append(f"{name} was left out: it needs {needs[0]}, write {name}:{needs[0]}=…")
        elif made.info.slow:
            left.append(f"{name} was left out: it takes many forwards; ask for it by name, or for its suite")
        else:
            asked.append(name)
    return asked, tuple(left)


def _class(name: str) -> type[Any]:
    found: type[Any] = METRICS[name] if name in METRICS else EXPERIMENTS[name]
    return found


def _one(asked: object) -> Any:
    if isinstance(asked, str):
        return make(asked)
    if isinstance(asked, type) or not (_is_experiment(asked) or isinstance(asked, Metric)):
        raise UsageError(f"{asked!r} was asked as a metric; give a spec such as 'entropy', or an instance")
    if _is_experiment(asked):
        return asked
    fresh: Any = copy.copy(asked)
    fresh.cells = {}
    return fresh


def _is_experiment(one: object) -> bool:
    return isinstance(one, Experiment) and not isinstance(one, Metric)
