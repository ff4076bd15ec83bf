"""Entropy against query norm: scipy's own correlations, planted signs, place held fixed, and bad input."""

import dense_metrics as dense
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, rankdata, spearmanr

from probe.errors import UsageError
from probe.metrics import answers, make
from probe.metrics.entropy_query_norm import correlation, partial_correlation
from probe.testing import Feeding, Sample, feed, samples


def pairs(one: Sample, layer: int, head: int, skip: int, window: int | None) -> np.ndarray:
    """Norm, normalised entropy and place of every row that counts, from the dense pattern."""
    d = dense.Dense(dense.pattern(one, layer, window)[head], one, window, head, sinks=False, layer=layer)
    found = [(i, dense._normalized(d, i)) for i in range(max(skip, 1), d.n)]
    return np.array([(np.linalg.norm(d.q[i]), h, i) for i, h in found if h is not None]).T


@pytest.mark.parametrize("skip", [0, 4])
@pytest.mark.parametrize("window", [None, 5])
def test_it_is_spearmans_over_all_rows(skip: int, window: int | None) -> None:
    """Pooled over prompts as scipy ranks them; Pearson's per prompt, weighed by rows."""
    prompts = samples((14, 9, 20), seed=3)
    how = Feeding(pad=1, window=window, cuts=(6, 7, 8))
    (answer,) = answers(feed(make(f"entropy_query_norm:skip={skip}"), prompts, how))
    for layer in range(2):
        for head in range(4):
            each = [pairs(one, layer, head, skip, window) for one in prompts]
            norm, entropy, _ = np.concatenate(each, axis=1)
            at = {"layer": layer, "head": head}
            assert answer.head_map.sel(at).item() == pytest.approx(spearmanr(norm, entropy).statistic)
            linear = np.average(
                [pearsonr(*one[:2]).statistic for one in each], weights=[one.shape[1] for one in each]
            )
            assert answer.extra["pearson"].sel(at).item() == pytest.approx(linear, abs=1e-5)
            one = answer.by_prompt.sel(prompt=2, **at).item()
            assert one == pytest.approx(spearmanr(*each[2][:2]).statistic)


@pytest.mark.parametrize("sinks", [False, True])
def test_the_first_key_can_be_left_out(sinks: bool) -> None:
    """Entropy of the other keys' mass, scaled to sum 1 (with a learned sink's), over their largest possible."""
    (one,) = samples((15,), seed=4)
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0]) if sinks else None
    how = Feeding(sinks=logits, cuts=(6, 9))
    (answer,) = answers(feed(make("entropy_query_norm:without_first=true"), [one], how))
    for head in range(4):
        d = dense.Dense(dense.pattern(one, 1, None, logits)[head], one, None, head, sinks=sinks, layer=1)
        norm, entropy = [], []
        for i in range(1 if sinks else 2, d.n):
            rest = np.array([*d.p[i, 1 : i + 1], *([d.sink_mass(i)] if sinks else [])])
            if rest.sum() < 0.01:
                continue
            rest = rest / rest.sum()
            norm.append(np.linalg.norm(d.q[i]))
            entropy.append(-(rest * np.log(rest)).sum() / np.log(len(rest)))
        found = answer.head_map.sel(layer=1, head=head).item()
        assert found == pytest.approx(spearmanr(norm, entropy).statistic, abs=1e-6)


def test_a_head_that_looks_at_the_first_key_alone_has_nothing_left() -> None:
    """Without that key its rows are undefined, and those of another head count as before."""
    n = 12
    query = torch.zeros(1, 2, n, n).double()
    query[0, 0, :, 0] = 60.0
    query[0, 1] = 2 * torch.randn(n, n, generator=torch.Generator().manual_seed(0)).double()
    one = Sample(query, torch.eye(n)[None, None].double(), torch.ones(1, 1, n, 1).double(), torch.arange(n))
    (answer,) = answers(feed(make("entropy_query_norm:without_first=true"), [one]))
    assert answer.head_map.isnull().values.tolist() == [[True, False]]


def temperature(by: torch.Tensor) -> Sample:
    """One head whose row i has the same direction as all others, times `by[i]`."""
    n = len(by)
    key = torch.zeros(1, 1, n, 1).double()
    key[0, 0, 0] = 1.0
    return Sample(by.double()[None, None, :, None], key, key, torch.arange(n))


def test_longer_queries_look_more_sharply() -> None:
    """Where the norm is a row's inverse temperature and nothing else differs, the correlation is near -1."""
    by = torch.randperm(300, generator=torch.Generator().manual_seed(0)) / 20 + 1.0
    (answer,) = answers(feed(make("entropy_query_norm"), [temperature(by)]))
    assert answer.head_map.item() < -0.9
    assert answer.extra["partial"].item() < -0.9


def test_place_alone_does_not_count_as_partial() -> None:
    """Norm and entropy that both follow the place alone correlate, and nothing is left with the place held fixed."""
    generator = np.random.default_rng(0)
    place = np.arange(4000.0)
    one, other = place + 1000 * generator.standard_normal((2, 4000))
    ranks = [rankdata(part) for part in (one, other, place)]
    assert correlation(*ranks[:2]) > 0.4
    assert abs(partial_correlation(*ranks)) < 0.05


@given(st.integers(0, 10**6))
def test_a_correlation_lies_in_its_range_and_turns_sign(seed: int) -> None:
    """-1 to 1, symmetric, and of the other sign when one is turned around."""
    a, b, c = np.random.default_rng(seed).standard_normal((3, 12))
    for found in (correlation(a, b), partial_correlation(a, b, c)):
        assert abs(found) <= 1 + 1e-12
    assert correlation(a, b) == pytest.approx(correlation(b, a))
    assert partial_correlation(a, -b, c) == pytest.approx(-partial_correlation(a, b, c))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_too_few_rows_have_no_correlation(length: int) -> None:
    """Rows that see one key do not count, and two rows always lie on a line."""
    assert answers(feed(make("entropy_query_norm"), samples((length,))))[0].head_map.isnull().all()


def test_queries_of_one_length_have_no_correlation() -> None:
    """Norms that differ by rounding alone are alike: undefined, not a correlation with noise."""
    angle = torch.linspace(0, 3, 50).double()
    query = torch.stack([angle.cos(), angle.sin()], -1)[None, None]
    one = Sample(query, torch.eye(50)[None, None, :, :2].double(), query, torch.arange(50))
    assert answers(feed(make("entropy_query_norm"), [one]))[0].head_map.isnull().all()


def test_a_negative_skip_is_refused() -> None:
    """The message says what is allowed."""
    with pytest.raises(UsageError, match="0 or more"):
        make("entropy_query_norm:skip=-2")
