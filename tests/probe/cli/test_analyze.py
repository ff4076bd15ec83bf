"""``probe analyze``: from flags to an analysis, with the analysis itself replaced by a made report."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_reports import made_answer, made_report

from probe.cli import main, running
from probe.models import LoadedModel, ModelSource
from probe.report import Report


class _Seen(dict[str, Any]):
    """What the analysis was given."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> _Seen:
    """The command line over a model and an analysis that do nothing; runs go to a temporary home."""
    import torch

    given = _Seen()

    def load(name: str, *, device: object = None, dtype: object = None) -> LoadedModel:
        given.update(name=name, device=device, dtype=dtype)
        return LoadedModel(torch.nn.Identity(), None, name, ModelSource("given"))

    def analyze(model: LoadedModel, prompts: object, metrics: object, *, options: Any) -> Report:
        given.update(prompts=prompts, metrics=metrics, options=options)
        options.progress(1, 2, "half")
        print("a library that prints")  # noqa: T201 -- what is tested
        report = made_report(made_answer("entropy"))
        if options.out is not None:
            report.save(options.out)
        return report

    monkeypatch.setattr(running.models, "load", load)
    monkeypatch.setattr(running, "analyze", analyze)
    monkeypatch.setenv("PROBE_HOME", str(tmp_path / "home"))
    return given


def test_flags_become_options(seen: _Seen, tmp_path: Path) -> None:
    """Each flag arrives where it belongs."""
    flags = [
        "--max-tokens",
        "7",
        "--chunk",
        "3",
        "--keep",
        "none",
        "--seed",
        "5",
        "--device",
        "cpu",
        "--dtype",
        "float64",
    ]
    out = tmp_path / "run"
    assert main(["analyze", "m", "--text", "a b", "--metric", "sink:n=4", *flags, "--out", str(out)]) == 0
    options = seen["options"]
    assert (seen["name"], seen["prompts"], seen["metrics"]) == ("m", "a b", ["sink:n=4"])
    assert (seen["device"], seen["dtype"]) == ("cpu", "float64")
    assert (options.max_tokens, options.chunk, options.keep, options.seed) == (7, 3, "none", 5)
    assert (options.out, options.text) == (out, True)
    # The model is loaded already: asking for a device again would be refused.
    assert (options.device, options.dtype) == (None, None)


