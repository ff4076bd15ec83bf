"""What a user can write after ``--how`` and ``--do``: every intervention with its parameters and its paper."""

import inspect
import re
from dataclasses import dataclass
from typing import get_type_hints

from probe.interventions.making import parameters
from probe.interventions.table import INTERVENTIONS
from probe.interventions.target import Where

_PAPER = re.compile(r"arXiv:\s*(\d{4}\.\d{4,5})")


@dataclass(frozen=True)
class Listed:
    """One intervention: its name, first sentence, own parameters and papers.

    Parameters are written ``keys`` (must be given), ``u=1.0`` (its default) or ``[over]`` (none unless given).
    """

    name: str
    summary: str
    parameters: tuple[str, ...]
    papers: tuple[str, ...]


def listed() -> list[Listed]:
    """Every intervention that a spec can name, by name."""
    return [_one(name) for name in sorted(INTERVENTIONS)]


def common() -> tuple[str, ...]:
    """The parameters that interventions share."""
    return ("heads", *get_type_hints(Where))


def _one(name: str) -> Listed:
    factory = INTERVENTIONS[name]
    text = inspect.getdoc(factory) or ""
    own = [
        _shown(one)
        for key, one in parameters(factory).items()
        if key not in common() or one.default is inspect.Parameter.empty
    ]
    module = inspect.getmodule(factory)
    made = [
        one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__ == factory.__module__
    ]
    said = [text, *(inspect.getdoc(one) or "" for one in (module, *made))]
    papers = dict.fromkeys(_PAPER.findall("\n".join(said)))
    return Listed(name, " ".join(text.split("\n\n")[0].split()), tuple(own), tuple(papers))


def _shown(one: inspect.Parameter) -> str:
    if one.default is inspect.Parameter.empty:
        return one.name
    return f"[{one.name}]" if one.default is None else f"{one.name}={one.default}"
