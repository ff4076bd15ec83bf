"""`probe.forecast`: the cost of an analysis before it is run."""

import pytest
from small_models import letters, llama

import probe
from probe.analysis import forecast
from probe.errors import UnknownNameError


def test_forecast_counts_tokens_and_bytes():
    """Tokens, weights and kept files are counted exactly; time is positive."""
    model = llama()
    found = forecast((model, letters()), ["a" * 40, "b" * 20], ["entropy"])
    assert found.tokens == 60
    assert found.prompts == 2
    assert found.bytes_model >= sum(p.numel() * 4 for p in {id(p): p for p in model.parameters()}.values())
    assert found.seconds > 0
    assert found.bytes_peak > 0


def test_kept_files_are_forecast(tmp_path):
    """The forecast of kept queries and keys is what the run then writes, within file headers."""
    model, text = (llama(), letters()), "the cat sat on the mat " * 5
    found = forecast(model, text, ["entropy"], out=tmp_path / "run", keep="qk")
    assert not (tmp_path / "run").exists()
    probe.analyze(model, text, ["entropy"], out=tmp_path / "run", keep="qk")
    written = sum(path.stat().st_size for path in (tmp_path / "run" / "kept").rglob("*.safetensors"))
    report = found.bytes_output - written
    assert -4096 < report < 40_000


def test_forecast_does_not_run_the_prompts():
    """No forward of the forecast is longer than the two calibrations."""
    model, lengths = llama(max_position_embeddings=4096), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    found = forecast((model, letters()), "a" * 3000, ["entropy"])
    assert max(lengths) == 1024
    assert found.tokens == 3000


def test_forecast_refuses_what_analyze_refuses():
    """A wrong call is refused in the same words."""
    with pytest.raises(UnknownNameError, match="entropy"):
        forecast((llama(), letters()), "abc", ["entropie"])
