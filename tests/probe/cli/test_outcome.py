"""How a command ends: exit codes and the one sentence."""

import io
import subprocess
import sys

import pytest
import typer

from probe import errors
from probe.cli.outcome import allocation, run


class _Command:
    """A command that does one thing."""

    def __init__(self, act: object) -> None:
        self.act = act

    def main(self, args: list[str], prog_name: str, *, standalone_mode: bool) -> object:
        assert not standalone_mode
        if isinstance(self.act, BaseException):
            raise self.act
        return self.act


@pytest.mark.parametrize(
    ("act", "code", "said"),
    [
        (None, 0, ""),
        (0, 0, ""),
        (errors.UsageError("a was asked"), 2, "probe: a was asked\n"),
        (errors.UnknownNameError("b"), 2, "probe: b\n"),
        (errors.OutputError("c"), 2, "probe: c\n"),
        (errors.ReportError("d"), 2, "probe: d\n"),
        (errors.ModelError("e"), 2, "probe: e\n"),
        (errors.UnseenLayersError("two\nlines"), 2, "probe: two lines\n"),
        (errors.UsageError("red \x1b[31m"), 2, "probe: red [31m\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (typer.Abort(), 130, "interrupted"),
        (typer.BadParameter("no"), 2, "probe: Invalid value: no; see probe --help\n"),
        (MemoryError("Unable to allocate 74.5 GiB for an array"), 1, "asked for 74.5 GiB"),
        (MemoryError(), 1, "memory ran out"),
        (RuntimeError("not enough memory: you tried to allocate 400 bytes. Buy more"), 1, "asked for 400 bytes"),
    ],
)  # fmt: skip
def test_every_end_has_its_code_and_sentence(
    act: object, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exactly one line on standard error, nothing on standard output."""
    assert run(_Command(act), []) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") <= 1


def test_another_runtime_error_is_not_taken_for_memory() -> None:
    """It goes on to the last resort."""
    assert allocation(RuntimeError("shapes do not match")) is None
    with pytest.raises(RuntimeError, match="shapes"):
        run(_Command(RuntimeError("shapes do not match")), [])


_BROKEN = """
import sys
from probe.cli.outcome import run
class Broken:
    def main(self, *given, **options):
        raise KeyError('x')
sys.exit(run(Broken(), []))
"""


@pytest.mark.parametrize(("debug", "lines"), [("", 1), ("1", 4)])
def test_an_unforeseen_error_is_one_line_unless_debugging(debug: str, lines: int) -> None:
    """Exit code 1 both times; PROBE_DEBUG=1 shows the traceback."""
    import os

    found = subprocess.run(
        [sys.executable, "-c", _BROKEN],
        capture_output=True,
        text=True,
        env={**os.environ, "PROBE_DEBUG": debug},
        check=False,
    )
    assert found.returncode == 1
    assert ("Traceback" in found.stderr) == bool(debug)
    assert len(found.stderr.splitlines()) >= lines
    assert debug or found.stderr == "probe: failed unexpectedly (KeyError: 'x'); PROBE_DEBUG=1 shows where\n"


def test_debugging_raises_our_own_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer sees where a sentence came from."""
    monkeypatch.setenv("PROBE_DEBUG", "1")
    with pytest.raises(errors.UsageError):
        run(_Command(errors.UsageError("a")), [])


def test_odd_characters_do_not_stop_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal without Unicode gets escapes, not a crash."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    assert run(_Command(errors.UsageError("naïve")), []) == 2
    stream.flush()
    assert stream.buffer.getvalue() == b"probe: na\\xefve\n"  # type: ignore[attr-defined]
