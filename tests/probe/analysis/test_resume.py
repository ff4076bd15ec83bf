"""An unfinished run survives being killed, and goes on without losing or repeating a prompt."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import letters, llama, vit

import probe
from probe.errors import OutputError, UnseenLayersError

TEXTS = [f"{word} and the cat sat on the mat" for word in ("one", "two", "three", "four", "five", "six")]
METRICS = ["entropy", "received", "sink:n=2"]

_CHILD = """
import sys, time, pathlib
import probe
from small_models import letters, llama
out, texts, keep = sys.argv[1], sys.argv[3:], sys.argv[2]
def wait(done, total, what):
    pathlib.Path(out + ".progress").write_text(str(done))
    if done == 3:
        time.sleep(60)
probe.analyze((llama(), letters()), texts, ["entropy", "received", "sink:n=2"], out=out, keep=keep, progress=wait)
"""


def started(out: Path, keep: str) -> subprocess.Popen:
    """A run in another process, stopped by its own progress report after the third prompt."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(out), keep, *TEXTS], env=environment)
    progress = Path(f"{out}.progress")
    deadline = time.monotonic() + 90
    while not (progress.exists() and progress.read_text() == "3"):
        assert child.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return child


def test_a_killed_run_resumes_without_losing_or_repeating(tmp_path):
    """After kill -9 the same call runs only what was missing, and the report equals an uninterrupted one."""
    out = tmp_path / "run"
    child = started(out, "map")
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (out / "report.json").exists()

    model, forwards = llama(), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: forwards.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    whole = probe.analyze((llama(), letters()), TEXTS, METRICS)
    forwards.clear()
    resumed = probe.analyze((model, letters()), TEXTS, METRICS, out=out, keep="map")
    assert len(forwards) == 3 + 3  # verify's three, and prompts 3, 4, 5
    for key in whole:
        np.testing.assert_array_equal(resumed[key], whole[key])
        np.testing.assert_array_equal(resumed.answer(key).by_prompt, whole.answer(key).by_prompt)
        for prompt, tokens in whole.answer(key).token_maps.items():
            np.testing.assert_array_equal(resumed.answer(key).token_maps[prompt], tokens)
    assert len(list((out / "kept" / "map").iterdir())) == len(TEXTS)
    assert not (out / "unfinished").exists()


class Interrupted(KeyboardInterrupt):
    """What Ctrl-C raises, told apart from the tester's own."""


def interrupt_after(count: int):
    """A progress function that presses Ctrl-C."""

    def progress(done: int, total: int, what: str) -> None:
        if done >= count:
            raise Interrupted

    return progress


def test_ctrl_c_leaves_a_state_that_resumes(tmp_path):
    """Ctrl-C keeps the finished prompts; the same call finishes the run."""
    out, model = tmp_path / "run", (llama(), letters())
    with pytest.raises(Interrupted):
        probe.analyze(model, TEXTS, METRICS, out=out, progress=interrupt_after(4))
    assert len(list((out / "unfinished").glob("batch-*"))) == 4
    resumed = probe.analyze(model, TEXTS, METRICS, out=out)
    np.testing.assert_array_equal(resumed["entropy"], probe.analyze(model, TEXTS, METRICS)["entropy"])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"prompts": TEXTS[:5]}, "prompts"),
        ({"metrics": ["entropy"]}, "metrics"),
        ({"batch_size": 2}, "options"),
        ({"model": (llama(num_hidden_layers=1), letters())}, "model"),
        ({"interventions": [probe.interventions.zero(heads=["L0.H0"])]}, "interventions"),
    ],
)
def test_another_run_is_refused_and_changes_nothing(tmp_path, change, word):
    """A folder with an unfinished run of something else is refused, by the name of what differs."""
    out = tmp_path / "run"
    call = {"model": (llama(), letters()), "prompts": TEXTS, "metrics": METRICS}
    with pytest.raises(Interrupted):
        probe.analyze(**call, out=out, progress=interrupt_after(2))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match=word):
        probe.analyze(**{**call, **change}, out=out)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


