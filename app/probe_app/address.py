"""Addresses: what a page shows is in its address, so that it can be bookmarked, shared and gone back to."""

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

_LONGEST = 4000  # characters of an address that are read


def read(search: str | None) -> dict[str, str]:
    """The fields of an address's query; a field given twice keeps its last value.

    >>> read("?report=run&metric=sink%3An%3D4")
    {'report': 'run', 'metric': 'sink:n=4'}
    """
    return dict(parse_qsl((search or "")[:_LONGEST].lstrip("?")))


def write(fields: Mapping[str, object]) -> str:
    """An address's query from fields; empty and missing ones are left out.

    >>> write({"report": "run", "metric": "sink:n=4", "head": None})
    '?report=run&metric=sink%3An%3D4'
    """
    told = {name: str(value) for name, value in fields.items() if value not in (None, "", [])}
    return "?" + urlencode(told) if told else ""


def span(text: str | None, length: int, shortest: int = 1) -> tuple[int, int]:
    """A range ``start-stop`` of an address, clipped to ``[0, length]``; the whole where it says none.

    >>> span("3-9", 100), span("nonsense", 100), span("90-400", 100)
    ((3, 9), (0, 100), (90, 100))
    """
    first, _, last = (text or "").partition("-")
    if not (first.isdecimal() and last.isdecimal()):
        return 0, length
    start = min(int(first), max(0, length - shortest))
    return start, min(max(int(last), start + shortest), length)
