"""Long work: done, failed, cancelled or crashed, and said so, whoever looks."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from probe_app.jobs import Job, Jobs, write_json

from probe.errors import UsageError
from probe.report import open_report

TEXT = "the cat sat on the mat."


@pytest.fixture
def jobs(home: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """Jobs whose reports go to the home of these tests."""
    monkeypatch.setenv("PROBE_HOME", str(home))
    return Jobs(home / "jobs", home / "runs")


def until(jobs: Jobs, name: str, *states: str, seconds: float = 90) -> Job:
    """The job once it is in one of these states."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job = jobs.job(name)
        if job.state in states:
            return job
        assert not job.ended, (job.state, job.status, job.log)
        time.sleep(0.1)
    pytest.fail(f"{name} is {jobs.job(name).state} after {seconds} s")


def analysis(model: Path, **more: Any) -> Mapping[str, Any]:
    """A request for an analysis."""
    return {
        "work": "analyze",
        "model": str(model),
        "text": TEXT,
        "metrics": ["entropy"],
        "keep": "map",
        **more,
    }


def test_an_analysis_becomes_a_report(jobs: Jobs, home: Path, tiny_model: Path) -> None:
    """It is listed among what jobs have made, and another dashboard sees it as well."""
    name = jobs.start(analysis(tiny_model))
    job = until(jobs, name, "done")
    folder = home / "runs" / job.status["report"]
    assert open_report(folder).keys() == ["entropy"]
    later = Jobs(home / "jobs", home / "runs")
    assert later.job(name).state == "done"
    assert folder in later.reports()


def test_an_edit_gives_texts_divergence_and_two_reports(jobs: Jobs, home: Path, tiny_model: Path) -> None:
    """All three texts, a number per token, and attention before and after."""
    asked = {
        "work": "edit",
        "model": str(tiny_model),
        "text": TEXT,
        "interventions": ["zero:heads=L0.H1+L1.H2"],
    }
    job = until(jobs, jobs.start({**asked, "new_tokens": 4}), "done")
    found = jobs.result(job.name)
    assert found is not None
    assert set(found["texts"]["runs"]) == {"base", "edited", "control"}
    tokens = found["tokens"]
    assert len(tokens["kl"]) == len(tokens["str_tokens"]) == len(TEXT)
    assert max(tokens["kl"]) > 0
    assert tokens["base"][0] is None
    entropies = [
        open_report(home / "runs" / job.status["reports"][run])["entropy"] for run in ("base", "edited")
    ]
    assert not entropies[0].identical(entropies[1])


def test_what_is_wrong_is_said(jobs: Jobs, tiny_model: Path) -> None:
    """The error's own sentence reaches the page."""
    name = jobs.start(analysis(tiny_model, metrics=["entropie"]))
    job = until(jobs, name, "failed")
    assert "entropie" in job.status["message"]
    assert "entropy" in job.status["message"]


def test_a_cancelled_job_ends_at_once(jobs: Jobs, tiny_model: Path) -> None:
    """Wherever it is, and it never becomes a report."""
    name = jobs.start(analysis(tiny_model, text=TEXT * 40))
    jobs.cancel(name)
    job = until(jobs, name, "cancelled", seconds=30)
    assert job.ended
    assert "report" not in job.status


def test_a_killed_worker_is_found_out(jobs: Jobs, tiny_model: Path) -> None:
    """A process that ends without a word is called crashed, with the end of its log."""
    name = jobs.start(analysis(tiny_model))
    child = jobs._children[name]
    os.kill(child.pid, signal.SIGKILL)
    job = until(jobs, name, "crashed", seconds=30)
    assert job.ended


def test_an_orphan_that_fell_silent_is_found_out(jobs: Jobs, home: Path) -> None:
    """Also by a dashboard that did not start it."""
    name = "20260101-000000-00000000"
    place = home / "jobs" / name
    place.mkdir(parents=True)
    write_json(place / "request.json", {"work": "analyze", "model": "x"})
    write_json(place / "status.json", {"state": "running"})
    (place / "alive").touch()
    assert jobs.job(name).state == "running"
    os.utime(place / "alive", (0, 0))
    assert jobs.job(name).state == "crashed"


@pytest.mark.parametrize("name", ["..", "../runs", "", "20260101-000000-zzzzzzzz", "/etc"])
def test_names_reach_no_other_folder(jobs: Jobs, name: str) -> None:
    """A name that no job has is refused."""
    with pytest.raises(UsageError, match="none of that name"):
        jobs.job(name)


def test_one_at_a_time(jobs: Jobs, tiny_model: Path) -> None:
    """Two people who start at once do not mix: the second waits, and both get their own."""
    first, second = jobs.start(analysis(tiny_model)), jobs.start(analysis(tiny_model, metrics=["sink"]))
    reports = [until(jobs, name, "done").status["report"] for name in (first, second)]
    keys = [open_report(jobs.runs / report).keys() for report in reports]
    assert keys == [["entropy"], ["sink"]]
