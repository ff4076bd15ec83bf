"""From a spec as typed (``sink:n=4``) to a metric or experiment: names looked up, parameters checked by type."""

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args, get_origin

from probe.errors import UnknownNameError, UsageError
from probe.metrics.table import METRICS
from probe.terms import Spec

_BOOLEANS = {"true": True, "false": False}


def make(spec: str) -> Any:
    """Build the metric or experiment that `spec` names; its answer's key is the spec as typed.

    >>> make("sink:n=4").n
    4

    Raises:
        UnknownNameError: no such metric or parameter; the message offers the nearest.
        UsageError: a parameter of the wrong type or out of range, or a spec that is not ``NAME:k=v,…``.
    """
    parsed = Spec.parse(spec)
    built_by = _class_of(parsed.name)
    known = parameters(built_by)
    values = {}
    for key, text in parsed.params.items():
        if key not in known:
            raise UnknownNameError(_unknown(parsed.name, key, known))
        values[key] = _read(text, known[key].annotation, f"{parsed.name}: {key}")
    missing = [
        key for key, one in known.items() if one.default is inspect.Parameter.empty and key not in values
    ]
    if missing:
        raise UsageError(
            f"{spec!r} was asked; {parsed.name} needs {missing[0]}: write {parsed.name}:{missing[0]}=…"
        )
    made = built_by(**values)
    made.spec = parsed.text
    return made


def metric_infos() -> list[Any]:
    """The `MetricInfo` of every metric and experiment, in the order of their tables."""
    return [one.info for one in (*METRICS.values(), *_experiments().values())]


def names() -> list[str]:
    """Every name that `make` knows."""
    return [*METRICS, *_experiments()]


def parameters(built_by: type[Any]) -> dict[str, inspect.Parameter]:
    """The named parameters of a metric's constructor."""
    named = inspect.signature(built_by).parameters.values()
    return {one.name: one for one in named if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}


def at_least(metric: str, name: str, value: int, low: int) -> None:
    """Refuse a parameter below `low`, naming metric, parameter, what was found and what is allowed."""
    if value < low:
        raise UsageError(f"{metric}: {name} was {value}; allowed is {low} or more")


def one_of(metric: str, name: str, value: str, allowed: Iterable[str]) -> None:
    """Refuse a parameter that is none of `allowed`."""
    if value not in (allowed := tuple(allowed)):
        raise UsageError(f"{metric}: {name} was {value!r}; allowed: {', '.join(allowed)}")


def _class_of(name: str) -> type[Any]:
    if name in METRICS:
        return METRICS[name]
    experiments = _experiments()
    if name not in experiments:
        raise UnknownNameError.of("metric", name, [*METRICS, *experiments])
    return experiments[name]


def _experiments() -> Mapping[str, type[Any]]:
    # Experiments run metrics, so their room imports this one; here it is only looked up when somebody asks.
    found: Mapping[str, type[Any]] = vars(importlib.import_module("probe.experiments")).get("EXPERIMENTS", {})
    return found


def _unknown(metric: str, key: str, known: Iterable[str]) -> str:
    known = list(known)
    if not known:
        return f"{metric}: {key!r} was asked; {metric} takes no parameters: write {metric}"
    return str(UnknownNameError.of(f"parameter of {metric}", key, known))


def _read(text: str, annotation: Any, where: str) -> object:
    if get_origin(annotation) is Literal:
        if text not in get_args(annotation):
            raise UsageError(f"{where} was {text!r}; allowed: {', '.join(map(str, get_args(annotation)))}")
        return text
    kind, allowed = _READERS.get(annotation, (str, "text"))
    try:
        return kind(text)
    except ValueError as error:
        raise UsageError(f"{where} was {text!r}; allowed is {allowed}") from error


def _boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise ValueError(text)
    return _BOOLEANS[text.lower()]


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


_READERS: Mapping[Any, tuple[Callable[[str], object], str]] = {
    int: (int, "a whole number"),
    float: (_number, "a number"),
    bool: (_boolean, "true or false"),
    str: (str, "text"),
}
