"""What a sweep is asked to do, checked before a model is loaded."""

from dataclasses import dataclass, replace
from typing import Any

from probe.analysis.ready import check_interventions
from probe.analysis.sweeping.options import SweepOptions
from probe.analysis.sweeping.tasks import Task, make_task
from probe.analysis.sweeping.units import OVER
from probe.errors import UsageError
from probe.interventions.making import ALIASES, extended, make, parameters
from probe.interventions.span import as_text, checked
from probe.interventions.table import INTERVENTIONS
from probe.interventions.target import Target
from probe.terms import Spec

_KNOWN = INTERVENTIONS | {alias: INTERVENTIONS[name] for alias, name in ALIASES.items()}


@dataclass(frozen=True)
class Asked:
    """The intervention on all that is swept, what is swept, and the task."""

    edit: Any
    over: str
    task: Task


def read_call(how: object, over: str, task: str, options: SweepOptions) -> Asked:
    """Read what was typed.

    Raises:
        UnknownNameError: no such intervention, task or parameter.
        UsageError: something that cannot be swept over heads (or layers), or a parameter out of range.
    """
    if over not in OVER:
        raise UsageError(f"over={over!r} was asked; it is one of {', '.join(OVER)}")
    made = make_task(task)
    given = {} if options.queries is None else {"queries": as_text(checked(options.queries, "queries"))}
    given |= {} if options.phase is None else {"phase": options.phase}
    if isinstance(how, str):
        return Asked(_narrowable(_made(extended(how, given), over), over), over, made)
    if given:
        raise UsageError(f"{how!r} was asked with {', '.join(given)}; give them to the intervention itself")
    return Asked(_narrowable(check_interventions([how])[0], over), over, made)


def _made(spec: str, over: str) -> Any:
    """The intervention that a spec names; over layers, where it names none, it is meant for all of them."""
    parsed = Spec.parse(spec)
    _require_unit(parsed.name, over)
    named = {"heads", "layers", "n"} & parsed.params.keys()
    if over != "layers" or named or parsed.name not in _KNOWN:
        return make(spec)
    # Some must be told layers; one stands for all until the model is known.
    made = make(spec, layers=[0])
    return replace(made, target=replace(made.target, layers=None))


def _narrowable(made: Any, over: str) -> Any:
    target = getattr(made, "target", None)
    if not isinstance(target, Target):
        raise UsageError(f"{made!r} was asked to be swept; it acts on no heads: use one that has a target")
    if target.control_seed is not None:
        raise UsageError(
            f"{made.name} was asked to be swept; a control is drawn per layer: sweep the edit itself"
        )
    _require_unit(made.name.partition(":")[0], over)
    return made


def _require_unit(kind: str, over: str) -> None:
    """Raise `UsageError` for one of our interventions that takes no heads (or no layers), so cannot be narrowed."""
    factory = _KNOWN.get(kind)
    if factory is None or over in parameters(factory):
        return
    other = [one for one in OVER if one in parameters(factory)]
    raise UsageError(
        f"{kind} was asked to be swept over {over}; it cannot be told {over}: "
        + (f"sweep over {other[0]}" if other else "use another intervention")
    )
