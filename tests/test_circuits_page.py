"""The page on circuits is true: its tables are those of the code, and what it names is there."""

import inspect
import re
from pathlib import Path

import pytest

from probe.circuits.asked import NODE_ALIASES, read_call
from probe.circuits.measures import MEASURES
from probe.circuits.nodes import NODES
from probe.circuits.table import ALIASES, METHODS, method
from probe.prompts.pairs import PAIR_TASKS

PAGE = (Path(__file__).parents[1] / "docs/circuits.md").read_text()


def _section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def _takes(name: str) -> str:
    """A method's own parameters with their defaults, as they are written in a spec."""
    parts = []
    for one in inspect.signature(method(name)).parameters.values():
        if one.name in ("model", "options", "changes"):
            continue
        value = "+".join(map(str, one.default)) if isinstance(one.default, tuple | list) else one.default
        value = str(value).lower() if isinstance(value, bool) else value
        parts.append(f"`{one.name}`" if value is None else f"`{one.name}={value}`")
    return ", ".join(parts)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_line(name: str) -> None:
    """Name, short name, what it tells, what it takes, and its paper."""
    short = {full: alias for alias, full in ALIASES.items()}
    called = f"`{name}`" + (f" (`{short[name]}`)" if name in short else "")
    takes = f" {_takes(name)} " if _takes(name) else " "
    line = f"| {called} | {METHODS[name].summary} |{takes}| {METHODS[name].paper} |"
    assert line in _section("Methods").splitlines()


def test_there_are_no_other_lines() -> None:
    """No method or task is listed that is not there, and none twice."""
    listed = re.findall(r"^\| `([a-z_]+)`", _section("Methods"), re.MULTILINE)
    assert listed == list(METHODS)
    tasks = re.findall(r"^\| (.*) \|$", _section("Tasks"), re.MULTILINE)
    assert tasks[1:] == [f"`{name}` | {one.summary} | {one.paper}" for name, one in PAIR_TASKS.items()]


def test_nodes_and_measures_are_named() -> None:
    """Each of them, and the short names of nodes."""
    asked = _section("What is asked")
    for name in (*NODES, *NODE_ALIASES, *MEASURES):
        assert f"`{name}`" in asked


def test_commands_can_be_read() -> None:
    """Every command of the page names a method with parameters that it takes."""
    commands = [line for line in PAGE.splitlines() if line.startswith("probe circuits")]
    specs = [found[1] for line in commands if (found := re.search(r"--method (\S+)", line))]
    assert len(specs) >= 4
    for spec in specs:
        assert read_call(spec, {}).name in METHODS
