"""Scores survive being killed, and go on without losing or repeating a document."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from small_models import letters, llama

import probe
from probe.analysis.scoring import Scores
from probe.analysis.scoring import retrieval_heads as choosing
from probe.analysis.scoring.retrieval_heads import ChosenHeads
from probe.analysis.scoring.scorer import Scorer
from probe.errors import OutputError, UsageError

HEADS = ["L0.H1", "L1.H2"]
CALL = {"heads": HEADS, "shard": 2}

_CHILD = """
import pathlib, sys, time
import probe
from small_models import letters, llama
out, data = sys.argv[1:]
def wait(done, total, what):
    if what == "documents" and done == 7:
        pathlib.Path(out + ".progress").touch()
        time.sleep(60)
probe.score((llama(), letters()), data, heads=["L0.H1", "L1.H2"], shard=2, batch_tokens=1, out=out, progress=wait)
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eleven documents: six shards of two, the last of one."""
    path = tmp_path / "docs.jsonl"
    rows = [
        {"id": f"d{n}", "text": f"the cat sat on mat {'abcdefghijk'[n]}" * (1 + n % 3)} for n in range(11)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Interrupted(KeyboardInterrupt):
    """What Ctrl-C raises, told apart from the tester's own."""


def interrupt_after(count: int):
    """A progress function that presses Ctrl-C once so many documents are done."""

    def progress(done: int, total: int, what: str) -> None:
        if what == "documents" and done >= count:
            raise Interrupted

    return progress


def _rows_of_verify() -> int:
    """Sequences that verifying such a model runs."""
    model, rows = llama(), []
    model.model.embed_tokens.register_forward_pre_hook(lambda _module, args: rows.append(len(args[0])))
    probe.verify(model)
    return sum(rows)


def test_a_killed_run_resumes_without_losing_or_repeating(tmp_path: Path, data: Path) -> None:
    """After kill -9 inside shard 3 only what is missing runs, and the table equals an uninterrupted one."""
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(out), str(data)], env=environment)
    deadline = time.monotonic() + 120
    while not Path(f"{out}.progress").exists():
        assert child.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert sorted(path.name for path in (out / "scores").iterdir()) == [
        f"part-{number:06d}.parquet" for number in range(3)
    ]
    (out / "scores" / ".part-000003.parquet.abc.part").write_bytes(b"half a file")
    kept = {path: path.stat().st_mtime_ns for path in (out / "scores").glob("part-*")}

    model, rows = llama(), []
    verifying = _rows_of_verify()
    model.model.embed_tokens.register_forward_pre_hook(lambda _module, args: rows.append(len(args[0])))
    call = {**CALL, "batch_tokens": 1}
    resumed = probe.score((model, letters()), data, out=out, **call)
    # Five documents were missing (6 to 10); each goes through the body twice, beside what verified the model.
    assert sum(rows) == 2 * 5 + verifying
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    whole = probe.score((llama(), letters()), data, out=tmp_path / "whole", **call)
    pd.testing.assert_frame_equal(resumed.to_frame(), whole.to_frame(), check_exact=True)
    assert list(resumed.to_frame()["id"]) == [f"d{n}" for n in range(11)]
    assert resumed.to_json()["influence"] == whole.to_json()["influence"]
    assert sorted(path.name for path in out.iterdir()) == ["scores", "summary.json"]
    assert not list((out / "scores").glob(".*"))


def test_ctrl_c_keeps_finished_shards_and_another_run_is_refused(tmp_path: Path, data: Path) -> None:
    """By the name of what differs: data, heads, model, how, options; a number of workers is no difference."""
    out, model = tmp_path / "out", (llama(), letters())
    with pytest.raises(Interrupted):
        probe.score(model, data, out=out, progress=interrupt_after(5), **CALL)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    other = tmp_path / "other.jsonl"
    other.write_text(data.read_text().replace("cat", "dog"))
    changes = [
        ({"data": other}, "data"),
        ({"heads": ["L0.H1"]}, "heads"),
        ({"how": "zero"}, "how"),
        ({"shard": 3}, "options"),
        ({"model": (llama(num_hidden_layers=3), letters())}, "model"),
    ]
    for change, word in changes:
        call = {"model": model, "data": data, "out": out, **CALL, **change}
        with pytest.raises(OutputError, match=f"with other {word}:"):
            probe.score(**call)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    finished = probe.score(model, data, out=out, workers=1, **CALL)
    assert len(finished.to_frame()) == 11
    with pytest.raises(OutputError, match="not empty"):
        probe.score(model, data, out=out, **CALL)


