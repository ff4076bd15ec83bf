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


def method(name: str) -> Callable[..., Any]:
    """The function of a method; raises `UnknownNameError` with the nearest name."""
    if name not in METHODS:
        raise UnknownNameError.of("circuit method", name, METHODS)
    module, _, attribute = METHODS[name].where.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found
