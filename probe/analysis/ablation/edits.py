"""Interventions as they were given: objects, or specs to be made into them."""

from collections.abc import Sequence
from typing import Any

from probe.analysis.ready import check_interventions
from probe.errors import UsageError
from probe.interventions.making import make


def read_edits(interventions: object) -> tuple[Any, ...]:
    """The interventions, specs made into them, in order.

    Raises:
        UsageError: there are none, or something that edits nothing.
        UnknownNameError: a spec names an intervention or a parameter that does not exist.
    """
    given = [interventions] if isinstance(interventions, str) else interventions
    if isinstance(given, Sequence):
        given = [make(one) if isinstance(one, str) else one for one in given]
    edits = check_interventions(given)
    if not edits:
        raise UsageError("a run under interventions was asked without any; give at least one")
    return edits
