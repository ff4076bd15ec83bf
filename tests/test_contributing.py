"""The contributing guide is true: its metric runs, obeys the laws, and is as short as it says."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest
from small_models import letters, llama

import probe
from probe.testing import check_metric, known_pattern, on_pattern

GUIDE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def _metric() -> tuple[str, type]:
    (code,) = re.findall(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)  # noqa: S102 -- our own page
    return code, names["Near"]


def test_a_metric_stays_under_thirty_lines() -> None:
    """Imports and docstrings included, blank lines not."""
    code, _ = _metric()
    assert len([line for line in code.splitlines() if line.strip()]) < 30
    assert max(map(len, code.splitlines())) <= 120


def test_the_metric_is_right_and_lawful() -> None:
    """Known patterns by hand, every law of the built-in metrics, and a report of a model."""
    _, near = _metric()
    assert on_pattern(near(), known_pattern("self"))[0] == pytest.approx(1.0)
    assert on_pattern(near(), known_pattern("previous"))[0] == pytest.approx(1.0)
    assert on_pattern(near(), known_pattern("first"))[0] == pytest.approx(2 / 16)
    check_metric(near())
    examples = doctest.DocTestFinder().find(near, "Near", module=False, globs={"Near": near})
    results = [doctest.DocTestRunner(verbose=False).run(one) for one in examples]
    assert (sum(one.failed for one in results), sum(one.attempted for one in results)) == (0, 2)
    report = probe.analyze((llama(), letters()), "the cat sat", [near(), "previous_token"])
    assert bool(np.isfinite(report["near"]).all())
    assert (report["near"].values > report["previous_token"].values * 10 / 11 - 1e-6).all()


def test_what_the_guide_names_is_there() -> None:
    """Every file that stands in backticks exists."""
    root = Path(__file__).parents[1]
    named = re.findall(r"`((?:probe|tests|kernels|docs)/[\w/.]+\.(?:py|md))`", GUIDE)
    assert len(named) > 10
    for name in named:
        assert (root / name).exists() or "<" in name, name
