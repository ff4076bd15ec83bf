"""What starting costs: which modules a light command may import."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "xarray", "pandas", "sklearn", "plotly", "numpy", "scipy", "dash"}
MODELS = {"torch", "transformers", "sklearn", "plotly", "dash", "probe_kernels"}


def _imported(code: str) -> set[str]:
    end = "\nimport sys\nprint('\\n' + ' '.join(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code + end], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return {name.split(".")[0] for name in found.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["analyze", "--help"],
        ["ablate", "--help"],
        ["sweep", "--help"],
        ["circuits", "--help"],
        ["show", "--help"],
        ["--version"],
        [],
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """``probe --help`` answers before torch could be found."""
    code = f"from probe.cli import main\ncode = main({arguments!r})\nassert code in (0, 2), code"
    assert not HEAVY & _imported(code)


def test_importing_probe_imports_nothing_heavy() -> None:
    """Names are loaded on first use."""
    assert not HEAVY & _imported("import probe, probe.terms, probe.errors")


def test_reports_and_plots_need_no_model() -> None:
    """Nothing after the report imports torch; reports alone do without plotly."""
    assert not MODELS & _imported("import probe.report")
    assert not (MODELS - {"plotly"}) & _imported("import probe.plots")


def test_a_wrong_call_is_told_before_anything_heavy_is_imported() -> None:
    """An empty text needs no model to be refused."""
    assert not HEAVY & _imported("from probe.cli import main\nassert main(['analyze', '--text', '']) == 2")
