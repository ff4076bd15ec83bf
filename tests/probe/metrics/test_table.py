"""The table of metrics takes metrics of installed packages, and names the ones that are broken."""

import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from probe.errors import MetricError, UnknownNameError
from probe.metrics import table
from probe.metrics.table import BUILT_IN, MetricTable


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on the path; tests write its module `theirs`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    return tmp_path


def points(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, str]) -> MetricTable:
    made = [EntryPoint(name, value, table.GROUP) for name, value in found]
    monkeypatch.setattr(table, "entry_points", lambda group: [one for one in made if one.group == group])
    return MetricTable(BUILT_IN, table.GROUP)


FIVE_LINES = """
from probe_kernels.types import Want
from probe.metrics import MetricInfo, RowMetric

class SecondKey(RowMetric):
    info = MetricInfo("second", "Mass on key two behind, in [0, 1].", "probability", "high", "nobody", "@misc{x}")
    need = Want(z=False, offsets=(2,))
    def score(self, call, attended):
        return attended.offsets[2]
"""


def test_a_third_party_metric_takes_five_lines_and_keeps_the_laws(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry point adds a metric, which is listed after ours and passes the public check."""
    from probe.testing import check_metric

    (installed / "theirs.py").write_text(FIVE_LINES)
    known = points(monkeypatch, ("second", "theirs:SecondKey"))
    assert list(known)[-1] == "second"
    assert "second" in known
    check_metric(known["second"], known={"self": 0.0, "previous": 0.0})


@pytest.mark.parametrize(
    ("source", "value", "why"),
    [
        ("import nothing_of_this_name", "theirs:Metric", "nothing_of_this_name"),
        ("1 / 0", "theirs:Metric", "ZeroDivisionError"),
        ("", "theirs:Metric", "Metric"),
        ("Metric = 3", "theirs:Metric", "not a metric class"),
        ("class Metric: info = None", "theirs:Metric", "want, update"),
    ],
)
def test_a_broken_entry_point_is_named(
    installed: Path, monkeypatch: pytest.MonkeyPatch, source: str, value: str, why: str
) -> None:
    """Whatever is wrong with another package's metric, the error says which one and why."""
    (installed / "theirs.py").write_text(source)
    known = points(monkeypatch, ("broken", value))
    with pytest.raises(MetricError, match="metric 'broken' = 'theirs:Metric'") as refused:
        known["broken"]
    assert why in str(refused.value)


def test_names_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package cannot replace a metric of probe, and two packages cannot share a name."""
    with pytest.raises(MetricError, match="'entropy'"):
        list(points(monkeypatch, ("entropy", "theirs:Metric")))
    with pytest.raises(MetricError, match="share a name"):
        list(points(monkeypatch, ("one", "a:B"), ("one", "c:D")))


def test_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table itself offers the nearest name."""
    with pytest.raises(UnknownNameError, match="'waad'"):
        points(monkeypatch)["wad"]


def test_names_cost_no_torch() -> None:
    """Listing and checking names imports no torch; a subprocess holds it."""
    code = """
        import sys
        import probe.metrics
        assert "entropy" in probe.metrics.METRICS and len(list(probe.metrics.METRICS)) >= 15
        sys.exit("torch" in sys.modules or "transformers" in sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False).returncode == 0
