"""Commands of other packages."""

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from probe.cli import extensions, main

EXTENSION = """
from typing import Annotated
import typer
def hello(name: Annotated[str, typer.Argument()], loud: bool = False) -> None:
    print(name.upper() if loud else name)
app = typer.Typer()
@app.command()
def one() -> None:
    print("one")
"""


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three extensions: a function, a typer app, and one whose dependency is missing."""
    (tmp_path / "an_extension.py").write_text(EXTENSION)
    (tmp_path / "a_broken_extension.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("an_extension", "a_broken_extension"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    points = [
        EntryPoint("hello", "an_extension:hello", extensions.GROUP),
        EntryPoint("app", "an_extension:app", extensions.GROUP),
        EntryPoint("dashboard", "a_broken_extension:run", extensions.GROUP),
    ]
    monkeypatch.setattr(extensions, "registered", lambda: {point.name: point for point in points})


@pytest.mark.usefixtures("registered")
def test_help_lists_them_without_importing(capsys: pytest.CaptureFixture[str]) -> None:
    """A heavy or broken extension costs the others nothing."""
    assert main(["--help"]) == 0
    assert re.search(r"^\s*dashboard\s+See probe dashboard --help", capsys.readouterr().out, re.MULTILINE)
    assert not {"an_extension", "a_broken_extension"} & sys.modules.keys()


@pytest.mark.usefixtures("registered")
def test_a_function_and_an_app_are_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """Arguments and options are theirs."""
    assert main(["hello", "you", "--loud"]) == 0
    assert main(["app"]) == 0
    assert capsys.readouterr().out == "YOU\none\n"


@pytest.mark.usefixtures("registered")
def test_a_missing_dependency_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """With the command that installs it."""
    assert main(["dashboard"]) == 2
    said = capsys.readouterr().err
    assert "surely_not_installed" in said
    assert "pip install 'attention-probe[app]'" in said


@pytest.mark.usefixtures("registered")
def test_a_built_in_command_cannot_be_replaced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``show`` stays ours."""
    theirs = {"show": EntryPoint("show", "an_extension:hello", extensions.GROUP)}
    monkeypatch.setattr(extensions, "registered", lambda: theirs)
    assert main(["show", "/nowhere"]) == 2
    assert "/nowhere" in capsys.readouterr().err
