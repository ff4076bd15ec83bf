"""The command line's own words: changing a flag is a decision, so the help is pinned."""

import re

import pytest
from syrupy.assertion import SnapshotAssertion

from probe.cli import extensions, main


@pytest.mark.parametrize(
    "command",
    [
        "",
        "analyze",
        "ablate",
        "sweep",
        "circuits",
        "patterns",
        "score",
        "generate",
        "show",
        "taxonomy",
        "metrics",
        "fetch",
    ],
)
def test_help(
    command: str,
    snapshot: SnapshotAssertion,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Commands and flags are those that were agreed on, whatever else is installed and however wide the terminal."""
    monkeypatch.setattr(extensions, "registered", dict)
    assert main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    flags = re.findall(r"--[a-z][a-z-]+", shown)
    commands = re.findall(r"^  ([a-z]+)  ", shown, re.MULTILINE) if not command else []
    assert {"flags": sorted(set(flags)), "commands": commands} == snapshot
