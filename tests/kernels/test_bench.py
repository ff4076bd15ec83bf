"""The benchmark refuses to time wrong answers, and comparisons name what is off."""

import pytest
import torch
from probe_kernels import Attended, bench, roofline
from probe_kernels.testing import assert_attended_close, assert_close


def test_the_benchmark_prints_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    """One line per length and subject, ratios to sdpa; the gate runs first."""
    bench.main(["--lengths", "64", "--repeats", "1", "--heads", "2", "--kv-heads", "1", "--width", "8"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[-3:] == ["cpu", "÷", "sdpa"]
    assert lines[2].split()[-2:] == ["1.00", "1.00"]
    assert "default statistics" in lines[4]
    assert "eager" in lines[5]


def test_a_known_peak_tells_rates_and_shares(capsys: pytest.CaptureFixture[str]) -> None:
    """2·n²·d·H operations in a millisecond, and their share of the peak that was given."""
    timing = bench.Timing(wall=1e-3, cpu=2e-3)
    bench._rows(1000, bench.Shape(4, 2, 50), {"sdpa": timing}, peak=0.8)
    assert capsys.readouterr().out.split() == ["1000", "sdpa", "1.0", "2.0", "0.4", "50.0%", "1.00", "1.00"]
    bench._rows(1000, bench.Shape(4, 2, 50), {"sdpa": timing}, peak=None)
    assert "%" not in capsys.readouterr().out


def test_attention_spelled_out_is_attention() -> None:
    """What is timed as eager gives what torch's fused attention gives."""
    scores, _ = bench.problem(37, bench.Shape(4, 2, 8))
    assert scores.value is not None
    fused = torch.nn.functional.scaled_dot_product_attention(
        scores.query, scores.key, scores.value, is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(bench.eager(scores), fused)


def test_peaks_go_by_name_and_operations_by_half_the_square() -> None:
    """The more special name wins; a device that is not known has no peak."""
    assert roofline.peak("NVIDIA H100 80GB HBM3", torch.bfloat16) == 989.0
    assert roofline.peak("NVIDIA H100 PCIe", torch.bfloat16) == 756.0
    assert roofline.peak("NVIDIA A100-SXM4-80GB", torch.float32) == 156.0
    assert roofline.peak("Some Card", torch.float16) is None
    assert roofline.operations(8, 3, 5) == 4 * (8 * 8 / 2) * 5 * 3


def test_a_device_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Asking for CUDA without it is an error of usage, before anything is timed."""
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(SystemExit, match="2"):
        bench.main(["--device", "cuda:0"])
    assert "torch finds no CUDA device" in capsys.readouterr().err


def test_the_gate_stops_wrong_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong torch path is reported, not timed."""
    monkeypatch.setattr(
        bench, "attend", lambda *_a, backend="torch", **_k: Attended(lse=torch.full((3,), len(backend)))
    )
    with pytest.raises(AssertionError, match="lse: error"):
        bench.gate(bench.Shape(2, 1, 8))


def test_comparisons_name_the_tensor_the_place_and_the_error() -> None:
    """Shape, absence and numbers each have their message; equal NaN and infinity agree."""
    a = torch.tensor([[1.0, float("nan"), float("inf")]])
    assert_close("same", a, a.clone())
    with pytest.raises(AssertionError, match=r"z: error 5.00e-01·\(1\+\|value\|\) at \(0, 0\)"):
        assert_close("z", a + 1, a)
    with pytest.raises(AssertionError, match="shape"):
        assert_close("z", a, a[0])
    with pytest.raises(AssertionError, match="nothing was found"):
        assert_close("z", None, a)
    with pytest.raises(AssertionError, match="first: keys"):
        assert_attended_close(Attended(), Attended(first={1: a}))
