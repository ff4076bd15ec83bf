"""A report to share tells nothing of the text."""

from pathlib import Path

import numpy as np
import xarray as xr
from made_reports import made_answer, made_map, made_report

from probe.report import Answer


def _telling() -> Answer:
    base = made_map([[0.5, 0.25]])
    from dataclasses import replace

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
