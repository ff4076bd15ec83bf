"""A damaged report is refused by name, never half-read."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from made_reports import made_answer, made_report

from probe.errors import OutputError, ReportError
from probe.report import open_report


def _edit(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        header = json.loads((folder / "report.json").read_text())
        change(header)
        (folder / "report.json").write_text(json.dumps(header))

    return apply


def _append(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + content)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no report.json": (lambda f: (f / "report.json").unlink(), "no such file"),
    "no arrays": (lambda f: (f / "arrays.safetensors").unlink(), "no such file"),
    "cut JSON": (lambda f: (f / "report.json").write_text('{"schema": 1, '), "not valid JSON"),
    "not UTF-8": (lambda f: (f / "report.json").write_bytes(b"\xff\xfe\x00{"), "not valid JSON"),
    "NaN in JSON": (lambda f: (f / "report.json").write_text('{"schema": NaN}'), "NaN is not JSON"),
    "deep JSON": (lambda f: (f / "report.json").write_text("[" * 200_000), "not valid JSON"),
    "another JSON": (lambda f: (f / "report.json").write_text("[1]"), "not a probe report"),
    "newer schema": (_edit(lambda h: h.update(schema=99)), "schema 99"),
    "no provenance": (_edit(lambda h: h.pop("provenance")), "no provenance"),
    "no model": (_edit(lambda h: h["provenance"].pop("model")), "names no model"),
    "no answers": (_edit(lambda h: h.update(answers=None)), "lists no answers"),
    "answer is text": (_edit(lambda h: h.update(answers=["x"])), "an answer was asked"),
    "no unit": (_edit(lambda h: h["answers"][0].pop("unit")), "without spec"),
    "odd better": (_edit(lambda h: h["answers"][0].update(better="best")), "not high or low"),
    "no head map": (_edit(lambda h: h["answers"][0].pop("head_map")), "damaged"),
    "head map is text": (_edit(lambda h: h["answers"][0].update(head_map="x")), "damaged"),
    "odd shape": (_edit(lambda h: h["answers"][0]["head_map"].update(shape=[9])), "do not belong together"),
    "odd dims": (_edit(lambda h: h["answers"][0]["head_map"].update(dims=["layer"])), "damaged"),
    "unknown array": (_edit(lambda h: h["answers"][0]["head_map"].update(array="../x")), "does not hold it"),
    "short coordinate": (
        _edit(lambda h: h["answers"][0]["head_map"]["coords"]["layer"].update(flat=[1])),
        "damaged",
    ),
    "other arrays": (_append("arrays.safetensors", b"x"), "is not the file that"),
    "odd prompt": (_append("prompts.jsonl", b"{\n"), "line 3"),
    "a prompt too many": (_append("prompts.jsonl", b'{"id": "c"}\n'), "2 prompts were asked, found 3"),
    "prompt without id": (_append("prompts.jsonl", b'{"text": "c"}\n'), "line 3: a prompt with an id"),
    "odd spans": (_append("prompts.jsonl", b'{"id": "c", "spans": {"a": 3}}\n'), "line 3: tokens and spans"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named(what: str, tmp_path: Path) -> None:
    """Every way to damage a report's files is a `ReportError` that says what is wrong."""
    damage, message = DAMAGE[what]
    folder = made_report().save(tmp_path / "run")
    damage(folder)
    with pytest.raises(ReportError, match=message):
        open_report(folder)


def test_arrays_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    """A right sum does not make a file readable."""
    import hashlib

    folder = made_report().save(tmp_path / "run")
    (folder / "arrays.safetensors").write_bytes(b"not tensors")
    _edit(lambda h: h.update(arrays_sha256=hashlib.sha256(b"not tensors").hexdigest()))(folder)
    with pytest.raises(ReportError, match="cannot be read"):
        open_report(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The message holds the path that was asked."""
    with pytest.raises(ReportError, match="nowhere"):
        open_report(tmp_path / "nowhere")


def test_a_folder_with_files_is_not_written_to(tmp_path: Path) -> None:
    """Another run's files are never mixed with or replaced by a report."""
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        made_report().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """A report is a folder."""
    (tmp_path / "run").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        made_report().save(tmp_path / "run")


def test_replacing_keeps_other_files_and_drops_old_prompts(tmp_path: Path) -> None:
    """A report replaces the report of its own run; what else lies there stays."""
    folder = made_report().save(tmp_path / "run")
    (folder / "mine.txt").write_text("mine")
    fresh = made_report(made_answer("sink")).without_text()
    fresh.save(folder, replace=True)
    assert open_report(folder).identical(fresh)
    assert sorted(f.name for f in folder.iterdir()) == ["arrays.safetensors", "mine.txt", "report.json"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves neither a folder nor a temporary one."""

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        made_report().save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
