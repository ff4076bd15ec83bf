"""``probe ablate``: from flags to tables and JSON, on a small saved model."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import small_models

from probe.cli import main
from probe.cli.edits import read_how
from probe.errors import UsageError

TEXT = "the quick brown fox jumps."


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model with its tokenizer, saved."""
    where = tmp_path_factory.mktemp("model")
    small_models.llama().save_pretrained(where)
    small_models.letters().save_pretrained(where)
    return str(where)


def _json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    out, _ = capsys.readouterr()
    assert out.count("\n") == 1
    found: dict[str, Any] = json.loads(out, parse_constant=pytest.fail)
    return found


def test_json_is_one_object_of_the_agreed_form(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Model, intervention, runs, values by prompt, intervals and provenance."""
    flags = [
        "--heads",
        "L0.H1,L1.H2",
        "--how",
        "zero",
        "--text",
        TEXT,
        "--new-tokens",
        "3",
        "--control-seeds",
        "2",
    ]
    found = _json(["ablate", folder, *flags], capsys)
    assert found["schema"] == 1
    assert found["intervention"] == ["zero:heads=L0.H1+L1.H2"]
    assert list(found["runs"]) == ["base", "edited", "control"]
    for run in found["runs"].values():
        assert {"loss", "perplexity", "kl_to_base", "top_changes", "continuations"} <= set(run)
        assert len(run["continuations"][0]["tokens"]) == 3
    assert len(found["runs"]["control"]["draws"]) == 2
    assert found["by_prompt"][0]["edited"]["loss"] == found["runs"]["edited"]["loss"]
    assert found["ci"]["edited_minus_base"]["loss"] is None
    assert shlex.split(found["provenance"]["command"]) == ["probe", "ablate", folder, *flags, "--json"]


def test_prompts_with_answers_give_intervals(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over the rows of a file; the saved file holds what was printed."""
    rows = [{"id": f"p{n}", "text": f"the sea is {word}", "answer": "blue."} for n, word in enumerate("abc")]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    spec = "scale:heads=L0.H1+L1.H0,alpha=-2"
    flags = ["--how", spec, "--prompts", str(path), "--tokens", "0", "--out", str(tmp_path / "run")]
    found = _json(["ablate", folder, *flags], capsys)
    assert [row["id"] for row in found["by_prompt"]] == ["p0", "p1", "p2"]
    low, high = found["ci"]["edited"]["answer_loss"]
    assert low <= found["runs"]["edited"]["answer_loss"] <= high
    low, high = found["ci"]["edited_minus_control"]["loss"]
    assert low <= found["runs"]["edited"]["loss"] - found["runs"]["control"]["loss"] <= high
    assert json.loads((tmp_path / "run" / "ablation.json").read_text(encoding="utf-8")) == found


def test_a_reader_sees_runs_differences_controls_and_texts(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain text in a pipe; nothing is saved."""
    arguments = ["--heads", "L0.H1", "--how", "scale=-2.0", "--text", TEXT, "--new-tokens", "4"]
    assert main(["ablate", folder, *arguments]) == 0
    out, _ = capsys.readouterr()
    for part in (
        "base",
        "edited",
        "control",
        "loss",
        "perplexity",
        "kl to base",
        "top changes",
        "%",
        "edited − base",
    ):
        assert part in out
    assert "intervals need at least two prompts" in out
    assert "scale:heads=L0.H1,alpha=-2" in out
    assert "saved in" not in out
    assert "\x1b" not in out


def test_heads_go_to_every_spec_that_names_none() -> None:
    """Commas and plus signs both join them; specs apply in the order given."""
    made = read_how(["zero", "scale:heads=L1.H3,alpha=2", "scale=0.5"], "L0.H1,L1.H2+L1.H0")
    assert [one.name for one in made] == [
        "zero:heads=L0.H1+L1.H0+L1.H2",
        "scale:heads=L1.H3,alpha=2",
        "scale:heads=L0.H1+L1.H0+L1.H2,alpha=0.5",
    ]
    with pytest.raises(UsageError, match="no --how takes them"):
        read_how(["zero:heads=L0.H1"], "L0.H2")


BAD_CALLS = {
    "no how": (["--text", "a"], "--how"),
    "unknown intervention": (["--text", "a", "--how", "zeero"], "did you mean 'zero'"),
    "unknown parameter": (["--text", "a", "--how", "zero:haeds=L0.H1"], "did you mean 'heads'"),
    "unknown head": (["--text", "a b", "--how", "zero", "--heads", "L0.H4"], "unknown head 'L0.H4'"),
    "unknown layer": (["--text", "a b", "--how", "zero", "--heads", "L9.H0"], "unknown head 'L9.H0'"),
    "no head": (["--text", "a", "--how", "zero", "--heads", "18.6"], "heads are written like L18.H6"),
    "empty head": (["--text", "a", "--how", "zero", "--heads", "L0.H1,"], "leaves a head empty"),
    "heads without taker": (["--text", "a", "--how", "zero:heads=L0.H1", "--heads", "L0.H2"], "leave --heads out"),
    "wrong number": (["--text", "a", "--how", "scale:heads=L0.H1,alpha=much"], "a number"),
    "empty text": (["--text", " ", "--how", "zero"], "no text"),
    "two sources": (["--text", "a", "--file", "b", "--how", "zero"], "--text and --file"),
    "missing file": (["--prompts", "/no/such/file", "--how", "zero"], "no such file"),
    "negative controls": (["--text", "a", "--how", "zero", "--control-seeds", "-1"], "--control-seeds"),
    "never acts": (
        ["--text", "a b", "--how", "zero:heads=L0.H1,phase=decode", "--new-tokens", "0"], "changed nothing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_CALLS)
def test_a_wrong_call_is_one_sentence_and_code_2(
    what: str, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, with nothing on standard output."""
    arguments, message = BAD_CALLS[what]
    assert main(["ablate", folder, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("probe: ")
    assert err.count("\n") == 1


def test_an_empty_prompts_file_and_a_folder_in_use_are_refused(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is loaded or written."""
    (tmp_path / "empty.jsonl").write_text("\n")
    assert main(["ablate", folder, "--how", "zero", "--prompts", str(tmp_path / "empty.jsonl")]) == 2
    assert "holds no prompts" in capsys.readouterr().err
    assert main(["ablate", folder, "--how", "zero", "--text", "a", "--out", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err


def test_too_many_heads_for_a_control_are_measured_without_one(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The control is null, and a note says why."""
    heads = "L0.H0,L0.H1,L0.H2"
    found = _json(
        ["ablate", folder, "--how", "zero", "--heads", heads, "--text", TEXT, "--tokens", "2"], capsys
    )
    assert found["runs"]["control"] is None
    assert any("at most half of a layer's heads" in note for note in found["notes"])
