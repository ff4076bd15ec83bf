"""``probe score``: from flags to a table, Parquet and JSON, on a small saved model."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_models

from probe.cli import main

TEXTS = ["the quick brown fox", "x", "jumps over the lazy dog. jumps over the lazy dog."]
FLAGS = ["--heads", "L0.H1,L1.H2", "--shard", "2"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model with its tokenizer, saved."""
    where = tmp_path_factory.mktemp("model")
    small_models.llama().save_pretrained(where)
    small_models.letters().save_pretrained(where)
    return str(where)


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Three documents as Parquet."""
    path = tmp_path / "docs.parquet"
    pq.write_table(pa.table({"id": ["a", "b", "c"], "text": TEXTS}), path)
    return str(path)


def test_json_is_one_object_of_the_agreed_form(
    folder: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counts, losses, influence and provenance; what is printed is what was saved."""
    out = tmp_path / "out"
    assert main(["score", folder, "--data", data, "--out", str(out), *FLAGS, "--json"]) == 0
    printed, _ = capsys.readouterr()
    assert printed.count("\n") == 1
    found: dict[str, Any] = json.loads(printed, parse_constant=pytest.fail)
    assert found["schema"] == 1
    assert found["intervention"] == "uniform_past:heads=L0.H1+L1.H2"
    assert found["heads"] == ["L0.H1", "L1.H2"]
    assert found["documents"] == {"total": 3, "scored": 2, "cut": 0, "unscored": {"fewer than 2 tokens": 1}}
    assert found["provenance"]["command"].startswith("probe score ")
    assert found["provenance"]["settings"]["data"]["documents"] == 3
    assert json.loads((out / "summary.json").read_text()) == found
    table = pq.read_table(out / "scores").to_pydict()
    assert table["id"] == ["a", "b", "c"]
    assert table["tokens"] == list(map(len, TEXTS))
    assert table["influence"][1] is None
    best = max(
        (value, name) for value, name in zip(table["influence"], table["id"], strict=True) if name != "b"
    )
    assert found["influence"]["top"][0] == [best[1], best[0]]


def test_a_reader_sees_losses_quantiles_and_documents(
    folder: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the terminal, with the path of the scores."""
    out = tmp_path / "out"
    assert main(["score", folder, "--data", data, "--out", str(out), *FLAGS, "--how", "zero"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "3 documents",
        "zero:heads=L0.H1+L1.H2",
        "base loss",
        "masked loss",
        "95 %",
        f"saved in {out}",
    ):
        assert part in shown
    assert "not scored: 1 documents, fewer than 2 tokens" in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--heads", "L9.H0"], "L9"),
        (["--heads", "first"], "L18.H6"),
        (["--how", "uniform_pst", "--heads", "L0.H0"], "did you mean 'uniform_past'"),
        (["--heads", "L0.H0", "--data", "missing.jsonl"], "there is no such file"),
        (["--heads", "L0.H0", "--max-tokens", "1"], "--max-tokens"),
        (["--workers", "-1"], "--workers"),
        ([], "--heads"),
    ],
)
def test_a_wrong_call_ends_with_code_2_and_one_sentence(
    flags: list[str],
    message: str,
    folder: str,
    data: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And writes nothing."""
    out = tmp_path / "out"
    assert main(["score", folder, "--data", data, "--out", str(out), *flags]) == 2
    printed, said = capsys.readouterr()
    assert printed == ""
    assert message in said
    assert not out.exists()


def test_help_imports_neither_torch_nor_ray() -> None:
    """Whatever is installed."""
    code = (
        "import sys\nfrom probe.cli import main\nassert main(['score', '--help']) == 0\n"
        "assert not {'torch', 'ray', 'pyarrow', 'transformers'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
