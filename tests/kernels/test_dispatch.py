"""Who computes is chosen openly, and what cannot be done is refused with a reason."""

import pytest
import torch
from attention_problems import make_problem
from probe_kernels import BackendError, Layout, Mask, Scores, Want, attend


def test_triton_is_refused_until_it_is_built() -> None:
    """Asking for it is an error that says why, never a fallback."""
    problem = make_problem()
    with pytest.raises(BackendError, match="no Triton kernels yet"):
        attend(problem.scores, problem.layout, Want(), backend="triton")


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
