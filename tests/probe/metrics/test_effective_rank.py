"""Effective rank: planted ranks, what centring removes, linear attention beside softmax, and many prompts."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import gpt2, llama, mistral
from torch import Tensor

from probe.errors import MetricError
from probe.metrics import answers, make
from probe.metrics.effective_rank import effective_rank, participation, spectrum
from probe.metrics.linear_attention import LinearRank, linear_attention
from probe.metrics.moments import OPEN
from probe.seam.session import Session
from probe.testing import Feeding, Sample, feed, on_pattern, samples


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(rank=st.integers(1, 6), seed=st.integers(0, 99))
def test_planted_ranks_are_found(rank: int, seed: int) -> None:
    """A head that copies `rank` orthogonal values, equally often, has just that effective rank and participation."""
    n = 6 * rank
    values = torch.linalg.qr(normal(8, 8, seed=seed))[0][:rank].repeat(6, 1)[None]
    metric = make("effective_rank")
    assert on_pattern(metric, torch.eye(n)[None], values=values)[0] == pytest.approx(rank, rel=1e-6)
    (answer,) = answers(metric)
    assert answer.extra["participation"].item() == pytest.approx(rank, rel=1e-6)


def test_centring_takes_the_mean_row_away() -> None:
    """Rows that are all alike have rank 1, and none when centred; a shift changes the centred rank by nothing."""
    n, alike = 12, torch.ones(1, 12, 4) * torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert on_pattern(make("effective_rank"), torch.eye(n)[None], values=alike)[0] == pytest.approx(1.0)
    assert np.isnan(on_pattern(make("effective_rank:centred=true"), torch.eye(n)[None], values=alike)[0])
    free = normal(1, n, 4)
    plain, moved = (
        on_pattern(make("effective_rank:centred=true"), torch.eye(n)[None], values=v)
        for v in (free, free + 5.0)
    )
    np.testing.assert_allclose(plain, moved, rtol=1e-4)


def test_a_silent_head_has_no_rank() -> None:
    """Output 0 everywhere is undefined, never 0 or 1."""
    assert np.isnan(on_pattern(make("effective_rank"), torch.eye(4)[None], values=torch.zeros(1, 4, 3))[0])


@given(st.integers(1, 8), st.integers(8, 30), st.integers(0, 99))
def test_the_number_lies_between_one_and_the_width(d: int, n: int, seed: int) -> None:
    """1 <= participation of σ² <= d, 1 <= effective rank <= d, as of the singular values themselves."""
    z = normal(3, n, d, seed=seed)
    values = spectrum(z.transpose(1, 2) @ z)
    sigma = torch.linalg.svdvals(z)
    share = sigma / sigma.sum(-1, keepdim=True)
    wanted = torch.exp(-(share * share.log()).sum(-1))
    torch.testing.assert_close(effective_rank(values), wanted, rtol=1e-6, atol=1e-6)
    for found in (effective_rank(values), participation(values)):
        assert bool(((found >= 1 - 1e-9) & (found <= d + 1e-9)).all())


@pytest.mark.parametrize("n", [1, 63, 64, 65, 150])
def test_linear_attention_is_its_definition(n: int) -> None:
    """Chunks equal the whole map in float64, with grouped heads."""
    q, k, v = normal(2, 4, n, 5), normal(2, 2, n, 5, seed=1), normal(2, 2, n, 3, seed=2)
    phi_q, phi_k = torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k).repeat_interleave(2, 1) + 1
    weights = (phi_q @ phi_k.transpose(-1, -2)).tril()
    wanted = weights / weights.sum(-1, keepdim=True) @ v.repeat_interleave(2, 1)
    torch.testing.assert_close(linear_attention(q, k, v), wanted)


def test_linear_rank_is_of_the_same_q_k_and_v() -> None:
    """It equals the rank of linear attention written out, in a spec of its own."""
    (one,) = samples((20,))
    (answer,) = answers(feed(LinearRank(), [one]))
    assert answer.spec == "linear_effective_rank"
    z = linear_attention(one.query, one.key, one.value)  # layers stand where batches do
    wanted = torch.stack([effective_rank(spectrum(layer.transpose(1, 2) @ layer)) for layer in z])
    np.testing.assert_allclose(answer.head_map.values, wanted.numpy(), rtol=1e-5)


def test_linear_rank_says_where_it_does_not_apply() -> None:
    """A window that hides keys, padding and a cache are not plain causal attention; a wide window is."""
    (one,) = samples((20,))
    for how in (Feeding(window=5), Feeding(pad=2), Feeding(cuts=(10,))):
        (answer,) = answers(feed(LinearRank(), [one], how))
        assert answer.head_map.isnull().all()
        assert any("plain causal attention" in note for note in answer.notes)
    assert answers(feed(LinearRank(), [one], Feeding(window=20)))[0].head_map.notnull().all()


@pytest.mark.parametrize("build", [llama, gpt2, mistral])
def test_it_runs_on_models(build: object) -> None:
    """On whole models, ranks lie in their range, wherever the metric applies."""
    model = build()
    metric = make("effective_rank")
    with Session(model, [metric]), torch.no_grad():
        model(input_ids=torch.randint(2, 50, (1, 30)))
    values = answers(metric)[0].head_map.values
    assert ((values >= 1) & (values <= 8)).all()


def test_old_prompts_keep_their_number_alone() -> None:
    """Moments of earlier prompts are let go of, the answer is the same; one that goes on after that is refused."""
    prompts = samples((9,) * (OPEN + 3))
    metric = make("effective_rank")
    for one in prompts:
        feed(metric, [one])
    (answer,) = answers(metric)
    open_cells = [key for key, cell in metric.cells.items() if "square_z" in cell]
    assert {key.prompt for key in open_cells} == set(range(2, OPEN + 3))
    for one in (prompts[0], prompts[-1]):
        (alone,) = answers(feed(make("effective_rank"), [one]))
        np.testing.assert_allclose(answer.by_prompt[one.number].values, alone.head_map.values, rtol=1e-9)
    with pytest.raises(MetricError, match="prompt 0 went on after"):
        feed(metric, [prompts[0]])


def test_vectors_that_are_not_finite_are_refused() -> None:
    """NaN names the layer."""
    (one,) = samples((9,))
    broken = Sample(one.query, one.key, torch.full_like(one.value, torch.nan), one.tokens)
    with pytest.raises(MetricError, match="layer 0"):
        feed(make("effective_rank"), [broken])
