"""A sweep survives being killed, and goes on without losing or repeating a head."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from sweeps import TEXTS, swept

import probe
from probe.analysis.sweeping import log as logs
from probe.errors import OutputError

_CHILD = """
import sys, time, pathlib
import probe
from small_models import letters, llama
out, texts = sys.argv[1], sys.argv[2:]
def wait(done, total, what):
    pathlib.Path(out + ".progress").write_text(str(done))
    if done == 3:
        time.sleep(60)
probe.sweep((llama(), letters()), "zero", "heads", "loss:tail=8", texts, out=out, progress=wait)
"""


def test_a_killed_sweep_goes_on_without_losing_or_repeating_a_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After kill -9, and with a line that was being written, only the missing heads are run; the report is the same."""
    out = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(out), *TEXTS], env=environment)
    progress, deadline = Path(f"{out}.progress"), time.monotonic() + 240
    while not (progress.exists() and progress.read_text() == "3"):
        assert child.poll() is None, "the sweep ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (out / "report.json").exists()
    (path,) = (out / "unfinished").glob("effects-*.jsonl")
    finished = [json.loads(line)["unit"] for line in path.read_text().splitlines()]
    assert finished == ["L0.H0", "L0.H1", "L0.H2"]
    with path.open("a") as file:
        file.write('{"unit": "L0.H3", "scores": [[0.12')

    ran: list[str] = []
    append = logs.EffectLog.append

    def noted(self: logs.EffectLog, unit: str, scores: logs.Scores) -> None:
        ran.append(unit)
        append(self, unit, scores)

    monkeypatch.setattr(logs.EffectLog, "append", noted)
    resumed = swept(out=out)
    assert finished + ran == [f"L{layer}.H{head}" for layer in range(2) for head in range(4)]
    whole = swept()
    np.testing.assert_array_equal(resumed.answer("effect").by_prompt, whole.answer("effect").by_prompt)
    assert resumed.provenance.notes == whole.provenance.notes
    assert probe.open_report(out).identical(resumed)
    assert not (out / "unfinished").exists()


class _Interrupted(KeyboardInterrupt):
    """What Ctrl-C raises, told apart from the tester's own."""


def _interrupt(done: int, total: int, what: str) -> None:
    if done == 2:
        raise _Interrupted


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"how": "scale=0.5"}, "how"),
        ({"task": "loss:tail=9"}, "task"),
        ({"prompts": TEXTS[:2]}, "prompts"),
        ({"over": "layers"}, "units"),
        ({"seed": 1}, "options"),
        ({"model": (small_models.gpt2(), small_models.letters())}, "model"),
    ],
)
def test_the_folder_of_another_sweep_is_refused_and_stays_as_it_is(
    change: dict[str, Any], word: str, tmp_path: Path
) -> None:
    """By the name of what differs."""
    out = tmp_path / "run"
    with pytest.raises(_Interrupted):
        swept(out=out, progress=_interrupt)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match=word):
        swept(**{"out": out, **change})
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


def test_a_damaged_log_is_refused_by_line(tmp_path: Path) -> None:
    """A whole line that is no finished head; and a head is never written twice."""
    log = logs.EffectLog(tmp_path, {"a": 1})
    log.append("L0.H0", [[0.5, float("nan")]])
    with pytest.raises(OutputError, match=r"holds L0\.H0 already"):
        log.append("L0.H0", [[0.5, 0.5]])
    log.path.write_text(log.path.read_text() + "[]\n")
    log.abandon()
    with pytest.raises(OutputError, match=r"line 2.*'\[\]'"):
        logs.EffectLog(tmp_path, {"a": 1})
