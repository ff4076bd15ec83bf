"""Laws of every intervention's parameters: what cannot be meant is refused when it is written, and nothing is lost."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import jaxtyping
import pytest

from probe.errors import ProbeError
from probe.interventions import INTERVENTIONS, make
from probe.interventions.making import parameters

# The least that each needs; the others need nothing.
NEEDED: dict[str, dict[str, Any]] = {
    "scale": {"alpha": 2.0},
    "knockout": {"queries": "last", "keys": (0, 2)},
    "drop": {"queries": "last", "keys": (0, 2)},
    "redistribute": {"source": (0, 1), "target": (1, 2)},
    "reinforce": {"span": (0, 1)},
    "reweight": {"gates": {"L0.H0": 0.5}},
    "top_heads": {"k": 1},
    "boost": {"span": (0, 1), "a": 0.5},
    "graft": {"kind": "local", "window": 2, "layers": [0]},
    "expert_off": {"experts": ["L0.E0"]},
    "expert_on": {"experts": ["L0.E0"]},
    "isolate": {"span": (0, 2), "window": 1},
    "segment_graph": {"edges": "a>b"},
    "skip_layer": {"layers": [0]},
    "skip_module": {"layers": [0]},
    "pattern": {"keep": "window=2"},
    "temperature": {"t": 2.0},
    "bidirectional_segments": {"spans": ["doc"]},
    "position_by_importance": {"spans": ["doc"]},
    "set_based": {"spans": ["doc"]},
}
STRANGE = [
    None, "x", "", -1, 0, 1.5, float("nan"), float("inf"), [], ["x"], [None], [1.5], [-1], (3, 1), (-1, 2), {}, object()
]  # fmt: skip


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As users run it: annotations are not checked, so that what is refused is refused by the code."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", INTERVENTIONS)
def test_strange_values_are_refused_or_meant(name: str) -> None:
    """Whatever a parameter is given, either an intervention with a name comes out, or an error of our own."""
    factory = INTERVENTIONS[name]
    for key in parameters(factory):
        for value in STRANGE:
            try:
                made = factory(**{**NEEDED.get(name, {}), key: value})
            except ProbeError:
                continue
            assert made.name.startswith(name), (key, value)


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_every_intervention_is_a_frozen_dataclass_with_a_control(name: str) -> None:
    """Its parameters are its fields, a change of one is another intervention, and both read back from their names."""
    one = INTERVENTIONS[name](**NEEDED.get(name, {}))
    assert is_dataclass(one)
    assert "target" in {field.name for field in fields(one)}
    with pytest.raises(AttributeError):
        one.target = None
    assert callable(one.control)
    assert make(one.name) == one


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "unused"),
    [
        ("expert_off", {"layers": [1]}),
        ("expert_on", {"tower": "decoder"}),
        ("bidirectional_segments", {"queries": "last"}),
        ("reinforce", {"queries": "last"}),
        ("scale", {"alpha": None}),
        ("zero", {"layers": [1.5]}),
        ("zero", {"layers": [True]}),
    ],
)
def test_what_would_be_ignored_is_refused(name: str, unused: dict[str, Any]) -> None:
    """A parameter that an intervention has no use for, or that would leave it without effect, is never swallowed."""
    with pytest.raises(ProbeError):
        INTERVENTIONS[name](**{**NEEDED.get(name, {}), **unused})
