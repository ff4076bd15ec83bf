"""``probe circuits``: from flags to a report and JSON, on a small saved model and pairs from a file."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models

import probe
from probe.circuits.table import METHODS
from probe.cli import main
from probe.prompts.pairs import PAIR_TASKS, read_pairs

TEXTS = [("the cat and", "the dog and", "b", "c", [4, 7]), ("a man is he", "a hen is he", "d", "e", [2, 5])]
KEYS = ("clean", "corrupt", "answer", "wrong")
ROWS = [{**dict(zip(KEYS, row, strict=False)), "marks": {"it": row[4]}} for row in TEXTS]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model with its tokenizer, saved."""
    where = tmp_path_factory.mktemp("model")
    small_models.llama().save_pretrained(where)
    small_models.letters().save_pretrained(where)
    return str(where)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two pairs as a file."""
    path = tmp_path_factory.mktemp("pairs") / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return str(path)


def _json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    out, _ = capsys.readouterr()
    assert out.count("\n") == 1
    found: dict[str, Any] = json.loads(out, parse_constant=pytest.fail)
    return found


def test_json_is_a_report_with_a_head_map(
    folder: str, pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The saved report holds what was printed, and the function in Python gives the same."""
    out = tmp_path / "run"
    given = ["--method", "activation", "--nodes", "heads", "--at", "marks", "--min-accuracy", "0"]
    found = _json(["circuits", folder, *given, "--pairs", pairs, "--out", str(out)], capsys)
    (effect,) = found["metrics"].values()
    assert found["schema"] == 1
    assert (effect["axes"], effect["layers"]) == (["layer", "head"], [0, 1])
    assert [len(row) for row in effect["values"]] == [4, 4]
    assert found["provenance"]["command"].startswith("probe circuits ")
    assert found["provenance"]["settings"]["task"] == "mine"
    saved = probe.open_report(out)
    assert saved.to_json()["metrics"] == found["metrics"]
    (answer,) = saved.answers
    assert answer.extra["by_position"].coords["position"].values.tolist() == ["it", "end"]
    read = read_pairs(pairs, small_models.letters())
    same = probe.circuits.activation_patching(folder, read, "z", at="marks", min_accuracy=0.0)
    np.testing.assert_allclose(same[answer.spec].values, np.array(effect["values"]), atol=1e-6)


def test_a_reader_gets_ranked_parts_with_intervals(
    folder: str,
    pairs: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The largest first whatever its sign, with where it was saved; without text nothing names the prompts."""
    monkeypatch.setenv("PROBE_HOME", str(tmp_path))
    given = ["--method", "activation", "--min-accuracy", "0", "--pairs", pairs, "--no-text"]
    assert main(["circuits", folder, *given]) == 0
    shown, error = capsys.readouterr()
    assert error == ""
    (saved,) = (tmp_path / "runs").iterdir()
    assert shown.endswith(f"saved in {saved}\n")
    assert not (saved / "prompts.jsonl").exists()
    assert "note: task mine, 2 pairs" in shown
    lines = [line.split() for line in shown.splitlines() if line.startswith("  L")]
    (answer,) = probe.open_report(saved).answers
    sizes = [abs(float(line[1])) for line in lines]
    assert sizes == sorted(sizes, reverse=True)
    assert len(lines) == 8
    assert sizes[0] == pytest.approx(float(np.abs(answer.head_map).max()), abs=1e-3)
    for line in lines:
        low, high = float(line[2]), float(line[4])
        assert low - 1e-3 <= float(line[1]) <= high + 1e-3


def test_layers_are_ranked_too(
    folder: str,
    pairs: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A node without heads has one line per layer."""
    monkeypatch.setenv("PROBE_HOME", str(tmp_path))
    given = ["--method", "activation", "--nodes", "mlp", "--min-accuracy", "0", "--pairs", pairs]
    assert main(["circuits", folder, *given]) == 0
    shown = capsys.readouterr().out
    assert sorted(line.split()[0] for line in shown.splitlines() if line.startswith("  L")) == ["L0", "L1"]


def test_the_list_has_every_method_and_task(capsys: pytest.CaptureFixture[str]) -> None:
    """With papers, for a reader and as JSON."""
    found = _json(["circuits", "--list"], capsys)
    assert [one["name"] for one in found["methods"]] == list(METHODS)
    assert [one["name"] for one in found["tasks"]] == list(PAIR_TASKS)
    assert all(one["paper"] and one["summary"] for one in found["methods"] + found["tasks"])
    assert main(["circuits", "--list"]) == 0
    shown = capsys.readouterr().out
    for name in (*METHODS, *PAIR_TASKS):
        assert f"\n{name} " in shown


@pytest.mark.parametrize(
    "arguments", ["['circuits', '--help']", "['circuits', '--list']", "['circuits', '--method', 'nothing']"]
)
def test_light_calls_import_no_torch(arguments: str) -> None:
    """Help, the list and a name that is not there."""
    code = (
        f"import sys\nfrom probe.cli import main\nmain({arguments})\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'plotly', 'sklearn')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


BAD_CALLS = {
    "task": (["--method", "activation", "--task", "iou"], "unknown task 'iou'; did you mean 'ioi'"),
    "method": (["--method", "activaton"], "unknown circuit method 'activaton'; did you mean 'activation'"),
    "node": (["--method", "activation", "--nodes", "zed"], "unknown node 'zed'"),
    "option": (["--method", "activation:ratio=2"], "unknown option of activation_patching 'ratio'"),
    "direction": (["--method", "activation", "--direction", "up"], "denoise, noise"),
    "measure": (["--method", "activation", "--measure", "loss"], "unknown measure 'loss'"),
    "two sources": (["--method", "activation", "--task", "ioi", "--pairs", "x.jsonl"], "--task and --pairs"),
    "no file": (["--method", "activation", "--pairs", "/nowhere/x.jsonl"], "no such file"),
    "words that the tokenizer splits": (["--method", "activation", "--task", "ioi"], "of your own"),
    "full folder": (["--method", "activation", "--out", "."], "not empty"),
    "count": (["--count", "0"], "--count"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_CALLS)
def test_a_wrong_call_is_one_sentence_and_code_2(
    what: str, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, with nothing on standard output."""
    arguments, words = BAD_CALLS[what]
    assert main(["circuits", folder, *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert words in error
    assert error.count("\n") == 1


def test_a_model_that_does_not_solve_the_task_is_refused(
    folder: str, pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its accuracy, and nothing is written."""
    out = tmp_path / "run"
    given = ["--method", "activation", "--min-accuracy", "1", "--pairs", pairs, "--out", str(out)]
    swapped = Path(pairs).with_name("swapped.jsonl")
    rows = [{**row, "answer": row["wrong"], "wrong": row["answer"]} for row in ROWS]
    swapped.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    codes = [main(["circuits", folder, *given]), main(["circuits", folder, *given, "--pairs", str(swapped)])]
    assert 2 in codes
    assert "does not solve" in capsys.readouterr().err
    assert codes == [2, 2] or out.exists()