@pytest.mark.parametrize("broken", ["garbage", "foreign"])
def test_a_shard_that_is_not_ours_is_refused(broken: str, tmp_path: Path, data: Path) -> None:
    """A damaged file, or one that another run wrote, is named; it is never taken for a result."""
    out, model = tmp_path / "out", (llama(), letters())
    with pytest.raises(Interrupted):
        probe.score(model, data, out=out, progress=interrupt_after(5), **CALL)
    shard = out / "scores" / "part-000001.parquet"
    if broken == "garbage":
        shard.write_bytes(shard.read_bytes()[:-6])
    else:
        shard.write_bytes((out / "scores" / "part-000000.parquet").read_bytes())
    with pytest.raises(OutputError, match="part-000001"):
        probe.score(model, data, out=out, **CALL)
    shard.unlink()
    assert len(probe.score(model, data, out=out, **CALL).to_frame()) == 11


def test_a_run_that_was_finished_but_not_summed_up_needs_no_document(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If only the summary was missing, it is made from the shards."""
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(Scores, "save", lambda _: (_ for _ in ()).throw(Interrupted()))
        with pytest.raises(Interrupted):
            probe.score((llama(), letters()), data, out=out, **CALL)
    monkeypatch.setattr(Scorer, "score", lambda *_: pytest.fail("a document was run again"))
    resumed = probe.score((llama(), letters()), data, out=out, **CALL)
    assert resumed.to_json()["documents"]["scored"] == 11
    assert not (out / "unfinished").exists()


def test_found_heads_are_kept(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run masks the heads that were found, and does not look again."""
    out, model, looked = tmp_path / "out", (llama(), letters()), []

    def found(*asked: object) -> ChosenHeads:
        looked.append(asked)
        return ChosenHeads(tuple(HEADS), ("found by hand",))

    module = importlib.import_module("probe.analysis.scoring.score")
    monkeypatch.setattr(module, "retrieval_heads", found)
    with pytest.raises(Interrupted):
        probe.score(model, data, out=out, shard=2, progress=interrupt_after(3))
    resumed = probe.score(model, data, out=out, shard=2)
    assert len(looked) == 1
    assert resumed.heads == tuple(HEADS)
    assert "found by hand" in resumed.to_json()["notes"]
    named = probe.score(model, data, out=tmp_path / "named", **CALL)
    pd.testing.assert_frame_equal(resumed.to_frame(), named.to_frame())


def test_every_file_says_whose_it_is(tmp_path: Path, data: Path) -> None:
    """Columns and types are fixed, and the metadata name run and shard."""
    found = probe.score((llama(), letters()), data, out=tmp_path / "out", **CALL)
    schemas = [pq.read_schema(path) for path in sorted((found.folder / "scores").iterdir())]
    notes = [json.loads(schema.metadata[b"probe"]) for schema in schemas]
    assert [one["shard"] for one in notes] == list(range(6))
    assert len({one["run"] for one in notes}) == 1
    assert all(schema.remove_metadata().equals(schemas[0].remove_metadata()) for schema in schemas)


def test_the_best_retrieval_heads_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of all heads, best first, none that never copied, and a note on what was taken."""
    from made_reports import made_answer, made_map

    class Planted:
        spec = "retrieval"

        def __init__(self, **_: object) -> None:
            pass

        def run(self, *_: object, **__: object) -> list:
            return [made_answer("retrieval", made_map([[0.0, 0.9, 0.1, 0.0], [0.0, 0.0, 0.0, 0.5]]))]

    asked: list[str] = []

    def planted(spec: str) -> Planted:
        asked.append(spec)
        return Planted()

    monkeypatch.setattr(choosing, "make", planted)
    model = probe.models.as_loaded((llama(), letters()))
    assert choosing.retrieval_heads(model, 0.05, 0).heads == ("L0.H1",)
    assert choosing.retrieval_heads(model, 0.25, 0).heads == ("L0.H1", "L1.H3")
    many = choosing.retrieval_heads(model, 1.0, 0)
    assert many.heads == ("L0.H1", "L1.H3", "L0.H2")
    assert "3 of 8 heads" in many.notes[0]
    needles = choosing.retrieval_heads(model, 1.0, 0, "needles")
    assert set(asked) == {"json_retrieval", "retrieval:lengths=500,needles=2"}
    assert "JSON objects" in many.notes[0]
    assert "hidden in prose" in needles.notes[0]


def test_models_without_retrieval_heads_are_told_what_to_try(tmp_path: Path, data: Path) -> None:
    """A model that passes no test, or has no room for one, is refused with the other way to look for heads."""
    for detect, other in (("json", "needles"), ("needles", "json")):
        with pytest.raises(UsageError, match=f"try detect={other}"):
            probe.score((llama(), letters()), data, out=tmp_path / detect, detect=detect)
    with pytest.raises(UsageError, match="there are json and needles"):
        probe.score((llama(), letters()), data, out=tmp_path / "out", detect="haystack")
