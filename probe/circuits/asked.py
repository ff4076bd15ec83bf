"""What is asked of a method as text (``relp:nodes=z,at=end``), checked against its signature before any work."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from probe.circuits.study import CircuitOptions
from probe.circuits.table import full_name, method
from probe.errors import UnknownNameError, UsageError
from probe.interventions.making import read_value
from probe.terms import Spec

#: What `nodes` may be called besides its own names.
NODE_ALIASES: Mapping[str, str] = {"heads": "z", "attn": "attn_out", "mlp": "mlp_out", "resid": "resid_pre"}

_APART = ("model", "pairs", "options")  # never written as text


@dataclass(frozen=True)
class Asked:
    """A method with its own parameters, and the options that all methods have in common."""

    name: str
    function: Callable[..., Any]
    values: Mapping[str, Any]
    options: CircuitOptions

    @property
    def takes_pairs(self) -> bool:
        """Whether the method runs on pairs (some read weights alone)."""
        return "pairs" in inspect.signature(self.function).parameters

    @property
    def takes_options(self) -> bool:
        """Whether the method has the options that methods have in common, progress among them."""
        return "options" in inspect.signature(self.function).parameters


def read_call(spec: str, more: Mapping[str, str]) -> Asked:
    """Read a method with its parameters and options (``relp:nodes=z,count=32``).

    Args:
        spec: ``NAME`` or ``NAME:k=v,…``; short names are those of `probe.circuits.table.ALIASES`, lists are joined by
            ``+``.
        more: The same, given apart; what the spec has as well is refused.

    Raises:
        UnknownNameError: no such method, or something that it does not take.
        UsageError: something given twice, missing, or of the wrong type.
    """
    parsed = Spec.parse(spec)
    name = full_name(parsed.name)
    twice = parsed.params.keys() & more.keys()
    if twice:
        one = sorted(twice)[0]
        raise UsageError(f"{spec!r} was asked with {one} given apart; give {one} once")
    function = method(name)
    own, common = _own(function), _common(function)
    values: dict[str, Any] = {}
    changes: dict[str, Any] = {}
    for key, text in {**parsed.params, **more}.items():
        if key in own:
            said = "+".join(NODE_ALIASES.get(one, one) for one in text.split("+")) if key == "nodes" else text
            values[key] = read_value(said, own[key].annotation, f"{name}: {key}")
        elif key in common:
            changes[key] = read_value(text, common[key], f"{name}: {key}")
        else:
            raise UnknownNameError.of(f"option of {name}", key, [*own, *common])
    missing = [
        key for key, one in own.items() if one.default is inspect.Parameter.empty and key not in values
    ]
    if missing:
        raise UsageError(f"{spec!r} was asked; {name} needs {missing[0]}: write {name}:{missing[0]}=…")
    return Asked(name, function, values, CircuitOptions.of(None, changes))


def _own(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters that are a method's own, by name."""
    named = inspect.signature(function).parameters.values()
    return {
        one.name: one
        for one in named
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and one.name not in _APART
    }


def _common(function: Callable[..., Any]) -> dict[str, Any]:
    """The options that methods have in common, by name, where a method takes them."""
    if "options" not in inspect.signature(function).parameters:
        return {}
    return {name: kind for name, kind in get_type_hints(CircuitOptions).items() if name != "progress"}
