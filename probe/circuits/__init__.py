"""Which parts of a model cause its answer: attribution, patching and circuits, for any decoder of the seam.

``probe.circuits.relp(model, "ioi")`` and the like each give a `probe.Report`; `METHODS` lists them.
"""

from typing import TYPE_CHECKING, Any

from probe.circuits.table import METHODS, method
from probe.prompts.pairs import PAIR_TASKS, Pair, PairSet, make_pairs

if TYPE_CHECKING:
    from probe.circuits.study import CircuitOptions as CircuitOptions

__all__ = ["METHODS", "PAIR_TASKS", "CircuitOptions", "Pair", "PairSet", "make_pairs", "method"]


def __getattr__(name: str) -> Any:
    """A method's function, or the options, loaded on first use: the table of methods costs no torch."""
    if name == "CircuitOptions":
        from probe.circuits.study import CircuitOptions

        return CircuitOptions
    if name in METHODS:
        return method(name)
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}; it has {', '.join([*__all__, *METHODS])}"
    )


def __dir__() -> list[str]:
    return [*__all__, *METHODS]