def test_json_is_one_object_and_nothing_is_saved(
    seen: _Seen, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever libraries print goes to standard error."""
    assert main(["analyze", "--text", "a", "--json"]) == 0
    out, err = capsys.readouterr()
    assert list(json.loads(out)["metrics"]) == ["entropy"]
    assert out.count("\n") == 1
    assert "a library that prints" in err
    assert seen["options"].out is None
    assert not (tmp_path / "home").exists()


def test_without_out_a_run_goes_to_the_home_folder(
    seen: _Seen, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named by time and model; the path is printed; a second run has its own."""
    assert main(["analyze", "some/mod el", "--text", "a"]) == 0
    assert main(["analyze", "some/mod el", "--text", "a"]) == 0
    folders = list((tmp_path / "home" / "runs").iterdir())
    assert len(folders) == 2
    assert all("-mod-el" in folder.name for folder in folders)
    assert str(seen["options"].out) in capsys.readouterr().out


def test_out_keeps_maps_unless_told_otherwise(seen: _Seen, tmp_path: Path) -> None:
    """The dashboard can zoom into a run that was saved on purpose."""
    assert main(["analyze", "--text", "a", "--out", str(tmp_path / "run")]) == 0
    assert seen["options"].keep == "map"


def test_no_text_leaves_the_command_line_out(seen: _Seen) -> None:
    """It holds the text too."""
    assert main(["analyze", "--text", "a secret", "--json"]) == 0
    assert seen["options"].command == "probe analyze --text 'a secret' --json"
    assert main(["analyze", "--text", "a secret", "--json", "--no-text"]) == 0
    assert (seen["options"].command, seen["options"].text) == (None, False)


@pytest.mark.parametrize(
    ("generates", "paired", "tokenizer", "small_run"),
    [
        (True, False, True, True),
        (False, False, True, False),
        (True, True, True, False),
        (True, False, False, False),
    ],
)
def test_a_language_model_gets_a_small_retrieval_run(
    generates: bool, paired: bool, tokenizer: bool, small_run: bool
) -> None:
    """Encoders, encoder-decoders and models without a tokenizer get the default metrics alone."""
    import torch

    class Model(torch.nn.Module):
        config = SimpleNamespace(is_encoder_decoder=paired)

        def can_generate(self) -> bool:
            return generates

    loaded = LoadedModel(Model(), object() if tokenizer else None, "m", ModelSource("given"))
    found = running.default_metrics(loaded)
    assert found[:5] == ["entropy", "sink", "received", "distance", "previous_token"]
    assert (len(found) == 6 and found[5].startswith("retrieval:")) is small_run


def test_the_small_retrieval_run_is_a_spec_that_exists() -> None:
    """Its parameters are the experiment's."""
    assert running.check_specs([running.SMALL_RETRIEVAL]) == [running.SMALL_RETRIEVAL]


BAD_CALLS = {
    "unknown command": (["anlyze"], "Did you mean"),
    "unknown option": (["analyze", "--metrics", "x"], "--metric"),
    "unknown metric": (["analyze", "--text", "a", "--metric", "entrpy"], "did you mean 'entropy'"),
    "unknown parameter": (["analyze", "--text", "a", "--metric", "sink:m=1"], "m"),
    "wrong type": (["analyze", "--text", "a", "--metric", "sink:n=x"], "whole number"),
    "malformed spec": (["analyze", "--text", "a", "--metric", "sink:n"], "k=v"),
    "all and another": (
        ["analyze", "--text", "a", "--metric", "all", "--metric", "sink"],
        "all stands alone",
    ),
    "two sources": (["analyze", "--text", "a", "--file", "b"], "--text and --file"),
    "empty text": (["analyze", "--text", " "], "no text"),
    "missing file": (["analyze", "--file", "/no/such/file"], "no such file"),
    "zero tokens": (["analyze", "--max-tokens", "0"], "--max-tokens"),
    "tokens no number": (["analyze", "--max-tokens", "many"], "--max-tokens"),
    "unknown keep": (["analyze", "--text", "a", "--keep", "everything"], "keep='everything'"),
    "keep without a place": (["analyze", "--text", "a", "--keep", "qk", "--json"], "out=DIR"),
    "two models": (["analyze", "a", "b"], "b"),
    "no folder": (["show"], "DIR"),
    "no report": (["show", "/no/such/run"], "no such file"),
    "unknown known model": (["fetch", "smolm2"], "did you mean 'smollm2-135m'"),
}


@pytest.mark.parametrize("what", BAD_CALLS)
def test_a_wrong_call_is_one_sentence_and_code_2(
    what: str, seen: _Seen, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No model is loaded and nothing is written."""
    arguments, message = BAD_CALLS[what]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("probe: ")
    assert err.count("\n") == 1
    assert "name" not in seen
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused_before_loading(
    seen: _Seen, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another run's files are safe."""
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["analyze", "--text", "a", "--out", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert "name" not in seen


def test_a_dry_run_tells_the_cost_and_writes_nothing(
    seen: _Seen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a reader, and as one object."""
    cost = running.Forecast(2048, 1, 540_000_000, 200_000_000, 12_345, 75.0, "two timed forwards")
    monkeypatch.setattr(running, "forecast", lambda *given: cost)
    assert main(["analyze", "--text", "a", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "2048 tokens in 1 prompts: about 75 s" in shown
    assert "540.0 MB" in shown
    assert main(["analyze", "--text", "a", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["forecast"]["seconds"] == 75.0
    assert not (tmp_path / "home").exists()


def test_interruption_ends_with_130(
    seen: _Seen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C is not a failure."""

    def interrupted(*given: object, **options: object) -> Report:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "analyze", interrupted)
    assert main(["analyze", "--text", "a", "--json"]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert "interrupted" in err


def test_metrics_are_listed_with_unit_and_paper(capsys: pytest.CaptureFixture[str]) -> None:
    """Every metric and experiment that can be asked."""
    from probe.metrics import metric_infos

    assert main(["metrics", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["metrics"]
    assert {row["name"] for row in rows} == {info.name for info in metric_infos()}
    assert all(row["summary"] and row["unit"] and row["paper"] for row in rows)
    assert next(row["suites"] for row in rows if row["name"] == "received") == ["anchors", "importance"]
    assert main(["metrics"]) == 0
    shown = capsys.readouterr().out
    assert "entropy" in shown
    assert "suite retrieval" in shown
