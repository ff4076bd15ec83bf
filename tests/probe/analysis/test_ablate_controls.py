"""What edited heads are held to: other heads of the same layers, and intervals over prompts."""

import math
from typing import Any

import numpy as np
import pytest
import small_models
from ablated import TEXTS, letters_model

import probe
from probe.analysis.ablation.controls import draw_controls, heads_of
from probe.analysis.ablation.intervals import intervals
from probe.interventions import scale, zero
from probe.interventions.target import Target
from probe.models import as_loaded
from probe.seam.verify import verify


def test_controls_edit_as_many_other_heads_of_each_layer() -> None:
    """Different draws, none of which touches a head that any intervention of the list edits."""
    loaded = as_loaded(small_models.llama(num_attention_heads=8, num_key_value_heads=2))
    verify(loaded.model)
    edits = [zero(heads=["L0.H1", "L1.H2"]), scale(heads=["L0.H3", "L0.H4"], alpha=2.0)]
    edited = heads_of(edits, loaded)
    controls, notes = draw_controls(edits, loaded, 4, seed=3)
    assert (len(edited), len(controls), notes) == (4, 4, ())
    assert len({one.heads for one in controls}) == 4
    for one in controls:
        assert not heads_of(one.interventions, loaded) & edited
        for mine, other in zip(edits, one.interventions, strict=True):
            counts = [_per_layer(edit.target, loaded) for edit in (mine, other)]
            assert counts[0] == counts[1]


def _per_layer(target: Target, loaded: Any) -> list[int]:
    found = [head.layer for head in heads_of([zero()], loaded)]
    chosen = [head.layer for head in heads_of([type("one", (), {"target": target})()], loaded)]
    return [chosen.count(layer) for layer in sorted(set(found))]


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (["L0.H0", "L0.H1", "L0.H2"], "at most half of a layer's heads"),
        (None, "every head of a layer"),
        (["L0.H0", "L0.H1"], "1 different controls"),
    ],
)
def test_where_controls_cannot_be_drawn_a_line_says_so(heads: list[str] | None, message: str) -> None:
    """It is no error: the edit itself can still be measured."""
    found = probe.ablate(letters_model(), TEXTS[0], [zero(heads=heads)], new_tokens=0)
    assert any(message in note for note in found.provenance.notes)
    assert (found.to_json()["runs"]["control"] is None) == ("different" not in message)


def test_controls_are_averaged_and_each_draw_is_told() -> None:
    """The control's loss is the mean over draws; the draws name their heads."""
    found = probe.ablate(letters_model(), TEXTS, [zero(heads=["L0.H1"])], new_tokens=0, controls=2, seed=5)
    control = found.to_json()["runs"]["control"]
    assert control["loss"] == pytest.approx(np.mean([draw["loss"] for draw in control["draws"]]))
    assert len({tuple(draw["heads"]) for draw in control["draws"]}) == 2
    assert all(draw["heads"][0].startswith("L0.H") for draw in control["draws"])


def test_intervals_cover_the_mean_over_prompts() -> None:
    """As wide as the standard error says for many prompts; a difference is paired, so shared noise is not in it."""
    drawn = np.random.default_rng(0)
    hard, gain = drawn.normal(3.0, 1.0, 400), drawn.normal(0.1, 0.02, 400)
    weights = dict.fromkeys(("predicted", "positions", "answer_tokens"), np.full(400, 10))
    runs = {"base": {"loss": hard}, "edited": {"loss": hard + gain}}
    found = intervals(runs, weights, 0.95, 0)
    low, high = found["base"]["loss"]
    assert (low, high) == pytest.approx(
        (hard.mean() - 1.96 * hard.std() / 20, hard.mean() + 1.96 * hard.std() / 20), abs=0.02
    )
    low, high = found["edited_minus_base"]["loss"]
    assert 0.09 < low < gain.mean() < high < 0.11
    assert found["base"]["perplexity"] == pytest.approx([math.exp(x) for x in found["base"]["loss"]])
