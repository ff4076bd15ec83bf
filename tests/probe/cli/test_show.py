"""``probe show``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_reports import made_answer, made_report

from probe.cli import main


def test_it_prints_a_saved_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0; the metric and its top head are there."""
    folder = made_report().save(tmp_path / "run")
    assert main(["show", str(folder)]) == 0
    assert "L0.H1 0.9" in capsys.readouterr().out


def test_json_is_one_object_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the report's own JSON."""
    report = made_report(made_answer("entropy"), made_answer("sink:n=4"))
    folder = report.save(tmp_path / "run")
    assert main(["show", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads(json.dumps(report.to_json()))
    assert out.count("\n") == 1
    assert err == ""


def test_one_metric_can_be_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the same key as in Python."""
    folder = made_report(made_answer("entropy"), made_answer("sink:n=4")).save(tmp_path / "run")
    assert main(["show", str(folder), "--metric", "sink", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["metrics"]) == ["sink:n=4"]
    assert main(["show", str(folder), "--metric", "snk"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_it_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    """A report can be read on a machine that could not make it."""
    folder = made_report().save(tmp_path / "run")
    code = (
        "import sys\nfor name in ('torch', 'transformers'): sys.modules[name] = None\n"
        "from probe.cli import main\nsys.exit(main(['show', sys.argv[1]]))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "L0.H1 0.9" in found.stdout


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    """``probe show DIR | head`` ends without a traceback."""
    folder = made_report(*(made_answer(f"m{i}") for i in range(400))).save(tmp_path / "run")
    command = [sys.executable, "-m", "probe", "show", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as shown:
        assert shown.stdout is not None
        assert shown.stderr is not None
        assert shown.stdout.readline().startswith("tiny")
        shown.stdout.close()
        assert "Traceback" not in shown.stderr.read()
