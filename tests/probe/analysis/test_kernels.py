"""``kernels="triton"`` changes who computes and nothing else; in the interpreter here, the same path on a GPU."""

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from probe_kernels.fused import launch
from transformers import PreTrainedModel

import probe
from probe.errors import UsageError
from probe.interventions import make
from probe.report import Report

METRICS = ["entropy", "sink", "received"]


@pytest.fixture
def kernels_run(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that ran, in order."""
    begin, ran = launch.start, []

    def start(kernel: Any, *arguments: Any, **options: Any) -> None:
        ran.append(kernel.__name__)
        begin(kernel, *arguments, **options)

    monkeypatch.setattr(launch, "start", start)
    return ran


def watched(
    model: PreTrainedModel, kernels: str, padding: int, n_new: int
) -> tuple[list[torch.Tensor], Report]:
    """A forward of a padded batch, a continuation of its cache, and generated tokens."""
    ids = torch.randint(3, 60, (2 if padding else 1, 9), generator=torch.Generator().manual_seed(0))
    real = torch.ones_like(ids)
    real[0, :padding] = 0
    seen = []
    with probe.observe(model, metrics=METRICS, kernels=kernels, mode="fused") as run, torch.no_grad():
        first = model(ids, attention_mask=real, use_cache=True)
        more = torch.cat((real, torch.ones_like(ids[:, :2])), 1)
        next_ = model(ids[:, :2], attention_mask=more, past_key_values=first.past_key_values)
        seen += [first.logits, next_.logits]
        if n_new:
            seen.append(model.generate(ids, max_new_tokens=n_new, min_new_tokens=n_new, do_sample=False))
    return seen, run.report()


@pytest.mark.parametrize(("kind", "padding", "n_new"), [(tiny.llama, 0, 3), (tiny.gpt_oss, 3, 0)])
def test_statistics_and_logits_are_those_of_torch(
    kind: Any, padding: int, n_new: int, kernels_run: list[str]
) -> None:
    """Prefill, a continued cache, three generated tokens; padding, sliding windows and learned sinks."""
    model = kind()
    logits, report = watched(model, "torch", padding, n_new)
    assert not kernels_run
    found, own = watched(model, "triton", padding, n_new)
    assert {"attend_rows", "attend_columns"} <= set(kernels_run)
    assert report.provenance.kernels == "torch"
    assert own.provenance.kernels == "triton"
    for a, b in zip(found, logits, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    for spec in METRICS:
        np.testing.assert_allclose(own[spec].values, report[spec].values, atol=5e-5, rtol=5e-5, err_msg=spec)


def test_an_encoder_and_a_decoder_with_position_bias(kernels_run: list[str]) -> None:
    """Bidirectional and crossing attention, scores with a table of relative positions."""
    model = tiny.t5()
    ids = torch.randint(3, 60, (1, 9), generator=torch.Generator().manual_seed(0))
    reports = []
    for kernels in ("torch", "triton"):
        with probe.observe(model, metrics=["entropy", "max_prob"], kernels=kernels) as run, torch.no_grad():
            model(input_ids=ids, decoder_input_ids=ids[:, :4])
        reports.append(run.report())
    assert kernels_run
    for spec in ("entropy", "max_prob"):
        for tower in ("decoder", "encoder", "cross"):
            a, b = (report.answer(spec, tower).head_map.values for report in reports)
            np.testing.assert_allclose(b, a, atol=5e-5, rtol=5e-5, err_msg=f"{spec} {tower}")


@pytest.mark.parametrize(
    "spec",
    [
        "zero:heads=L0.H1",
        "temperature:heads=L0.H2,beta=2",
    ],
)
def test_interventions_act_as_on_torch(spec: str, kernels_run: list[str]) -> None:
    """Edits of z, of scores and of whole rows, in prefill and in decoding."""
    model = tiny.llama()
    ids = torch.randint(3, 60, (1, 9), generator=torch.Generator().manual_seed(0))
    answers = []
    for kernels in ("torch", "triton"):
        with probe.edit(model, [make(spec)], kernels=kernels), torch.no_grad():
            first = model(ids, use_cache=True)
            next_ = model(ids[:, :1], past_key_values=first.past_key_values)
        answers.append((first.logits, next_.logits))
    assert kernels_run
    for a, b in zip(*answers, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_model_that_the_kernels_do_not_take_is_refused_before_it_runs() -> None:
    """A float64 model, an unknown name: an error of the library that says what to use."""
    model = tiny.llama().double()
    for call in (probe.observe, probe.analyze):
        with pytest.raises(UsageError, match=r"float64.*backend='torch'"):
            call(model, metrics=["entropy"], kernels="triton")
    with (
        pytest.raises(UsageError, match="float64"),
        probe.edit(model, [make("zero:heads=L0.H1")], kernels="triton"),
    ):
        pass
    with pytest.raises(UsageError, match="fast is not a backend"):
        probe.observe(model, metrics=["entropy"], kernels="fast")


def test_an_analysis_says_who_computed(kernels_run: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """PROBE_KERNELS reaches analyze; the report names the backend."""
    monkeypatch.setenv("PROBE_KERNELS", "triton")
    ids = torch.randint(3, 60, (1, 9), generator=torch.Generator().manual_seed(0))
    report = probe.analyze(tiny.llama(), [{"input_ids": ids}], metrics=["entropy"])
    assert kernels_run
    assert report.provenance.kernels == "triton"
