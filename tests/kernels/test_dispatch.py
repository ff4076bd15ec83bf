"""Who computes is chosen openly, and what cannot be done is refused with a reason."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from attention_problems import make_problem
from probe_kernels import (
    BackendError,
    Layout,
    Mask,
    Scores,
    Want,
    attend,
    available,
    backend_for,
    chosen_backend,
    fused,
)


def test_triton_is_refused_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for it is an error that says why and what to do, never a fallback."""
    problem = make_problem()
    monkeypatch.setattr(fused, "interpreted", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(
        BackendError, match=r"backend=triton was asked for, but the tensors are on cpu.*or use torch"
    ):
        attend(problem.scores, problem.layout, Want(), backend="triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(BackendError, match="after Triton had been imported"):
        attend(problem.scores, problem.layout, Want(), backend="triton")
    monkeypatch.setattr(available, "_installed", lambda: False)
    with pytest.raises(BackendError, match="triton is not installed: pip install"):
        attend(problem.scores, problem.layout, Want(), backend="triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="triton is not installed"):
        chosen_backend("triton", "cuda")


def test_the_device_chooses_where_nobody_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton on a CUDA device that it compiles for, torch elsewhere; a name without a device is only looked up."""
    monkeypatch.delenv("PROBE_KERNELS", raising=False)
    monkeypatch.setattr(available, "_lacking_on_cuda", lambda device: None)
    assert chosen_backend(None, "cuda") == "triton"
    assert chosen_backend(None, torch.device("cuda", 1)) == "triton"
    assert chosen_backend(None, "cpu") == chosen_backend(None, "mps") == chosen_backend(None) == "torch"
    assert chosen_backend("triton") == "triton"
    monkeypatch.setattr(available, "_lacking_on_cuda", lambda device: "it is old")
    assert chosen_backend(None, "cuda") == "torch"
    with pytest.raises(BackendError, match="but it is old"):
        chosen_backend("triton", "cuda")


def test_an_old_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute capability 7.5 is named, and so is a missing compiler."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    lacking = available._lacking_on_cuda.__wrapped__
    assert "7.5" in lacking(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setenv("CC", "gcc")
    assert lacking(torch.device("cuda")) is None
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")
    assert "C compiler" in lacking(torch.device("cuda"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dtype": torch.float64}, "float64"),
        ({"width": 257}, "257"),
        ({"value_width": 300}, "300"),
        ({"table": 8}, "multiples of 16"),
        ({"batch": 40_000, "n_query": 1, "n_key": 1, "width": 1, "value_width": 1}, "at most 16383"),
    ],
)
def test_triton_refuses_by_name_what_it_does_not_take(
    changes: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for by name it is an error; where it was chosen by itself, torch takes the call."""
    table = changes.get("table", 0)
    problem = make_problem(**{name: one for name, one in changes.items() if name != "table"})
    want = Want(table=table)
    with pytest.raises(BackendError, match=f"{why}.*use backend='torch'"):
        attend(problem.scores, problem.layout, want, backend="triton")
    monkeypatch.delenv("PROBE_KERNELS", raising=False)
    monkeypatch.setattr("probe_kernels.dispatch.chosen_backend", lambda backend, device=None: "triton")
    assert backend_for(problem.scores, want) == "torch"
    assert backend_for(make_problem().scores, Want()) == "triton"


def test_triton_is_imported_by_nobody_who_does_not_choose_it() -> None:
    """A fresh Python: the package and a torch call without it; on the CPU without its interpreter, a sentence."""
    script = """
import sys, torch, probe_kernels as pk
one, at = torch.zeros(1, 1, 1, 16), torch.zeros(1, 1, dtype=torch.int64)
call = pk.Scores(one, one, one, 1.0), pk.Layout(pk.Mask(), at, at), pk.Want()
pk.attend(*call)
assert "triton" not in sys.modules, "triton was imported"
try:
    pk.attend(*call, backend="triton")
except pk.BackendError as error:
    print(error)
"""
    environment = {
        name: one for name, one in os.environ.items() if name not in ("TRITON_INTERPRET", "PROBE_KERNELS")
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "set TRITON_INTERPRET=1 before Python starts" in done.stdout


def test_the_environment_chooses_and_the_argument_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    """PROBE_KERNELS is read per call; backend= wins over it; nonsense in it is named."""
    problem = make_problem()
    monkeypatch.setenv("PROBE_KERNELS", "reference")
    exact = attend(problem.scores, problem.layout, Want()).z
    assert exact is not None
    expected = attend(problem.scores, problem.layout, Want(), backend="reference").z
    assert expected is not None
    assert torch.equal(exact, expected)
    monkeypatch.setenv("PROBE_KERNELS", "triton")
    monkeypatch.setattr(fused, "interpreted", lambda: False)
    with pytest.raises(BackendError, match="PROBE_KERNELS=triton"):
        attend(problem.scores, problem.layout, Want())
    assert attend(problem.scores, problem.layout, Want(), backend="torch").z is not None
    monkeypatch.setenv("PROBE_KERNELS", "fast")
    with pytest.raises(BackendError, match="reference, torch, triton"):
        attend(problem.scores, problem.layout, Want())


def test_what_does_not_fit_is_refused() -> None:
    """No value, no keys, wrong positions, unknown parts: a sentence each."""
    problem = make_problem()
    q, k, v = problem.scores.query, problem.scores.key, problem.scores.value
    with pytest.raises(ValueError, match="no value"):
        attend(Scores(q, k, None, 1.0), problem.layout, Want())
    with pytest.raises(ValueError, match="no such key_groups"):
        attend(problem.scores, problem.layout, Want(parts=frozenset({"x"})))
    with pytest.raises(ValueError, match="positions"):
        attend(problem.scores, Layout(Mask(), torch.arange(3)[None], torch.arange(20)[None]), Want())
    empty = Layout(Mask(), torch.arange(20)[None], torch.arange(0)[None])
    with pytest.raises(ValueError, match="at least one"):
        attend(Scores(q, k[:, :, :0], None, 1.0), empty, Want(z=False))
    assert v is not None
    with pytest.raises(ValueError, match="share"):
        Scores(q[:, :3], k, v, 1.0)


def test_wants_join_and_clashes_are_named() -> None:
    """The union holds both sides; one name for two labellings is refused."""
    labels = torch.zeros(1, 4)
    union = Want(entropy=True, first=(1,)) | Want(z=False, first=(1, 2), key_groups={"a": labels})
    assert union.entropy
    assert union.z
    assert union.first == (1, 2)
    with pytest.raises(ValueError, match="'a'"):
        union | Want(key_groups={"a": torch.ones(1, 4)})
    with pytest.raises(ValueError, match="table"):
        Want(table=4) | Want(table=8)