def test_two_runs_cannot_share_a_folder(tmp_path):
    """While one run writes to a folder, a second one of the same call is refused and the first finishes."""
    out, model, refused = tmp_path / "run", (llama(), letters()), []

    def again(done, total, what):
        if done == 1:
            with pytest.raises(OutputError, match="another run") as caught:
                probe.analyze((llama(), letters()), TEXTS, METRICS, out=out)
            refused.append(caught)

    report = probe.analyze(model, TEXTS, METRICS, out=out, progress=again)
    assert len(refused) == 1
    assert probe.open_report(out).identical(report)


def test_a_run_killed_at_its_very_start_can_start_again(tmp_path):
    """A folder in which nothing but an empty state was made is as good as empty."""
    out = tmp_path / "run"
    (out / "unfinished").mkdir(parents=True)
    (out / "unfinished" / "lock").touch()
    probe.analyze((llama(), letters()), TEXTS[0], ["entropy"], out=out)
    assert sorted(path.name for path in out.iterdir()) == [
        "arrays.safetensors",
        "prompts.jsonl",
        "report.json",
    ]


def test_a_finished_report_is_never_overwritten(tmp_path):
    """The folder of a finished report is refused, and stays as it is."""
    out, model = tmp_path / "run", (llama(), letters())
    probe.analyze(model, TEXTS[:1], ["entropy"], out=out)
    before = (out / "report.json").read_bytes()
    with pytest.raises(OutputError, match="not empty"):
        probe.analyze(model, TEXTS[:1], ["entropy"], out=out)
    assert (out / "report.json").read_bytes() == before


def test_a_run_that_was_finished_but_not_written_needs_no_forward(tmp_path, monkeypatch):
    """If only the report was missing, it is made from the kept prompts."""
    out, model = tmp_path / "run", (llama(), letters())
    with monkeypatch.context() as patched:
        patched.setattr(probe.Report, "save", lambda *args, **kwargs: (_ for _ in ()).throw(Interrupted()))
        with pytest.raises(Interrupted):
            probe.analyze(model, TEXTS, METRICS, out=out)
    resumed = probe.analyze(model, TEXTS, METRICS, out=out)
    np.testing.assert_array_equal(resumed["received"], probe.analyze(model, TEXTS, METRICS)["received"])
    assert resumed.provenance.mode == "fused"


def test_images_keep_their_numbers_over_a_resume(tmp_path):
    """Towers count their own sequences: resumed images follow the finished ones."""
    out, model = tmp_path / "run", vit()
    images = [{"pixel_values": torch.randn(2, 3, 32, 32)} for _ in range(3)]
    with pytest.raises(Interrupted):
        probe.analyze(model, images, ["entropy"], out=out, progress=interrupt_after(2))
    resumed = probe.analyze(model, images, ["entropy"], out=out)
    whole = probe.analyze(model, images, ["entropy"])
    assert list(resumed.answers[0].by_prompt.prompt) == list(whole.answers[0].by_prompt.prompt)
    np.testing.assert_array_equal(resumed.answers[0].by_prompt, whole.answers[0].by_prompt)


def test_unseen_layers_are_listed_or_stop_the_run(monkeypatch):
    """Layers that ran unseen are a line of the report, or an error by name if that was asked."""
    from probe.seam.session import Session

    monkeypatch.setattr(Session, "unseen_layers", property(lambda self: ["model.layers.7.self_attn"]))
    with pytest.raises(UnseenLayersError, match=r"layers\.7"):
        probe.analyze((llama(), letters()), TEXTS[0], ["entropy"], on_unseen="error")
    report = probe.analyze((llama(), letters()), TEXTS[0], ["entropy"])
    assert report.provenance.unseen_layers == ("model.layers.7.self_attn",)
