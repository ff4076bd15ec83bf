"""Head roles on a model whose movers are planted, and what the numbers mean on random ones."""

import numpy as np
import pytest
import tiny
import torch
from movers import Fetch, fetch_pairs, mover
from support_pairs import random_pairs

from probe.circuits.role_report import head_roles
from probe.circuits.roles import MEASURED, ROLES
from probe.errors import UsageError
from probe.prompts.pairs import Pair

IO = 3


def marked(pairs: list[Pair], io: int = IO, s1: int = 4, s2: int = 5) -> list[Pair]:
    return [Pair(p.id, p.clean, p.corrupt, p.right, p.wrong, {"io": io, "s1": s1, "s2": s2}) for p in pairs]


def test_planted_movers_have_their_roles() -> None:
    loaded = mover([Fetch(1, 0, IO), Fetch(2, 1, IO)])
    with torch.no_grad():
        loaded.model.transformer.h[2].attn.c_proj.weight.mul_(-0.4)
    answer = head_roles(loaded, marked(fetch_pairs(IO))).answers[0]
    roles = answer.extra["roles"]
    assert roles.sel(role="name_mover").values.sum() == roles.sel(role="name_mover", layer=1, head=0) == 1
    assert roles.sel(role="negative_name_mover").values.sum() == 1
    assert roles.sel(role="negative_name_mover", layer=2, head=1) == 1
    assert roles.sel(role="s_inhibition").values.sum() == 0
    assert "name_mover: L1.H0" in answer.notes
    measures = answer.extra["measures"]
    assert measures.sel(measure="to_io", layer=1, head=0) > 0.9
    assert measures.sel(measure="copying", layer=1, head=0) == 1
    assert measures.sel(measure="negative_copying", layer=2, head=1) == 1
    assert answer.head_map.sel(layer=1, head=0) > 1 > 0 > answer.head_map.sel(layer=2, head=1)
    assert answer.extra["role_effect"].sel(role="name_mover") > 1
    assert np.abs(answer.extra["random_effect"].sel(role="name_mover").values).max() < 1e-4


@pytest.mark.parametrize("make", [tiny.llama, tiny.gemma3])
def test_roles_are_those_that_the_numbers_reach(make: object) -> None:
    pairs = marked(random_pairs(64, 3, 9))
    answer = head_roles(
        (make(), None), pairs, min_accuracy=0.0, least_effect=0.01, least_attention=0.1, least_copying=0.1
    ).answers[0]  # fmt: skip
    measures, roles = answer.extra["measures"], answer.extra["roles"]
    assert list(measures.measure.values) == list(MEASURED)
    assert list(roles.role.values) == list(ROLES)
    number = lambda name: measures.sel(measure=name).values  # noqa: E731
    mover_ = (number("direct_effect") >= 0.01) & (number("to_io") >= 0.1) & (number("copying") >= 0.1)
    np.testing.assert_array_equal(roles.sel(role="name_mover").values == 1, mover_)
    behind = number("behind_s1_to_s1") >= 0.1
    np.testing.assert_array_equal(roles.sel(role="previous_token").values == 1, behind)
    assert answer.extra["expected"].sel(role="previous_token") == pytest.approx(behind.sum())
    np.testing.assert_allclose(number("direct_effect"), answer.head_map.values)
    attention = sum(number(name) for name in ("to_io", "to_s1", "to_s2"))
    assert attention.max() <= 1 + 1e-6


def test_pairs_without_marks_are_refused() -> None:
    with pytest.raises(UsageError, match="lack the marks io, s1, s2"):
        head_roles((tiny.llama(), None), random_pairs(64), min_accuracy=0.0)


@pytest.mark.parametrize("changes", [{"least_effect": 0.0}, {"least_attention": 1.5}, {"least_copying": 0.0}])
def test_thresholds_have_ranges(changes: dict) -> None:
    with pytest.raises(UsageError, match="thresholds"):
        head_roles((tiny.llama(), None), marked(random_pairs(64)), min_accuracy=0.0, **changes)
