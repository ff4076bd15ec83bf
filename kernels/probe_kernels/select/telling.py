"""How patterns name themselves, and how they refuse numbers that they cannot keep to."""

import math
from collections.abc import Sequence


def spec(kind: str, **parameters: object) -> str:
    """The spec of a pattern; parameters that are None are left out, and so is a ``keep_…`` that is on.

    >>> spec("pooled_topk", block=64, tau=0.9, k=None, keep_first=True, keep_diagonal=False)
    'pooled_topk:block=64,tau=0.9,keep_diagonal=false'
    """
    told = [
        f"{name}={_value(value)}"
        for name, value in parameters.items()
        if value is not None and not (name.startswith("keep_") and value is True)
    ]
    return kind + (":" + ",".join(told) if told else "")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "+".join(_value(one) for one in value)
    if isinstance(value, float) and float(short := f"{value:g}") == value:
        return short
    return str(value)


def need_count(kind: str, name: str, value: object, what: str, *, least: int = 1) -> None:
    """Raises `ValueError` where a parameter is no whole number of at least `least`; `what` says what it counts."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{kind} was asked with {name}={value}; {what}: give a whole number from {least} up")


def need_share(kind: str, value: object) -> None:
    """Raises `ValueError` where tau is no share of the mass, 0 < tau ≤ 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError(
            f"{kind} was asked with tau={value}; it is the share of the estimated mass to keep: "
            "give a number above 0 and up to 1"
        )


def need_one_budget(kind: str, k: object, tau: object) -> None:
    """Raises `ValueError` where both a count and a share are given, or one that is out of range."""
    if k is not None and tau is not None:
        raise ValueError(f"{kind} was asked with k={k} and tau={tau}; give a count or a share, not both")
    if k is not None:
        need_count(kind, "k", k, "it counts what is kept")
    if tau is not None:
        need_share(kind, tau)


def need_nats(kind: str, name: str, value: object) -> None:
    """Raises `ValueError` where a margin in nats is not a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(
            f"{kind} was asked with {name}={value}; it is a margin in nats below the anchor: "
            "give a finite number from 0 up"
        )
