"""Activation patching: laws, and a model whose circuit is known."""

from typing import Any

import numpy as np
import pytest
import small_models
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from support_pairs import random_pairs

import probe
from probe.circuits import activation_patching
from probe.circuits.nodes import NODES, Node
from probe.errors import InputError, UnknownNameError, UsageError
from probe.prompts import Prompt
from probe.prompts.pairs import Pair

FREE: dict[str, Any] = {"min_accuracy": 0.0}


def _key(report: probe.Report) -> str:
    (key,) = report
    return key


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_every_node_has_a_map(node: Node, direction: Any) -> None:
    """Axes fit the node; the mean over pairs of the values per pair is the map."""
    report = activation_patching(tiny.llama(), random_pairs(60), node, direction=direction, **FREE)
    answer = report.answer(_key(report))
    axis = {"z": "head", "q": "head", "pattern": "head", "k": "kv_head", "v": "kv_head"}.get(node)
    assert answer.head_map.dims == (("layer", axis) if axis else ("layer",))
    assert answer.by_prompt is not None
    assert np.allclose(answer.by_prompt.mean("prompt"), answer.head_map)
    assert np.isfinite(answer.head_map).all()


@pytest.mark.parametrize("make", [tiny.llama, tiny.gemma3, small_models.gpt2])
def test_the_whole_stream_recovers_everything(make: Any) -> None:
    """Where every position is patched a stream carries 1 in either direction."""
    for direction in ("denoise", "noise"):
        report = activation_patching(make(), random_pairs(50), "resid_pre", direction=direction, **FREE)  # type: ignore[arg-type]
        assert np.allclose(report[_key(report)], 1, atol=1e-3)


def test_places_are_told_apart() -> None:
    """At the entrance only the position that differs carries anything, and it carries everything."""
    pairs = random_pairs(60, count=3)
    report = activation_patching(tiny.llama(), pairs, "resid_pre", at="marks", layers=[0], **FREE)
    grid = report.answer(_key(report)).extra["by_position"]
    assert grid.dims == ("layer", "position")
    assert float(grid.sel(layer=0, position="cue")) == pytest.approx(1, abs=1e-3)
    assert float(grid.sel(layer=0, position="end")) == pytest.approx(0, abs=1e-6)
    tokens = activation_patching(tiny.llama(), pairs[:1], "resid_pre", at="tokens", layers=[0], **FREE)
    row = tokens.answer(_key(tokens)).extra["by_position"].values[0]
    assert int(np.argmax(np.abs(row))) == pairs[0].marks["cue"]
    assert float(row.sum()) == pytest.approx(1, abs=1e-3)


@given(seed=st.integers(0, 200))
@settings(max_examples=8)
def test_the_two_directions_are_one_seen_from_two_sides(seed: int) -> None:
    """Noise on pairs is denoise on the swapped pairs."""
    pairs = random_pairs(60, seed=seed, count=2)
    one = activation_patching(tiny.llama(), pairs, "mlp_out", direction="noise", **FREE)
    two = activation_patching(tiny.llama(), [pair.swapped() for pair in pairs], "mlp_out", **FREE)
    assert np.allclose(one[_key(one)], two[_key(two)], atol=1e-4)


def test_pairs_of_several_lengths_are_numbered_as_given() -> None:
    """Each pair's numbers are those it has by itself, up to the common denominator."""
    pairs = [*random_pairs(60, 2, 9), *random_pairs(60, 1, 6, seed=3), *random_pairs(60, 1, 9, seed=5)]
    together = activation_patching(tiny.llama(), pairs, "z", **FREE)
    answer = together.answer(_key(together))
    assert answer.by_prompt is not None
    for number in (1, 2, 3):
        alone = activation_patching(tiny.llama(), [pairs[number]], "z", **FREE)
        own, shared = alone[_key(alone)].values, answer.by_prompt.values[number]
        ratio = (own * shared).sum() / (own * own).sum()
        assert np.allclose(shared, ratio * own, atol=1e-4)


@pytest.mark.parametrize("measure", ["kl", "probability_difference"])
def test_other_measures(measure: str) -> None:
    """The whole stream recovers them as well."""
    report = activation_patching(tiny.llama(), random_pairs(60), "resid_pre", measure=measure, **FREE)
    assert np.allclose(report[_key(report)], 1, atol=1e-3)


def test_a_report_says_how_it_was_made(tmp_path: Any) -> None:
    """Task, measure, direction and accuracy; it is saved and opened like any other."""
    report = activation_patching(tiny.llama(), random_pairs(60), "z", at="end", **FREE)
    settings_ = report.provenance.settings
    assert (settings_["method"], settings_["at"], settings_["direction"]) == ("activation", "end", "denoise")
    assert any("right beats wrong" in note for note in report.provenance.notes)
    report.save(tmp_path / "run")
    assert probe.open_report(tmp_path / "run").identical(report)


def test_bad_input() -> None:
    """Each is refused before anything is patched, and told what to do."""
    pairs = random_pairs(60)
    with pytest.raises(UnknownNameError, match="node"):
        activation_patching(tiny.llama(), pairs, "heads")
    with pytest.raises(UnknownNameError, match="position"):
        activation_patching(tiny.llama(), pairs, "z", at="subject", **FREE)
    with pytest.raises(UnknownNameError, match="option"):
        activation_patching(tiny.llama(), pairs, "z", pairz=3)
    with pytest.raises(UnknownNameError, match="task"):
        activation_patching(tiny.llama(), "ioy")
    with pytest.raises(UsageError, match="no tokenizer"):
        activation_patching(tiny.llama(), "ioi")
    with pytest.raises(UsageError, match="layers 0 to 1"):
        activation_patching(tiny.llama(), pairs, "z", layers=[9], **FREE)
    mixed = [*random_pairs(60, 1, 9), *random_pairs(60, 1, 6)]
    with pytest.raises(UsageError, match="at='marks'"):
        activation_patching(tiny.llama(), mixed, "z", at="tokens", **FREE)


def test_a_task_that_is_not_solved_is_not_interpreted() -> None:
    """Its accuracy is told."""
    pairs = random_pairs(60, count=12)
    with pytest.raises(UsageError, match=r"on \d+% of 12 clean prompts"):
        activation_patching(tiny.llama(), pairs, "z", min_accuracy=1.0)


def test_a_measure_that_does_not_move_is_refused() -> None:
    """Clean and corrupt prompts alike: nothing could be recovered."""
    prompt = Prompt.of_tokens([5, 6, 7, 8])
    with pytest.raises(InputError, match="nothing can be recovered"):
        activation_patching(tiny.llama(), [Pair("same", prompt, prompt, (4,), (9,))], "z", **FREE)
