"""The house rules that a tool can hold: sizes, names, imports, and what an installation makes importable."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "probe": ROOT / "probe",
    "probe_kernels": ROOT / "kernels/probe_kernels",
    "probe_app": ROOT / "app/probe_app",
}
SOURCES = [path for folder in PACKAGES.values() for path in sorted(folder.rglob("*.py"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Distribution name -> import name, where they differ.
IMPORT_NAMES = {"scikit-learn": "sklearn"}
# gguf, accelerate: imported by transformers when it reads GGUF files. The others: for rooms still to come.
NOT_IMPORTED = {"gguf", "accelerate", "scikit-learn", "einops", "triton"}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_file_fits_on_a_few_screens(path: Path) -> None:
    """No source file is longer than 400 lines."""
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_functions_are_short(path: Path) -> None:
    """No function is longer than 50 lines, its docstring not counted (Triton kernels excepted)."""
    long = []
    for node in _functions(path):
        if any("triton" in ast.unparse(decorator) for decorator in node.decorator_list):
            continue
        body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
        length = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
        if length > 50:
            long.append(f"{node.name}: {length} lines")
    assert not long


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_no_drawer_for_everything_and_no_unchecked_annotations(path: Path) -> None:
    """No utils or helpers; no postponed annotations, which would hide shapes from the run-time check."""
    assert path.stem not in {"utils", "helpers", "common", "misc"}
    assert "from __future__ import annotations" not in path.read_text()


def test_no_model_is_special() -> None:
    """No file is named after a model family, and no code branches on one."""
    families = re.compile(
        r"gpt|llama|gemma|qwen|mistral|bert|falcon|bloom|whisper|smollm|phi\d|mamba|deepseek", re.IGNORECASE
    )
    named = [_name(path) for path in SOURCES if families.search(path.stem)]
    compared = [
        f"{_name(path)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        for side in ast.walk(node)
        if isinstance(side, ast.Constant) and isinstance(side.value, str) and families.search(side.value)
    ]
    assert not named
    assert not compared


@pytest.mark.parametrize("folder", ["datasets", "kernels", "app", "tests"])
def test_container_folders_are_no_packages(folder: str) -> None:
    """A package named datasets or kernels would break the Hugging Face libraries of that name."""
    assert not (ROOT / folder / "__init__.py").exists()
    if folder in {"datasets", "tests"}:
        assert not list((ROOT / folder).rglob("__init__.py"))


def test_installation_makes_only_our_three_packages_importable(tmp_path: Path) -> None:
    """From a neutral folder, none of datasets, kernels, app and tests resolves to this repository."""
    code = (
        "import importlib.util as u\n"
        "for name in ('datasets', 'kernels', 'app', 'tests'):\n"
        "    spec = u.find_spec(name)\n"
        "    places = [] if spec is None else [*(spec.submodule_search_locations or []), spec.origin or '']\n"
        "    print('\\n'.join(places))\n"
        "import probe, probe_kernels, probe_app\n"
    )
    # -E: a PYTHONPATH set for development is not what an installation gives.
    found = subprocess.run(
        [sys.executable, "-E", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    ours = [
        place
        for place in found.stdout.split()
        if Path(place).is_relative_to(ROOT) and "site-packages" not in place
    ]
    assert not ours


def _imported() -> set[str]:
    """Top-level names that the three packages import, wherever the import stands."""
    names: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names.add(node.module.split(".")[0])
    return names


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[><=;\[ ]", line, maxsplit=1)[0].lower().replace("_", "-") for line in requirements}


BASE = _names(PROJECT["project"]["dependencies"])
EXTRAS = _names([line for lines in PROJECT["project"]["optional-dependencies"].values() for line in lines])


def test_every_dependency_is_declared_and_used() -> None:
    """What the packages import is declared, and what the base installation brings is imported."""
    modules = {name: IMPORT_NAMES.get(name, name.replace("-", "_")) for name in BASE | EXTRAS}
    third_party = {name for name in _imported() if name not in sys.stdlib_module_names} - set(PACKAGES)
    assert third_party <= set(modules.values())
    assert {name for name in BASE if modules[name] not in third_party} <= NOT_IMPORTED


def test_constraints_pin_every_direct_dependency() -> None:
    """constraints.txt pins each named dependency but triton, which torch's CUDA build pins by itself."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = _names([line for line in lines if line and not line.startswith("#")])
    assert (BASE | EXTRAS) - {"attention-probe", "triton"} <= pinned
    assert "triton" not in pinned


def test_version_is_stated_once() -> None:
    """The installed distribution, the package and the changelog agree on the version."""
    import probe

    assert importlib.metadata.version("attention-probe") == probe.__version__ == PROJECT["project"]["version"]
    assert f"## [{probe.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
