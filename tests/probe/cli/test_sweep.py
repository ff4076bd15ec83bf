"""``probe sweep``: from flags to a report and JSON, on a small saved model."""

import json
from pathlib import Path
from typing import Any

import pytest
import small_models

import probe
from probe.analysis.sweeping.log import EffectLog, Scores
from probe.cli import main

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


def test_json_is_a_report_with_the_head_map_effect(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The saved report holds what was printed, and ``probe.sweep`` gives the same."""
    out = tmp_path / "run"
    found = _json(
        ["sweep", folder, "--how", "scale=0.5", "--text", TEXT, "--queries", "3..9", "--out", str(out)],
        capsys,
    )
    effect = found["metrics"]["effect"]
    assert found["schema"] == 1
    assert (effect["axes"], effect["layers"], effect["unit"]) == (["layer", "head"], [0, 1], "nats")
    assert [len(row) for row in effect["values"]] == [4, 4]
    assert effect["top"][0][1] == max(value for row in effect["values"] for value in row)
    assert any("scale:queries=3..9,alpha=0.5, task loss: base" in note for note in effect["notes"])
    assert found["provenance"]["command"].startswith("probe sweep ")
    assert probe.open_report(out).to_json()["metrics"] == found["metrics"]
    same = probe.sweep(folder, "scale:alpha=0.5,queries=3..9", prompts=TEXT)
    assert same.to_json()["metrics"] == found["metrics"]


def test_layers_are_shown_to_a_reader(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a pipe, with where it was saved; ``probe show`` shows the same again."""
    monkeypatch.setenv("PROBE_HOME", str(tmp_path))
    assert main(["sweep", folder, "--over", "layers", "--text", TEXT, "--no-text"]) == 0
    shown, _ = capsys.readouterr()
    assert "effect (nats) Change of the mean token loss" in " ".join(shown.split())
    assert "every value is that of a whole layer" in shown
    (saved,) = (tmp_path / "runs").iterdir()
    assert shown.endswith(f"saved in {saved}\n")
    assert not (saved / "prompts.jsonl").exists()
    assert main(["show", str(saved)]) == 0
    assert capsys.readouterr().out.strip() in shown


def test_the_same_command_finishes_an_interrupted_sweep(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a folder too: it is found by what was asked, and by nothing else."""
    monkeypatch.setenv("PROBE_HOME", str(tmp_path))
    ran: list[str] = []
    append = EffectLog.append

    def interrupted(self: EffectLog, unit: str, scores: Scores) -> None:
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append(unit)
        append(self, unit, scores)

    command = ["sweep", folder, "--text", TEXT]
    with monkeypatch.context() as patched:
        patched.setattr(EffectLog, "append", interrupted)
        assert main(command) == 130
    assert main([*command, "--seed", "1"]) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2
    left = [path for path in (tmp_path / "runs").iterdir() if (path / "unfinished").exists()]

    def noted(self: EffectLog, unit: str, scores: Scores) -> None:
        ran.append(unit)
        append(self, unit, scores)

    monkeypatch.setattr(EffectLog, "append", noted)
    assert main(command) == 0
    assert ran == [f"L{layer}.H{head}" for layer in range(2) for head in range(4)]
    assert (left[0] / "report.json").exists()
    assert not (left[0] / "unfinished").exists()


def test_prompts_with_answers_are_read_from_a_file(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The task's second number has a map of its own."""
    rows = [{"id": f"p{n}", "text": f"the sea is {word}", "answer": "blue."} for n, word in enumerate("ab")]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = _json(["sweep", folder, "--task", "needle", "--phase", "decode", "--prompts", str(path)], capsys)
    assert list(found["metrics"]) == ["effect", "recall"]
    assert found["provenance"]["prompts"] == 2
    assert any(
        "rows from the last token of the prompt on" in note for note in found["metrics"]["effect"]["notes"]
    )


BAD_CALLS = {
    "task": (["--task", "lambada"], "unknown task 'lambada'"),
    "unit": (["--over", "neurons"], "heads, layers"),
    "intervention": (["--how", "zeero"], "did you mean 'zero'"),
    "head": (["--how", "zero:heads=L0.H4", "--text", "ab"], "unknown head 'L0.H4'"),
    "rows": (["--queries", "5..2", "--text", "abcdefg"], "queries=(5, 2) was asked"),
    "span": (["--queries", "needle", "--text", "abcdefg"], "no span 'needle'"),
    "answer": (["--task", "needle", "--text", "abcdefg"], "has no answer"),
    "two sources": (["--text", "a", "--file", "b"], "--text and --file"),
    "full folder": (["--text", "ab", "--out", "."], "not empty"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_CALLS)
def test_a_wrong_call_is_one_sentence_and_code_2(
    what: str, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, with nothing on standard output."""
    arguments, words = BAD_CALLS[what]
    assert main(["sweep", folder, *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert words in error
    assert error.count("\n") == 1
