"""The methods of this room by name; the code of each is loaded when it is asked."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from probe.errors import UnknownNameError


@dataclass(frozen=True)
class Method:
    """One method: where its function is (``module:function``), one sentence, and its paper."""

    where: str
    summary: str
    paper: str


METHODS: Mapping[str, Method] = {
    "activation_patching": Method(
        "probe.circuits.patching:activation_patching",
        "How much of the difference between two runs one value carries, by putting it into the other run",
        "Zhang & Nanda 2024 (arXiv:2309.16042)",
    ),
}

#: Short names on the command line and in `method`.
ALIASES: Mapping[str, str] = {
    "direct": "logit_attribution",
    "activation": "activation_patching",
    "attribution": "attribution_patching",
    "path": "path_patching",
    "edges": "edge_attribution",
}


def full_name(name: str) -> str:
    """The method's name that a name or a short one stands for; raises `UnknownNameError` with the nearest."""
    found = ALIASES.get(name, name)
    if found not in METHODS:
        raise UnknownNameError.of("circuit method", name, [*METHODS, *ALIASES])
    return found


def method(name: str) -> Callable[..., Any]:
    """The function of a method, also by its short name; raises `UnknownNameError` with the nearest name."""
    module, _, attribute = METHODS[full_name(name)].where.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found
