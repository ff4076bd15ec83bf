"""The page on which tasks the small models solve is what its command gives."""

import re
from pathlib import Path

import pytest

from probe.circuits import PAIR_TASKS, CircuitOptions
from probe.circuits.study import study
from probe.models import LoadedModel

PAGE = (Path(__file__).parents[1] / "docs/tasks.md").read_text()


def _rows() -> dict[str, list[str]]:
    """The cells of every task, without the marks round them."""
    found = re.findall(r"^\| `([a-z_0-9]+)` \| (.*) \|$", PAGE, re.MULTILINE)
    return {task: cells.split(" | ") for task, cells in found}


def test_every_task_has_its_line() -> None:
    """Each once, in their order."""
    assert list(_rows()) == list(PAIR_TASKS)


def test_what_is_refused_is_in_italics() -> None:
    """The share of prompts that are solved decides, as it does for the methods."""
    least = CircuitOptions().min_accuracy
    cells = [cell for row in _rows().values() for cell in row]
    measured = [cell for cell in cells if not cell.startswith("cannot be asked")]
    assert len(measured) > len(cells) / 2
    for cell in measured:
        assert cell.startswith("*") == (float(cell.strip("*").partition(",")[0]) < least), cell


@pytest.mark.parametrize("task", ["ioi"])
def test_real_weights(smollm2: LoadedModel, task: str) -> None:
    """The numbers of the page are measured anew, with its own count and seed."""
    count, seed = map(int, re.search(r"--count (\d+) --seed (\d+)", PAGE).groups())  # type: ignore[union-attr]
    with study(smollm2, task, CircuitOptions(count=count, seed=seed, min_accuracy=0.0)) as case:
        found = [case.accuracy, case.corrupt_accuracy, float(case.clean.mean())]
    told = [float(one) for one in _rows()[task][0].strip("*").split(", ")]
    assert found == pytest.approx(told, abs=0.006)
