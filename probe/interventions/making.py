"""From a spec as typed (``scale:heads=L18.H6+L20.H6,alpha=2``) to an intervention."""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from probe.errors import UnknownNameError, UsageError
from probe.interventions.table import INTERVENTIONS
from probe.interventions.target import Where
from probe.terms import HeadId, Spec

# What older pages and other tools call the same things.
ALIASES = {"uniform": "uniform_past"}
_SPAN = re.compile(r"(\d+)\.\.(\d+)")
_BOOLEANS = {"true": True, "false": False}


def make(spec: str, **more: Any) -> Any:
    """Build the intervention that `spec` names; `more` are parameters given apart from the spec.

    Lists are joined by ``+``, spans are a name or ``start..stop``.

    >>> make("scale:heads=L18.H6,alpha=2").name
    'scale:heads=L18.H6,alpha=2'

    Raises:
        UnknownNameError: no such intervention or parameter; the message offers the nearest.
        UsageError: a parameter given twice, of the wrong type or out of range; a spec that is not ``NAME:k=v,…``.
    """
    parsed = Spec.parse(_legacy(spec))
    name = ALIASES.get(parsed.name, parsed.name)
    if name not in INTERVENTIONS:
        raise UnknownNameError.of("intervention", parsed.name, [*INTERVENTIONS, *ALIASES])
    known = parameters(INTERVENTIONS[name])
    values: dict[str, Any] = {}
    for key, text in parsed.params.items():
        if key not in known:
            raise UnknownNameError.of(f"parameter of {name}", key, known)
        values[key] = read_value(text, known[key].annotation, f"{name}: {key}")
    for key, value in more.items():
        if key in values:
            raise UsageError(f"{spec!r} was asked with {key} given apart; give {key} once")
        values[key] = value
    missing = [k for k, one in known.items() if one.default is inspect.Parameter.empty and k not in values]
    if missing:
        raise UsageError(f"{spec!r} was asked; {name} needs {missing[0]}: write {name}:{missing[0]}=…")
    return INTERVENTIONS[name](**values)


def extended(spec: str, more: Mapping[str, str]) -> str:
    """A spec with further parameters as text.

    >>> extended("scale=2", {"queries": "last"})
    'scale:alpha=2,queries=last'
    """
    whole = _legacy(spec.strip())
    for name, text in more.items():
        whole += f"{',' if ':' in whole else ':'}{name}={text}"
    return whole


def parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of an intervention's factory by name, those of `Where` included."""
    named = inspect.signature(factory).parameters.values()
    found = {one.name: one for one in named if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    if any(one.kind is one.VAR_KEYWORD for one in named):
        for name, annotation in get_type_hints(Where).items():
            kind = inspect.Parameter.KEYWORD_ONLY
            found.setdefault(name, inspect.Parameter(name, kind, default=None, annotation=annotation))
    return found


def _legacy(spec: str) -> str:
    """``scale=2.0``, the short form of ``scale:alpha=2.0``."""
    name, equals, value = spec.strip().partition("=")
    return f"scale:alpha={value}" if name == "scale" and equals else spec


def read_value(text: str, annotation: Any, where: str) -> Any:
    """Text as a value of an annotation; raises `UsageError` that begins with `where` and says what is allowed."""
    kind, allowed = _reader(annotation)
    try:
        return kind(text)
    except (ValueError, KeyError) as error:
        raise UsageError(f"{where} was {text!r}; allowed is {allowed}") from error


def _reader(annotation: Any) -> tuple[Callable[[str], Any], str]:
    """How text becomes a value of an annotation, and what to say where it cannot."""
    if annotation in _READERS:
        return _READERS[annotation]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return {str(one): one for one in inner}.__getitem__, ", ".join(map(str, inner))
    if origin in (UnionType, Union):
        rest = [one for one in inner if one is not NoneType]
        if any(get_origin(one) is tuple for one in rest):
            return _span, "a span's name or start..stop"
        readers = [_reader(one) for one in rest if one is not HeadId]
        return _first(readers), " or ".join(allowed for _, allowed in readers)
    if origin is not None and inner and issubclass(origin, Iterable) and not issubclass(origin, Mapping):
        each, allowed = _reader(inner[0])
        return lambda text: [each(part) for part in text.split("+")], f"{allowed}, joined by +"
    return str, "text"


def _first(readers: list[tuple[Callable[[str], Any], str]]) -> Callable[[str], Any]:
    """The first reader that can read it."""

    def read(text: str) -> Any:
        for reader, _ in readers[:-1]:
            try:
                return reader(text)
            except (ValueError, KeyError):
                continue
        return readers[-1][0](text)

    return read


def _span(text: str) -> str | tuple[int, int]:
    match = _SPAN.fullmatch(text)
    return text if match is None else (int(match[1]), int(match[2]))


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


_READERS: Mapping[Any, tuple[Callable[[str], Any], str]] = {
    int: (int, "a whole number"),
    float: (_number, "a number"),
    bool: (lambda text: _BOOLEANS[text.lower()], "true or false"),
    str: (str, "text"),
}


def wants_heads(how: object) -> bool:
    """Whether an intervention is given as a spec that takes heads and names none.

    >>> wants_heads("uniform_past"), wants_heads("zero:heads=L1.H2"), wants_heads("skip_layer:layers=3")
    (True, False, False)
    """
    if not isinstance(how, str):
        return False
    name, _, rest = how.strip().partition(":")
    name = name.partition("=")[0]
    factory = INTERVENTIONS.get(ALIASES.get(name, name))
    named = {item.partition("=")[0] for item in rest.split(",")}
    return factory is not None and "heads" in parameters(factory) and "heads" not in named
