"""Bootstrap intervals over prompts."""

import numpy as np
import pytest
import xarray as xr
from made_reports import made_answer, made_map, made_report

from probe.errors import ReportError
from probe.report.intervals import bootstrap


def _by_prompt(values: np.ndarray) -> xr.DataArray:
    return xr.concat([made_map(one) for one in values], dim="prompt")


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of 400 heads with known mean and 40 prompts each, about 95 in 100 intervals hold it."""
    values = np.random.default_rng(1).normal(3.0, 1.0, size=(40, 20, 20))
    bounds = bootstrap(made_answer(by_prompt=_by_prompt(values)), level=0.95, seed=0)
    covered = ((bounds.sel(bound="low") <= 3.0) & (bounds.sel(bound="high") >= 3.0)).mean().item()
    assert bounds.dims == ("bound", "layer", "head")
    assert 0.91 <= covered <= 0.98


def test_its_width_is_that_of_the_standard_error() -> None:
    """For many prompts the percentile interval is mean ± 1.96 standard errors."""
    values = np.random.default_rng(2).normal(size=(400, 1, 1))
    low, high = bootstrap(made_answer(by_prompt=_by_prompt(values))).values.ravel()
    error = values.std(ddof=1) / 20
    assert (low, high) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.15 * error
    )


def test_one_prompt_has_no_interval_and_says_so() -> None:
    """Undefined bounds come with the reason."""
    bounds = bootstrap(made_answer(by_prompt=_by_prompt(np.ones((1, 2, 2)))))
    assert bounds.isnull().all()
    assert "at least two prompts" in bounds.attrs["note"]


def test_the_same_seed_gives_the_same_interval() -> None:
    """And another seed another one."""
    report = made_report(made_answer(by_prompt=_by_prompt(np.random.default_rng(3).random((5, 2, 2)))))
    assert report.intervals("entropy", seed=1).identical(report.intervals("entropy", seed=1))
    assert not report.intervals("entropy", seed=1).equals(report.intervals("entropy", seed=2))


def test_undefined_values_do_not_count() -> None:
    """A head seen in some prompts has an interval from those; one seen in none has no interval."""
    values = np.array([[[1.0, np.nan]], [[np.nan, np.nan]], [[3.0, np.nan]]])
    low, high = bootstrap(made_answer(by_prompt=_by_prompt(values))).values[:, 0]
    assert (low[0], high[0]) == (1.0, 3.0)
    assert np.isnan([low[1], high[1]]).all()


def test_weights_pool_prompts_as_the_head_map_does() -> None:
    """A prompt that has all the rows decides the value alone."""
    values = _by_prompt(np.array([[[1.0]], [[5.0]]])).assign_coords(weight=("prompt", [1e-12, 1.0]))
    bounds = bootstrap(made_answer(by_prompt=values))
    assert bounds.sel(bound="high").item() == pytest.approx(5.0)
    assert bounds.attrs["weighing"] == "by weight"


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_an_impossible_level_is_refused(level: float) -> None:
    """A level is a fraction."""
    with pytest.raises(ReportError, match="between 0 and 1"):
        bootstrap(made_answer(by_prompt=_by_prompt(np.ones((2, 1, 1)))), level=level)


def test_an_answer_without_values_per_prompt_is_refused() -> None:
    """The message names the option that keeps them."""
    with pytest.raises(ReportError, match="by_prompt=True"):
        made_report().intervals("entropy")
