"""The benchmark refuses to time wrong answers, and comparisons name what is off."""

import pytest
import torch
from probe_kernels import Attended, bench
from probe_kernels.testing import assert_attended_close, assert_close


def test_the_benchmark_prints_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    """One line per length and subject, ratios to sdpa; the gate runs first."""
    bench.main(["--lengths", "64", "--repeats", "1", "--heads", "2", "--kv-heads", "1", "--width", "8"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[-3:] == ["cpu", "÷", "sdpa"]
    assert lines[2].split()[-2:] == ["1.00", "1.00"]
    assert "default statistics" in lines[4]


def test_the_gate_stops_wrong_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong torch path is reported, not timed."""
    monkeypatch.setattr(
        bench, "attend", lambda *_a, backend="torch", **_k: Attended(lse=torch.full((3,), len(backend)))
    )
    with pytest.raises(AssertionError, match="lse: error"):
        bench.gate(2, 1, 8)


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
