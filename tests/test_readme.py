"""The README is true: its commands are there, its code runs, its tables equal the code."""

import functools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

if TYPE_CHECKING:
    from probe.models import LoadedModel

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROBE = Path(sys.executable).with_name("probe")
INSTALLS = (
    "pip install -c constraints.txt -e . && probe analyze",
    "pip install -c constraints.txt -e '.[dev]' && pytest",
)


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", README, re.MULTILINE | re.DOTALL)


def _section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def _commands() -> list[str]:
    lines = [line.strip() for block in _blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("probe ")]


@functools.cache
def _run(line: str) -> str:
    """What a command line prints, beside the file of prompts that the README shows; each line runs once."""
    command = f"'{PROBE}' {line.removeprefix('probe ')}"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "facts.jsonl").write_text(_blocks("jsonl")[0])
        done = subprocess.run(
            ["/bin/sh", "-c", command], capture_output=True, text=True, check=False, cwd=folder
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_first_screen_holds_the_two_commands() -> None:
    """The two commands that do all the set-up stand on the first screen, word for word."""
    first_screen = "\n".join(README.splitlines()[:30])
    assert all(command in first_screen for command in INSTALLS)


def test_python_blocks_run(tmp_path: Path, smollm2: "LoadedModel") -> None:
    """Every Python block runs, one after the other, on the model that it names."""
    assert smollm2.name == "smollm2-135m"
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(ROOT / "README.md")
    document.namespace["folder"] = tmp_path
    examples = list(document.examples())
    for example in examples:
        example.evaluate()
    assert len(examples) == len(_blocks("python")) > 4


@pytest.mark.parametrize("line", _commands())
def test_shell_lines_run(line: str, smollm2: "LoadedModel") -> None:
    """Every shell line that starts with probe exits with 0 and prints something."""
    assert smollm2.name == "smollm2-135m"
    assert _run(line).strip()


def test_commands_are_those_of_the_program() -> None:
    """The table of commands names each command of `probe --help` and no other."""
    documented = re.findall(r"^\| `probe (\w+)", _section("On the command line"), re.MULTILINE)
    help_text = re.sub(r"\x1b\[[0-9;]*m", "", _run("probe --help"))
    offered = re.findall(r"^[│|\s]{1,4}([a-z]+)\s{2,}[A-Z]", help_text, re.MULTILINE)
    assert sorted(documented) == sorted(offered)


def test_metric_table_is_that_of_the_program() -> None:
    """The table of metrics holds each metric and experiment with its unit, and no other."""
    from probe.metrics import metric_infos

    documented = dict(
        re.findall(r"^\| `([a-z_]+)`[^|]*\|[^|]*\| ([^|]*?) \|", _section("Metrics"), re.MULTILINE)
    )
    assert documented == {info.name: info.unit for info in metric_infos()}


def test_intervention_table_is_that_of_the_program() -> None:
    """The table of interventions holds each of them with its own parameters, and no other; Python's are named."""
    from probe import interventions
    from probe.interventions.listing import listed

    section = _section("Interventions")
    rows = re.findall(r"^\| `([a-z_]+)` \|[^|]*\|([^|]*)\|$", section, re.MULTILINE)
    documented = {name: tuple(re.findall(r"`([^`]+)`", parameters)) for name, parameters in rows}
    assert documented == {one.name: one.parameters for one in listed()}
    beside = {"patch", "guidance", "recording"}
    assert beside <= set(interventions.__all__) - documented.keys()
    assert all(f"`{name}`" in section for name in beside)


@pytest.mark.parametrize("command", ["analyze", "ablate"])
def test_json_blocks_have_the_shape_of_the_real_answers(command: str, smollm2: "LoadedModel") -> None:
    """The JSON in the README has the keys of what the program prints."""
    key = {"analyze": "metrics", "ablate": "runs"}[command]
    shown = next(one for one in map(json.loads, _blocks("json")) if key in one)
    real = json.loads(_run(next(line for line in _commands() if f" {command} " in line and "--json" in line)))
    assert smollm2.name
    assert shown.keys() == real.keys()
    assert shown[key].keys() <= real[key].keys()
    first = next(iter(shown[key]))
    assert shown[key][first].keys() == real[key][first].keys()
    if command == "ablate":
        shortened = [(shown["runs"][run], real["runs"][run]) for run in ("edited", "control")]
        shortened += [(shown["by_prompt"][0], real["by_prompt"][0]), (shown["ci"], real["ci"])]
        assert all(mine.keys() <= theirs.keys() for mine, theirs in shortened)


def test_links_lead_somewhere() -> None:
    """Every relative link of the README, the contributing guide and the docs leads to a file."""
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
