"""Roles of the indirect-object circuit, every head of which was set by hand, beside heads that are nearly like them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from name_circuit import (
    CIRCUIT,
    DECOYS,
    DUPLICATE,
    ELSEWHERE,
    HEADS,
    IDLE,
    INDUCTION,
    INHIBITION,
    LAYERS,
    MOVER,
    OWN_TOKEN,
    PREVIOUS,
    Wire,
    name_circuit,
    name_pairs,
)

from probe.circuits.role_report import head_roles
from probe.report.answer import Answer

HAVE = {
    "name_mover": MOVER, "s_inhibition": INHIBITION, "duplicate_token": DUPLICATE, "induction": INDUCTION,
    "previous_token": PREVIOUS,
}  # fmt: skip


def roles_of(wires: Sequence[Wire]) -> tuple[Answer, dict[str, list[tuple[int, int]]]]:
    """The answer, and the heads of each role that some head has."""
    answer = head_roles(name_circuit(wires), name_pairs(8)).answers[0]
    roles = answer.extra["roles"]
    found = {str(name): np.argwhere(roles.sel(role=name).values == 1).tolist() for name in roles.role.values}
    return answer, {name: [tuple(one) for one in some] for name, some in found.items() if some}


def number(answer: Answer, name: str, wire: Wire) -> float:
    return float(answer.extra["measures"].sel(measure=name, layer=wire.layer, head=wire.head))


@pytest.mark.parametrize("seed", range(3))
def test_each_role_is_that_of_the_one_head_that_was_made_for_it(seed: int) -> None:
    """Wherever in its layer it stands."""
    drawn = np.random.default_rng(seed)
    places = [drawn.permutation(HEADS).tolist() for _ in range(LAYERS)]
    moved = {one: replace(one, head=places[one.layer][one.head]) for one in (*CIRCUIT, *DECOYS)}
    _, found = roles_of(list(moved.values()))
    assert found == {name: [(one.layer, moved[one].head)] for name, one in HAVE.items()}


def test_neither_looking_nor_having_an_effect_is_enough() -> None:
    """Heads that look where a role's head looks write nothing; heads that have its effect look elsewhere."""
    answer, _ = roles_of((*CIRCUIT, *DECOYS))
    looks = ("s2_to_s1", "s2_behind_s1", "to_s2")
    effects = ("inhibition_values", "inhibition_values", "name_mover_queries")
    for idle, own, look, effect in zip(IDLE, (DUPLICATE, INDUCTION, INHIBITION), looks, effects, strict=True):
        assert number(answer, look, idle) == pytest.approx(1, abs=0.01)
        assert number(answer, effect, idle) == pytest.approx(0, abs=1e-4)
        assert number(answer, look, own) == pytest.approx(1, abs=0.01)
        assert number(answer, effect, own) > 0.1
    for elsewhere, look, effect in (
        (OWN_TOKEN, "s2_to_s1", "inhibition_values"),
        (OWN_TOKEN, "s2_behind_s1", "inhibition_values"),
        (ELSEWHERE, "to_s2", "name_mover_queries"),
    ):
        assert number(answer, effect, elsewhere) > 0.1
        assert number(answer, look, elsewhere) < 0.01


@pytest.mark.parametrize(
    ("without", "lost"),
    [
        (DUPLICATE, {"duplicate_token"}),
        (INDUCTION, {"induction"}),
        (PREVIOUS, {"previous_token", "induction"}),  # an induction head finds nothing without one
        (INHIBITION, {"s_inhibition", "duplicate_token", "induction"}),  # these have an effect through it
    ],
    ids=["duplicate", "induction", "previous", "inhibition"],
)
def test_a_role_is_lost_with_its_head_and_with_what_it_works_through(without: Wire, lost: set[str]) -> None:
    wires = [one for one in (*CIRCUIT, *DECOYS) if one is not without]
    _, found = roles_of(wires)
    assert found == {name: [(one.layer, one.head)] for name, one in HAVE.items() if name not in lost}
