"""What is measured is kept line by line: a kill loses at most the line that was being written."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import OutputError
from probe.replay.kept import Kept

ABOUT = {"claim": "fake", "seed": 0}


@given(cut=st.integers(0, 400), data=st.data())
def test_a_file_cut_anywhere_is_taken_up(
    tmp_path_factory: pytest.TempPathFactory, cut: int, data: st.DataObject
) -> None:
    """Whatever byte a kill stops at, whole lines are kept, the rest is measured again, and nothing is doubled."""
    path = tmp_path_factory.mktemp("kept") / "a.jsonl"
    wanted = {f"k{n}": data.draw(st.lists(st.floats(0, 1), max_size=3)) for n in range(5)}
    first = Kept(path, ABOUT)
    for key, value in wanted.items():
        first.of(key, lambda value=value: value)
    whole = path.read_bytes()
    path.write_bytes(whole[: min(cut, len(whole))])
    again, measured = Kept(path, ABOUT), list[str]()
    for key, value in wanted.items():
        assert again.of(key, lambda key=key, value=value: (measured.append(key), value)[1]) == value
    assert again.measured == len(measured)
    lines = path.read_text().splitlines()
    assert [json.loads(line)[0] for line in lines[1:]] == list(wanted)


def test_a_value_is_the_same_to_the_run_that_measured_it_and_to_the_next(tmp_path: Path) -> None:
    """Arrays, tensors and tuples are lists, NaN is None, in both."""
    path = tmp_path / "a.jsonl"
    value = {"a": (np.arange(2), torch.ones(2)), "b": math.nan, "c": np.float32(0.5)}
    first = Kept(path, ABOUT).of("x", lambda: value)
    assert first == {"a": [[0, 1], [1.0, 1.0]], "b": None, "c": 0.5}
    assert Kept(path, ABOUT).of("x", pytest.fail) == first


def test_another_subject_begins_anew(tmp_path: Path) -> None:
    """What was measured with another seed is not taken up."""
    path = tmp_path / "a.jsonl"
    Kept(path, ABOUT).of("x", lambda: 1)
    assert Kept(path, {**ABOUT, "seed": 1}).values == {}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file where a folder is needed: the error names the path and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--out"):
        Kept(tmp_path / "file" / "a.jsonl", ABOUT)
