"""An experiment's report without text shows neither tokens nor names of prompts, in labels or in notes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from given import prompt
from secrets_of_prompts import HOSTILE, hostile_prompt, hostile_tokenizer, telling

import probe
from probe.prompts import Prompt
from probe.report import Report

#: What a shared report loses besides the names of prompts: nothing that is a word of the library.
ASKED = {
    "active_dormant": ["labels of domain"],
    "recalled_loss:ngram=2": [],
    "rollout": [],
    "rhythm": [],
    "stability": [],
    "topk_overlap:k=2": [],
    "heterogeneous_heads": [],
}


def _prompts() -> list[Prompt]:
    """Two of 40 tokens, the first six of which come again, with a response; and one that is too short for most."""
    once = [3 + token % 57 for token in prompt(34).tokens]
    tokens = [*once, *once[:6]]
    made = []
    for number, ids in enumerate((tokens, tokens[::-1], tokens[:2])):
        one = Prompt.of_tokens(ids)
        spans = {**one.spans, "response": np.arange(len(one)) >= len(one) // 2}
        made.append(hostile_prompt(replace(one, spans=spans), name=f" {number}"))
    return made


def _report(spec: str, **asked: object) -> Report:
    return probe.analyze((tiny.llama(), hostile_tokenizer()), _prompts(), [spec], **asked)


@pytest.mark.parametrize("spec", ASKED)
def test_no_file_tells_the_text(spec: str, tmp_path: Path) -> None:
    """The full report does; the shared one holds the same numbers and says what is missing."""
    report = _report(spec)
    assert "report.json" in list(telling(report, tmp_path / "full"))
    shared = report.without_text()
    assert not list(telling(shared, tmp_path / "shared"))
    for one, two in zip(report.answers, shared.answers, strict=True):
        assert one.extra.keys() == two.extra.keys()
        assert all(np.array_equal(array, two.extra[key], equal_nan=True) for key, array in one.extra.items())
        lines = [note for note in two.notes if note.startswith("left out, since")]
        assert lines == [f"left out, since a prompt's text may stand there: {', '.join(ASKED[spec])}"] * bool(
            ASKED[spec]
        )


def test_the_same_where_it_was_asked_from_the_start(tmp_path: Path) -> None:
    """``text=False`` and kept maps: nothing in the folder or below it tells the text."""
    report = _report("entropy", text=False, keep="map", out=tmp_path / "run")
    assert not list(telling(report, tmp_path / "saved"))
    assert not [
        path
        for path in (tmp_path / "run").rglob("*")
        if path.is_file() and HOSTILE.encode() in path.read_bytes()
    ]
