"""From ``--how`` and ``--heads`` to interventions."""

import re
from typing import Any

from probe.errors import UsageError
from probe.interventions.making import make, wants_heads
from probe.terms import HeadId


def read_how(how: list[str], heads: str | None) -> list[Any]:
    """The interventions that specs name, in order; `heads` go to every one that takes heads and names none itself.

    Raises:
        UnknownNameError: an intervention or a parameter that does not exist.
        UsageError: a head that cannot be one, or heads that no intervention takes.
    """
    named = None if heads is None else read_heads(heads)
    takes = [named is not None and wants_heads(spec) for spec in how]
    made = [
        make(spec, heads=named) if takes_them else make(spec)
        for spec, takes_them in zip(how, takes, strict=True)
    ]
    if named is not None and not any(takes):
        raise UsageError(
            f"--heads {heads} was asked; no --how takes them ({', '.join(how)} names its own heads or has none): "
            "leave --heads out"
        )
    return made


def read_heads(text: str) -> list[str]:
    """Heads joined by commas or plus signs; raises `UsageError` for anything that is no head.

    >>> read_heads("L18.H6,L20.H6+L3.H1")
    ['L18.H6', 'L20.H6', 'L3.H1']
    """
    parts = re.split(r"[,+]", text)
    if not all(part.strip() for part in parts):
        raise UsageError(f"--heads {text!r} was asked; it leaves a head empty: write L18.H6,L20.H6")
    return [str(HeadId.parse(part.strip())) for part in parts]
