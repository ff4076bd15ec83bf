"""``baseline="untrained"``: the same metrics of the same model before training, beside every answer."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_reports import made_map
from small_models import letters, llama
from torch import nn

import probe
from probe.cli import main
from probe.errors import InputError, OutputError, UsageError
from probe.experiments.base import Ask, told
from probe.interventions import mean
from probe.metrics.base import MetricInfo
from probe.models import as_loaded
from probe.models.untrained import untrained
from probe.report import Answer

TEXTS = [f"{word} and the cat sat on the mat" for word in ("one", "two", "three")]
METRICS = ["entropy", "sink:n=2", "received", "value_norm"]


def test_it_is_the_same_run_on_the_untrained_model() -> None:
    """The extra map equals an analysis of the re-initialised model; the answers themselves are those without it."""
    loaded = as_loaded((llama(), letters()))
    alone = probe.analyze(loaded, TEXTS, METRICS, seed=4)
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    found = probe.analyze(loaded, TEXTS, METRICS, seed=4, baseline="untrained")
    other = probe.analyze(untrained(loaded, 4), TEXTS, METRICS, seed=4)
    for key in METRICS:
        answer = found.answer(key)
        np.testing.assert_array_equal(found[key], alone[key])
        np.testing.assert_array_equal(answer.extra["untrained"], other[key])
        assert answer.extra["untrained"].dims == answer.head_map.dims
        assert any("untrained baseline" in note and "seed 4" in note for note in answer.notes)
    assert all(torch.equal(before[name], value) for name, value in loaded.model.state_dict().items())
    assert found.provenance.settings["baseline"] == "untrained"


def test_json_show_and_file_hold_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--json`` has a baseline object per metric; a saved report prints a strip and the comparison."""
    report = probe.analyze(
        (llama(), letters()), TEXTS[:1], ["entropy"], baseline="untrained", out=tmp_path / "run"
    )
    found = report.to_json()["metrics"]["entropy"]["baseline"]
    assert found["kind"] == "untrained"
    assert found["values"] == report.answer("entropy").extra["untrained"].values.tolist()
    assert found["trained_mean"] == pytest.approx(float(report["entropy"].mean()))
    assert -1 <= found["rank_correlation"] <= 1
    assert probe.open_report(tmp_path / "run").identical(report)
    assert main(["show", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "  base    " in shown
    assert "untrained baseline" in shown
    assert (
        "baseline"
        not in probe.analyze((llama(), letters()), TEXTS[:1], ["entropy"]).to_json()["metrics"]["entropy"]
    )


class Interrupted(KeyboardInterrupt):
    """What Ctrl-C raises, told apart from the tester's own."""


def test_a_run_stopped_in_its_untrained_half_resumes_there(tmp_path: Path) -> None:
    """Neither half repeats a prompt, and the report is that of an uninterrupted run."""
    out, loaded = tmp_path / "run", as_loaded((llama(), letters()))

    def stop(done: int, total: int, what: str) -> None:
        if what.startswith("untrained") and done == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        probe.analyze(loaded, TEXTS, METRICS, baseline="untrained", out=out, progress=stop)
    seen: list[tuple[int, str]] = []
    with pytest.raises(OutputError, match="options"):
        probe.analyze(loaded, TEXTS, METRICS, out=out)
    resumed = probe.analyze(
        loaded, TEXTS, METRICS, baseline="untrained", out=out, progress=lambda *said: seen.append(said[::2])
    )
    assert [said for said in seen if said[0] < 3] == [(2, "untrained: prompts")]
    whole = probe.analyze(loaded, TEXTS, METRICS, baseline="untrained")
    for key in METRICS:
        np.testing.assert_array_equal(
            resumed.answer(key).extra["untrained"], whole.answer(key).extra["untrained"]
        )
    assert not (out / "unfinished").exists()


class Picky:
    """An experiment that only the trained model can run."""

    info = MetricInfo("picky", "A number.", "number", "high", "Nobody", "@misc{nobody}")

    def __init__(self) -> None:
        self.spec = "picky"

    def run(self, ask: Ask) -> list[Answer]:
        if "untrained" in ask.model.name:
            raise InputError("it cannot: give it a better model")
        return [Answer(**told(self.spec, self.info), head_map=made_map([[1.0, 2.0, 3.0]]))]


def test_what_the_untrained_model_cannot_answer_says_why() -> None:
    """NaN and the reason; the trained answer stays."""
    answer = probe.analyze((llama(), letters()), TEXTS[:1], [Picky()], baseline="untrained").answer("picky")
    assert answer.head_map.values.tolist() == [[1.0, 2.0, 3.0]]
    assert np.isnan(answer.extra["untrained"]).all()
    assert any("it cannot: give it a better model" in note for note in answer.notes)


def test_interventions_are_prepared_for_each_model() -> None:
    """A mean that is put in place of a head's output is that of the model which is edited."""
    loaded = as_loaded((llama(), letters()))
    edit = mean(heads=["L0.H1"], over=TEXTS)
    found = probe.analyze(loaded, TEXTS, ["head_output_norm"], [edit], baseline="untrained")
    other = probe.analyze(untrained(loaded), TEXTS, ["head_output_norm"], [edit])
    np.testing.assert_array_equal(
        found.answer("head_output_norm").extra["untrained"], other["head_output_norm"]
    )


def test_bad_calls_run_nothing() -> None:
    """Another word, or a model that its configuration does not describe, is refused before any forward."""
    with pytest.raises(UsageError, match="baseline='random' was asked; it is one of None, untrained"):
        probe.analyze((llama(), letters()), TEXTS, baseline="random")
    model = llama()
    model.model.extra = nn.Linear(2, 2)
    ran: list[object] = []
    model.register_forward_pre_hook(lambda *given: ran.append(given))
    with pytest.raises(UsageError, match=r"model\.extra\.weight"):
        probe.analyze((model, letters()), TEXTS, baseline="untrained")
    assert not ran


def test_a_forecast_counts_both_models() -> None:
    """Twice the weights."""
    loaded = as_loaded((llama(), letters()))
    alone, both = (probe.forecast(loaded, TEXTS[:1], ["entropy"], baseline=b) for b in (None, "untrained"))
    assert both.bytes_model == 2 * alone.bytes_model


def test_the_command_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``probe analyze FOLDER --baseline untrained --json``."""
    model, folder = llama(), tmp_path / "model"
    model.save_pretrained(folder)
    letters().save_pretrained(folder)
    asked = ["analyze", str(folder), "--text", "the cat sat", "--metric", "entropy", "--baseline"]
    assert main([*asked, "untrained", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["entropy"]["baseline"]["kind"] == "untrained"
    assert main([*asked, "shuffled"]) == 2
    assert "untrained" in capsys.readouterr().err
