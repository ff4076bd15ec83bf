"""A saved report is the report: whatever its names, shapes and numbers are."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from made_reports import made_answer, made_map, made_report

from probe.errors import ReportError
from probe.report import Answer, ModelRecord, PromptRecord, Provenance, Report, open_report

NAMES = st.text(min_size=1, max_size=12)
NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=32)


@st.composite
def head_maps(draw: st.DrawFn) -> xr.DataArray:
    """Head maps of any size, also of none, with any coordinates."""
    layers, heads = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    dtype = draw(st.sampled_from([np.float64, np.float32, np.float16]))
    values = draw(arrays(dtype, (layers, heads), elements=st.floats(width=16)))
    labels = sorted(draw(st.sets(st.integers(0, 99), min_size=layers, max_size=layers)))
    counts = draw(arrays(np.int64, layers, elements=st.integers(0, heads)))
    coords = {"layer": np.array(labels, np.int64), "head": np.arange(heads), "n_heads": ("layer", counts)}
    words = draw(st.lists(NAMES, min_size=layers, max_size=layers))
    coords["word"] = ("layer", np.array(words, dtype=object if draw(st.booleans()) else np.str_))
    return xr.DataArray(values, coords, ("layer", "head"), name=draw(st.none() | NAMES), attrs={"n": 1})


@st.composite
def drawn_answers(draw: st.DrawFn) -> Answer:
    """Answers with hostile names, undefined numbers, token maps and further arrays."""
    extra_shape = draw(array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    dims = tuple("abc"[: len(extra_shape)])
    extra = xr.DataArray(draw(arrays(np.float32, extra_shape, elements=NUMBERS)), dims=dims)
    head_map = draw(head_maps())
    return Answer(
        spec=draw(NAMES),
        name=draw(NAMES),
        summary=draw(st.text()),
        unit=draw(st.text()),
        better=draw(st.sampled_from(["high", "low"])),
        paper=draw(st.text()),
        bibtex=draw(st.text()),
        tower=draw(st.sampled_from(["decoder", "encoder", "a/b", "../x"])),
        head_map=head_map,
        by_prompt=draw(st.none() | st.just(xr.concat([head_map, head_map], dim="prompt"))),
        token_maps=draw(
            st.dictionaries(st.integers(0, 3), st.just(head_map.expand_dims(token=2)), max_size=2)
        ),
        extra=draw(st.dictionaries(NAMES, st.just(extra), max_size=2)),
        notes=tuple(draw(st.lists(st.text(), max_size=2))),
    )


@settings(max_examples=60, deadline=None)
@given(
    answers=st.lists(drawn_answers(), max_size=3, unique_by=lambda answer: (answer.spec, answer.tower)),
    name=NAMES,
    drift=st.none() | st.floats(),
    prompts=st.lists(st.builds(PromptRecord, NAMES, st.none() | st.text()), max_size=2),
)
def test_saving_and_opening_changes_nothing(
    answers: list[Answer], name: str, drift: float | None, prompts: list[PromptRecord]
) -> None:
    """Every name, number, label and prompt comes back; undefined numbers stay undefined."""
    report = Report(
        answers, Provenance(ModelRecord(name), logit_drift=drift, settings={"x": (1, "a")}), prompts
    )
    with tempfile.TemporaryDirectory() as folder:
        again = open_report(report.save(Path(folder) / "run"))
    assert report.identical(again)
    assert again.identical(report)


def test_text_that_ends_in_nul_comes_back(tmp_path: Path) -> None:
    """Byte-level tokens may be NUL, which NumPy's own strings drop."""
    tokens = np.array(["a\0", "\0"], dtype=object)
    answer = made_answer("entropy", made_map([[0.1], [0.2]]).assign_coords(word=("layer", tokens)))
    again = open_report(made_report(answer).save(tmp_path / "run"))
    assert again["entropy"].coords["word"].values.tolist() == ["a\0", "\0"]


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """Files depend on the report alone, so that two equal runs can be compared by their sums."""
    one, two = made_report().save(tmp_path / "one"), made_report().save(tmp_path / "two")
    assert {f.name: f.read_bytes() for f in one.iterdir()} == {f.name: f.read_bytes() for f in two.iterdir()}


def test_arrays_are_named_by_metric_tower_and_map(tmp_path: Path) -> None:
    """Anybody can read the numbers with safetensors alone."""
    from safetensors.numpy import load_file

    made_report(made_answer("sink:n=4"), made_answer("sink:n=4", tower="encoder")).save(tmp_path / "run")
    tensors = load_file(tmp_path / "run" / "arrays.safetensors")
    assert sorted(tensors) == ["sink:n=4/decoder/head_map", "sink:n=4/encoder/head_map"]


@pytest.mark.parametrize(
    "change",
    [
        lambda a: made_answer("entropy", a.head_map + 1e-12),
        lambda a: made_answer("entropy", a.head_map.assign_coords(layer=[0, 4])),
        lambda a: made_answer("entropy", a.head_map, better="low"),
        lambda a: made_answer("entropy", a.head_map, by_prompt=a.head_map.expand_dims(prompt=1)),
    ],
)
def test_any_difference_is_seen(change: object) -> None:
    """Reports that differ in a number, a label or a field are not identical."""
    answer = made_answer("entropy", made_map([[0.1, 0.2], [0.3, 0.4]], layers=[0, 3]))
    assert callable(change)
    assert not made_report(answer).identical(made_report(change(answer)))


def test_what_cannot_be_saved_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    """Objects have no place in a report's files."""
    odd = made_map([[1.0]]).assign_attrs(what=object())
    with pytest.raises(ReportError, match="not plain"):
        made_report(made_answer("entropy", odd)).save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_prompts_come_back_with_their_tokens_and_spans(tmp_path: Path) -> None:
    """The prompts of a run are part of its report."""
    report = made_report()
    assert open_report(report.save(tmp_path / "run")).prompts == report.prompts


def test_deleting_the_prompts_file_leaves_a_report_without_text(tmp_path: Path) -> None:
    """The numbers do not need the text."""
    folder = made_report().save(tmp_path / "run")
    (folder / "prompts.jsonl").unlink()
    assert open_report(folder).prompts == ()
