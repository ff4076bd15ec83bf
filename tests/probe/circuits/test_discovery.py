"""Circuit discovery: a planted circuit is found, by every ranking; what its report holds."""

from typing import Any

import numpy as np
import pytest
import tiny
from lone_writers import lone_writers
from support_pairs import random_pairs

import probe
from probe.circuits import CircuitOptions, activation_patching, discover
from probe.circuits.discovery import require_asked
from probe.circuits.greedy import pick
from probe.circuits.members import Member
from probe.circuits.pruning import SPARED, prune
from probe.circuits.study import study
from probe.circuits.together import Together
from probe.errors import UsageError

FREE: dict[str, Any] = {"min_accuracy": 0.0}


PLANTED = {Member(1, "z", 2), Member(2, "mlp_out")}


@pytest.mark.parametrize("ranking", ["attribution", "integrated", "relp", "edges", "pruning"])
def test_a_planted_circuit_is_found(ranking: Any) -> None:
    """Its two nodes keep everything, nothing is left without them, and random circuits keep less."""
    report = discover(lone_writers(), random_pairs(60, 4), ranking, goal=0.99, **FREE)
    (key,) = report
    answer = report.answer(key)
    assert np.nansum(answer.head_map) == 1
    assert float(answer.head_map.sel(layer=1, head=2)) == 1
    assert answer.extra["mlps"].values.tolist() == [0, 0, 1]
    assert set(answer.extra["members"].member.values) == {"L1.H2", "L2.MLP"}
    curve = answer.extra["curve"].sel(size=2)
    assert float(curve.sel(kind="faithfulness")) == pytest.approx(1, abs=0.01)
    assert float(curve.sel(kind="completeness")) == pytest.approx(0, abs=0.01)
    assert float(answer.extra["random"].sel(size=2).mean()) < 0.9


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_greedy_takes_what_recovers_most(direction: Any) -> None:
    """The first is the best alone, the second the best beside it; it ends with what it may take, or at the goal."""
    with study((tiny.llama(), None), random_pairs(60, 4), CircuitOptions(**FREE)) as case:
        together = Together(case, "heads+mlps", direction)
        alone = together.recovery([[one] for one in together.everything]).mean(-1)
        first = together.everything[int(alone.argmax())]
        rest = [one for one in together.everything if one != first]
        pairs = together.recovery([[first, one] for one in rest]).mean(-1)
        taken = pick(case, "heads+mlps", direction, 2, 100.0)
        assert taken[0].member == first
        assert taken[0].recovery == pytest.approx(float(alone.max()), abs=1e-5)
        if float(pairs.max()) > float(alone.max()):
            assert taken[1].member == rest[int(pairs.argmax())]
        assert len(pick(case, "heads+mlps", direction, 1, 100.0)) == 1
        assert len(pick(case, "heads+mlps", direction, 9, float(alone.max()) / 2)) == 1


def test_greedy_circuits_are_judged_like_others() -> None:
    """Its order is the report's; the scores are what was recovered step by step."""
    report = discover(tiny.llama(), random_pairs(60, 4), "greedy", parts="heads", goal=1.0, most=3, **FREE)
    (key,) = report
    answer = report.answer(key)
    assert np.all(np.diff(answer.extra["scores"]) > 0)
    assert answer.extra["curve"].size > 0
    assert set(answer.extra["curve"].sizes) == {"size", "kind"}


def test_pruning_measures_each_node_beside_those_that_are_gone() -> None:
    """In the last layer, where nothing is gone yet, it is activation patching; what is spared comes last."""
    pairs = random_pairs(60, 4)
    patched = activation_patching(lone_writers(), pairs, "mlp_out", direction="noise", **FREE)
    (key,) = patched
    with study((lone_writers(), None), pairs, CircuitOptions(**FREE)) as case:
        lost = prune(case, "heads+mlps")
    assert lost[Member(2, "mlp_out")] == pytest.approx(float(patched[key].sel(layer=2)), abs=1e-4)
    assert {one for one, share in lost.items() if abs(share) > SPARED} == PLANTED
    assert len(lost) == 15


@pytest.mark.parametrize(("parts", "dims"), [("heads", ("layer", "head")), ("mlps", ("layer",))])
def test_parts_alone(parts: Any, dims: tuple[str, ...]) -> None:
    """Only heads, or only MLPs; the curve ends with all of them, which keep everything."""
    report = discover(tiny.llama(), random_pairs(60), "attribution", parts=parts, most=2, **FREE)
    (key,) = report
    answer = report.answer(key)
    assert answer.head_map.dims == dims
    curve = answer.extra["curve"]
    assert float(curve.sel(kind="faithfulness")[-1]) == pytest.approx(1, abs=1e-4)
    assert answer.extra["random"].shape == (curve.sizes["size"], 5)
    assert answer.extra["interval"].dims == ("size", "bound")


def test_the_same_seed_gives_the_same_report(tmp_path: Any) -> None:
    """Random circuits and all; it is saved and opened like any other."""
    one, two = (discover(tiny.llama(), random_pairs(60), "attribution", most=4, **FREE) for _ in range(2))
    (key,) = one
    for name, array in one.answer(key).extra.items():
        assert array.identical(two.answer(key).extra[name])
    other = discover(tiny.llama(), random_pairs(60), "attribution", most=4, seed=1, **FREE)
    assert not one.answer(key).extra["random"].identical(other.answer(key).extra["random"])
    one.save(tmp_path / "run")
    assert probe.open_report(tmp_path / "run").identical(one)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("rely", "heads", "noise", 0.8, None), "ranking 'rely'"),
        (("relp", "tails", "noise", 0.8, None), "parts 'tails'"),
        (("relp", "heads", "up", 0.8, None), "direction 'up'"),
        (("relp", "heads", "noise", 0.0, None), "goal=0"),
        (("relp", "heads", "noise", 0.8, 0), "most=0"),
    ],
)
def test_bad_input(asked: tuple[Any, ...], words: str) -> None:
    """Each is told."""
    with pytest.raises(UsageError, match=words):
        require_asked(*asked)


def test_gradients_are_needed_by_rankings_that_take_them() -> None:
    """A measure without one is refused before the work; greedy takes any."""
    with pytest.raises(UsageError, match="accuracy has no gradient"):
        discover(tiny.llama(), random_pairs(60), "relp", measure="accuracy")
