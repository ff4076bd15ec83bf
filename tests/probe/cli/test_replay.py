"""``probe replay``: the list, wrong calls, pages from stored results, and one real claim as a smoke check."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from probe.cli import main
from probe.models import LoadedModel
from probe.replay import CLAIMS

DOCS = Path(__file__).parents[3] / "docs" / "claims"


def test_the_list_needs_no_torch() -> None:
    """Every claim with its paper, models and minutes, and no torch for it."""
    code = (
        "import sys; from probe.cli import main; code = main(['replay', '--list', '--json']);"
        "sys.exit(code or 9 * ('torch' in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)["claims"]
    assert [one["name"] for one in found] == list(CLAIMS)
    assert all(set(one) == {"name", "title", "paper", "minutes", "models"} for one in found)


def test_the_list_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Names, sentences and minutes."""
    assert main(["replay", "--list"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for name, one in CLAIMS.items():
        assert name in printed
        assert one.title in printed


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["maskin"], "did you mean 'masking'"),
        ([], "probe replay --list"),
        (["masking", "--model", "smollm-135m"], "did you mean"),
        (["masking", "--small", "--out", str(DOCS)], "name another with --out"),
    ],
)
def test_wrong_calls(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence, exit code 2."""
    monkeypatch.chdir(DOCS.parents[1])
    assert main(["replay", *arguments]) == 2
    printed, said = capsys.readouterr()
    assert told in said
    assert printed == ""


def test_pages_are_rewritten_from_stored_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--render needs no model: it writes the committed page from the committed result."""
    result = tmp_path / "results" / "sentence" / "smollm2-135m.json"
    result.parent.mkdir(parents=True)
    result.write_bytes((DOCS / "results" / "sentence" / "smollm2-135m.json").read_bytes())
    assert main(["replay", "--render", "--out", str(tmp_path), "--json"]) == 0
    assert {Path(path).name for path in json.loads(capsys.readouterr().out)["pages"]} == {
        "sentence.md",
        "README.md",
    }
    page = (tmp_path / "sentence.md").read_text()
    assert page.split("## On smollm2-135m")[1].split("## ")[0] in (DOCS / "sentence.md").read_text()


def test_a_real_claim_end_to_end(
    smollm2: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer's sentence is knocked out of two short prompts: --json tells rows, and a page is written."""
    del smollm2  # fetched, so that the command finds it
    arguments = ["replay", "sentence", "--model", "smollm2-135m", "--small", "--out", str(tmp_path), "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    (result,) = found["results"]
    assert (result["claim"], result["model"]["name"], result["small"]) == ("sentence", "smollm2-135m", True)
    shown, hidden, _ = (row["ours"]["value"] for row in result["rows"])
    assert shown > 0.9
    assert hidden < 0.5
    assert result["rows"][1]["control"]["value"] > 0.9
    assert "## On smollm2-135m" in (tmp_path / "sentence.md").read_text()
