"""``probe patterns``: from flags to a report and JSON, on a small saved model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import probe_kernels.select
import pytest
import small_models
import tiny

import probe
from probe.cli import main
from probe.report.pattern_costs import NUMBERS

TEXT = "the quick brown fox jumps over the lazy dog."
SPECS = ("sink_recent:recent=4", "pooled_topk:block=4,k=2")
PATTERNS = [word for spec in SPECS for word in ("--pattern", spec)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model with its tokenizer, saved."""
    where = tmp_path_factory.mktemp("model")
    small_models.llama().save_pretrained(where)
    small_models.letters().save_pretrained(where)
    return str(where)


def _json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    out, _ = capsys.readouterr()
    assert out.count("\n") == 1
    found: dict[str, Any] = json.loads(out, parse_constant=pytest.fail)
    return found


def test_json_holds_every_number_of_every_pattern(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Axes, layers and values by pattern and number; the saved report prints the same, and Python gives the same."""
    out = tmp_path / "run"
    found = _json(["patterns", folder, "--text", TEXT, *PATTERNS, "--out", str(out)], capsys)
    assert (found["schema"], found["tokens"], list(found["patterns"])) == (1, len(TEXT), list(SPECS))
    report = probe.patterns(folder, TEXT, SPECS)
    for spec, numbers in found["patterns"].items():
        assert numbers["name"] == probe_kernels.select.make(spec).name
        for name in NUMBERS:
            one = numbers[name]
            assert (one["axes"], one["layers"]) == (["layer", "head"], [0, 1])
            assert [len(row) for row in one["values"]] == [4, 4]
            np.testing.assert_allclose(one["values"], report[f"{spec}/{name}"].values, atol=1e-7)
        assert ("control" in numbers) == spec.startswith("pooled")
    assert found["provenance"]["command"].startswith("probe patterns ")
    assert _json(["show", str(out)], capsys) == found


def test_a_reader_sees_a_row_for_each_pattern_and_the_heads_that_lose(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a pipe, with where it was saved; ``probe show`` shows the same again."""
    monkeypatch.setenv("PROBE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["patterns", folder, "--text", TEXT, *PATTERNS, "--no-text"]) == 0
    shown, _ = capsys.readouterr()
    mass = probe.patterns(folder, TEXT, SPECS[:1])[f"{SPECS[0]}/mass_kept"]
    layer, head = np.unravel_index(mass.values.argmin(), mass.shape)
    lost = f"L{layer}.H{head} loses {100 * (1 - mass.values.min()):.0f} % under {SPECS[0]}"
    assert lost in shown
    assert "retrieval" not in shown
    assert "random blocks" in shown
    (saved,) = (tmp_path / "runs").iterdir()
    assert shown.endswith(f"saved in {saved}\n")
    assert not (saved / "prompts.jsonl").exists()
    assert main(["show", str(saved)]) == 0
    assert capsys.readouterr().out.strip() in shown
    assert main(["show", str(saved), "--metric", f"{SPECS[0]}/density"]) == 0
    assert "share of pairs" in capsys.readouterr().out


def test_applied_to_prompts_with_answers(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Loss, perplexity, divergence and answers of the model with the pattern in it, as `probe.ablate` measures them."""
    rows = [{"id": f"p{n}", "text": f"the sea is {word}", "answer": "blue."} for n, word in enumerate("ab")]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    spec = "sliding:window=4"
    found = _json(["patterns", folder, "--pattern", spec, "--apply", "--prompts", str(path)], capsys)
    runs = found["patterns"][spec]["applied"]
    prompts = probe.prompts.read_prompts(path, small_models.letters())
    same = probe.ablate(folder, prompts, ["pattern:keep=window=4"], controls=0, new_tokens=0)
    for run in ("base", "edited"):
        for measure in ("loss", "kl_to_base", "top_changes", "answer_loss"):
            assert runs[run][measure] == pytest.approx(same.total(run, measure), abs=2e-5)
        assert runs[run]["perplexity"] == pytest.approx(np.exp(runs[run]["loss"]))
        assert 0 <= runs[run]["answer_recall"] <= 1
    assert runs["edited"]["kl_to_base"] > 0.01


BAD_CALLS = {
    "no pattern": ([], "give at least one of"),
    "unknown pattern": (["--pattern", "slidding:window=4"], "did you mean 'sliding'"),
    "parameter": (["--pattern", "sliding:width=4"], "width"),
    "no window": (["--pattern", "sliding:window=0"], "window"),
    "twice": (["--pattern", "full", "--pattern", "full"], "asked twice"),
    "grid": (["--pattern", "neighborhood:shape=3+5,window=3"], "cannot be applied"),
    "two sources": (["--pattern", "full", "--file", "b"], "--text and --file"),
    "full folder": (["--pattern", "full", "--out", "."], "not empty"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_CALLS)
def test_a_wrong_call_is_one_sentence_and_code_2(
    what: str, folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, with nothing on standard output, and no prompt was run."""
    from probe.analysis.forward import Runner

    monkeypatch.setattr(Runner, "run", lambda *_: pytest.fail("a prompt was run"))
    arguments, words = BAD_CALLS[what]
    assert main(["patterns", folder, "--text", TEXT, *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("make_model", [tiny.bert, tiny.t5, small_models.vit])
def test_models_that_look_both_ways_are_refused_by_name(make_model: Any) -> None:
    """Encoders, pairs of both, and images."""
    with pytest.raises(probe.ProbeError, match="patterns were asked of"):
        probe.patterns(make_model(), None, ["full"])
