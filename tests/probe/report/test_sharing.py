"""A report to share tells nothing of the text."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from made_reports import made_answer, made_map, made_report

from probe.report import Answer, Report
from probe.report.sharing import WORDS


def _telling() -> Answer:
    base = made_map([[0.5, 0.25]])
    words = xr.DataArray(np.ones((1, 2, 2)), dims=("layer", "head", "token")).assign_coords(
        token=["a", " secret"]
    )
    by_prompt = xr.concat([base, base], dim="prompt").assign_coords(prompt=["secret one", "secret two"])
    answer = made_answer(head_map=base, by_prompt=by_prompt)
    return replace(answer, token_maps={0: words}, extra={"words": xr.DataArray(["secret"], dims="token")})


def test_no_byte_of_the_files_holds_the_text(tmp_path: Path) -> None:
    """Prompts, names of prompts, tokens and the command line are gone from every file."""
    report = made_report(_telling())
    assert any(b"secret" in path.read_bytes() for path in report.save(tmp_path / "full").iterdir())
    shared = report.without_text().save(tmp_path / "shared")
    assert not any(b"secret" in path.read_bytes() for path in shared.iterdir())
    assert not (shared / "prompts.jsonl").exists()


def test_the_numbers_stay() -> None:
    """Head maps, values per prompt and token maps are untouched."""
    report = made_report(_telling())
    shared = report.without_text()
    one, two = report.answers[0], shared.answers[0]
    assert one.head_map.identical(two.head_map)
    assert one.by_prompt is not None
    assert two.by_prompt is not None
    np.testing.assert_array_equal(one.by_prompt.values, two.by_prompt.values)
    np.testing.assert_array_equal(one.token_maps[0].values, two.token_maps[0].values)
    assert shared.provenance.tokens == 12


def _noting(note: str) -> Report:
    """A report whose answer, run, settings and attributes all say the line."""
    report = made_report(
        replace(made_answer(), notes=(note,), head_map=made_map([[0.5]]).assign_attrs(said=[note]))
    )
    provenance = replace(report.provenance, notes=(note,), settings={"asked": {"deep": [note, 3]}})
    return Report(
        report.answers, provenance, [replace(report.prompts[0], id="the secret one"), report.prompts[1]]
    )


@given(
    before=st.text("abc ,.", max_size=5),
    name=st.text(max_size=12),
    after=st.sampled_from(["", ", the heads' own", " it's 'b'"]),
)
def test_what_is_quoted_is_left_out(before: str, name: str, after: str) -> None:
    """Whatever characters a name has, its ``repr`` in a line becomes an ellipsis, and nothing else goes with it."""
    start = f"{before} "
    shared = _noting(f"{start}{f'secret {name}'!r}{after}").without_text()
    said = f"{start}…{after}".replace("'b'", "…")
    assert shared.provenance.notes == (said,)
    assert shared.answers[0].notes == (said,)
    assert shared.answers[0].head_map.attrs == {"said": [said]}
    assert shared.provenance.settings == {"asked": {"deep": [said, 3]}}


def test_names_of_prompts_are_found_without_quotes() -> None:
    """As whole words: short names and numbers, which are anywhere, are not looked for."""
    shared = _noting("a of the secret one (the secret ones): 1 b").without_text()
    assert shared.answers[0].notes == ("a of … (the secret ones): 1 b",)


@given(axis=st.text("abcdefghij", min_size=1).filter(lambda name: name not in WORDS))
def test_an_axis_that_nobody_knows_loses_its_labels(axis: str) -> None:
    """With a note, and once: what is shared already is left as it is."""
    labels = {axis: ["secret", "two"], "kind": ["mean", "sum"]}
    extra = {"table": xr.DataArray(np.eye(2), labels, (axis, "kind"))}
    shared = made_report(replace(made_answer(), extra=extra)).without_text()
    table = shared.answers[0].extra["table"]
    assert table.dims == (axis, "kind")
    assert list(table.coords) == ["kind"]
    assert shared.answers[0].notes == (f"left out, since a prompt's text may stand there: labels of {axis}",)
    assert shared.without_text().identical(shared)
