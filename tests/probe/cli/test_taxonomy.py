"""``probe taxonomy``."""

import json
from pathlib import Path

import pytest
from kinds import kind_of, report_on_kinds

from probe.cli import main
from probe.report.taxonomy import taxonomy


def test_json_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the taxonomy's own, and the neighbours that were asked."""
    report = report_on_kinds()
    folder = report.save(tmp_path / "run")
    assert (
        main(
            ["taxonomy", str(folder), "--json", "--near", "L1.H0", "--metric", "entropy", "--metric", "sink"]
        )
        == 0
    )
    out, err = capsys.readouterr()
    found = json.loads(out)
    near = found.pop("near")
    assert found == json.loads(json.dumps(taxonomy(report, metrics=["entropy", "sink"]).to_json()))
    assert near["head"] == "L1.H0"
    assert {kind_of(one["head"]) for one in near["heads"][:3]} == {kind_of("L1.H0")}
    assert sorted(head for one in found["clusters"] for head in one["heads"]) == sorted(
        one["head"] for one in found["heads"]
    )
    assert (out.count("\n"), err) == (1, "")


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        (["--near", "L9.H9"], "head of this taxonomy"),
        (["--scale", "log"], "z or rank"),
        (["--clusters", "99"], "99 clusters"),
        (["--metric", "sinc"], "did you mean 'sink'"),
        (["--tower", "audio"], "audio heads"),
    ],
)
def test_wrong_calls_end_with_2(
    asked: list[str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence that says what was found."""
    folder = report_on_kinds(layers=2).save(tmp_path / "run")
    assert main(["taxonomy", str(folder), *asked]) == 2
    assert word in capsys.readouterr().err
