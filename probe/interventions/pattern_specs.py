"""Sparse patterns of the kernels by spec: ``sink_recent:sinks=4,recent=256``."""

from typing import Any

from probe_kernels.select import PATTERNS, Pattern, make

from probe.errors import UnknownNameError, UsageError


def names_pattern(text: str) -> bool:
    """Whether a text is meant as the spec of a pattern; a list of rules (``window=8+sink=4``) has no colon.

    >>> names_pattern("pooled_topk:block=8"), names_pattern("window=8+sink=4")
    (True, False)
    """
    return ":" in text or text.strip() in PATTERNS


def read_pattern(spec: str) -> Pattern:
    """The pattern of a spec; inside another spec its parameters are parted by ``;``.

    Raises:
        UnknownNameError: no such pattern; the message offers the nearest.
        UsageError: a parameter that the pattern does not have, or that is out of range.
    """
    name = spec.strip().partition(":")[0]
    if name not in PATTERNS:
        raise UnknownNameError.of("pattern", name, PATTERNS)
    try:
        return make(spec.strip().replace(";", ","))
    except (ValueError, TypeError) as error:
        raise UsageError(f"the pattern {spec!r} was asked; {error}") from error


def inside(pattern: Pattern) -> str:
    """The spec of a pattern as it is written inside another spec: ``sink_recent:sinks=4;recent=256``."""
    return pattern.name.replace(",", ";")


def is_pattern(one: Any) -> bool:
    """Whether an object selects keys as a pattern does."""
    return isinstance(one, Pattern) and not isinstance(one, type)
