"""A circuit's report without text shows no token, whichever method labels positions or names tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from secrets_of_prompts import HOSTILE, hostile_pairs, hostile_tokenizer, telling
from support_pairs import random_pairs

from probe import circuits
from probe.report import Report, open_report

PLACED: dict[str, dict[str, Any]] = {
    "activation_patching": {},
    "attribution_patching": {},
    "integrated_gradients": {"steps": 2},
    "relp": {},
    "path_patching": {"receivers": "logits"},
}


def _report(name: str, pairs: int = 1, **asked: Any) -> Report:
    made = hostile_pairs(random_pairs(60, count=pairs))
    method: Callable[..., Report] = getattr(circuits, name)
    return method((tiny.llama(), hostile_tokenizer()), made, min_accuracy=0.0, **asked)


@pytest.mark.parametrize("name", PLACED)
def test_positions_lose_their_tokens(name: str, tmp_path: Path) -> None:
    """With text ``report.json`` shows them; without, no file does, a note says so and the numbers stay."""
    report = _report(name, at="tokens", **PLACED[name])
    assert list(telling(report, tmp_path / "full")) == ["prompts.jsonl", "report.json"]
    shared = report.without_text()
    assert not list(telling(shared, tmp_path / "shared"))
    assert open_report(tmp_path / "shared").identical(shared)
    for one, two in zip(report.answers, shared.answers, strict=True):
        assert one.extra["by_position"].dims == two.extra["by_position"].dims
        np.testing.assert_array_equal(one.extra["by_position"].values, two.extra["by_position"].values)
        assert "position" not in two.extra["by_position"].coords
        assert two.notes == (
            *one.notes,
            "left out, since a prompt's text may stand there: labels of position",
        )


@pytest.mark.parametrize("name", PLACED)
def test_marks_keep_their_names(name: str, tmp_path: Path) -> None:
    """A mark is what a position was called, no text: a shared report says where, and nothing is left out."""
    report = _report(name, at="marks", **PLACED[name])
    shared = report.without_text()
    assert not list(telling(shared, tmp_path / "shared"))
    for one, two in zip(report.answers, shared.answers, strict=True):
        assert one.extra["by_position"].identical(two.extra["by_position"])
        assert two.extra["by_position"].coords["position"].values.tolist() == ["cue", "end"]
        assert one.notes == two.notes


@pytest.mark.parametrize(("lengths", "left"), [((6,), []), ((6, 9), ["cue", "end", "elsewhere"])])
def test_source_tokens_are_not_told(lengths: tuple[int, ...], left: list[str], tmp_path: Path) -> None:
    """Of one length the sources are tokens, whose labels go; of several they are marks, which stay."""
    made = hostile_pairs([random_pairs(60, 1, length)[0] for length in lengths])
    model = (tiny.llama(), hostile_tokenizer())
    shared = circuits.logit_attribution(model, made, min_accuracy=0.0, sources=True).without_text()
    assert not list(telling(shared, tmp_path))
    sources = shared.answers[0].extra["by_source"].coords
    assert (sources["position"].values.tolist() if "position" in sources else []) == left


def test_tokens_that_heads_promote_are_not_told(tmp_path: Path) -> None:
    """Arrays of tokens go whole, and are named."""
    report = _report("head_lens", top=3)
    assert HOSTILE in report.answers[0].extra["promoted"].values.flat[0]
    shared = report.without_text()
    assert not list(telling(shared, tmp_path))
    assert {"right", "promoted_logit"} <= set(shared.answers[0].extra)
    assert "array promoted, array suppressed" in shared.answers[0].notes[-1]


@pytest.mark.parametrize("name", ["edge_attribution", "commitment_layer", "attention_subset", "discover"])
def test_words_of_the_library_stay(name: str, tmp_path: Path) -> None:
    """Labels that name parts, sides, sizes and runs are no text: nothing is left out."""
    report = _report(name, pairs=2)
    shared = report.without_text()
    assert not list(telling(shared, tmp_path))
    for one, two in zip(report.answers, shared.answers, strict=True):
        assert all(array.identical(two.extra[key]) for key, array in one.extra.items())
        assert one.notes == two.notes


def test_items_of_lists_are_not_told(tmp_path: Path) -> None:
    """What a user's list holds is told in a note alone, which quotes it."""
    words = [f"{HOSTILE}{number}" for number in range(3, 8)]
    lists = [[*words, f"{HOSTILE} of two words"]]
    report = circuits.successor_heads((tiny.llama(), hostile_tokenizer()), lists=lists)
    assert list(telling(report, tmp_path / "full"))
    assert not list(telling(report.without_text(), tmp_path / "shared"))
