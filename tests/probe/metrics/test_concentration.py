"""Concentration and local focus of patterns whose values can be written down."""

import numpy as np
import pytest
import torch

from probe.metrics import answers, make
from probe.testing import feed, known_pattern, on_pattern, samples


def test_norm_of_known_patterns() -> None:
    """n one-hot rows have the norm sqrt(n), n uniform causal rows sqrt(1 + 1/2 + … + 1/n)."""
    n = 16
    harmonic = sum(1 / i for i in range(1, n + 1))
    assert on_pattern(make("concentration"), known_pattern("previous")) == pytest.approx([n**0.5])
    assert on_pattern(make("concentration"), known_pattern("uniform")) == pytest.approx([harmonic**0.5])
    assert on_pattern(make("concentration:of=rows"), known_pattern("uniform")) == pytest.approx(
        [harmonic / n]
    )


def test_the_other_reading_stands_beside_it() -> None:
    """Either form carries the other's numbers in `extra`."""
    prompts = samples((9, 12))
    maps, rows = (answers(feed(make(f"concentration:of={of}"), prompts))[0] for of in ("map", "rows"))
    np.testing.assert_allclose(maps.extra["row_square"], rows.head_map)
    np.testing.assert_allclose(rows.extra["map_norm"], maps.head_map)


@pytest.mark.parametrize(("offset", "value"), [(0, 1 / 16), (1, 1.0), (2, 0.0)])
def test_local_focus_of_a_previous_token_head(offset: int, value: float) -> None:
    """All rows but the first lie on sub-diagonal 1; the first, which sees itself alone, lies on the diagonal."""
    metric = make(f"local_focus:offset={offset}")
    assert on_pattern(metric, known_pattern("previous")) == pytest.approx([value], abs=1e-6)
    others = {name: float(one.values.squeeze()) for name, one in answers(metric)[0].extra.items()}
    assert others == pytest.approx(
        {"offset_0": 1 / 16, "offset_1": 1, "offset_2": 0, "offset_3": 0}, abs=1e-6
    )


def test_offset_one_is_the_previous_token() -> None:
    """The same number under both names."""
    both = torch.rand(2, 9, 9)
    np.testing.assert_allclose(
        on_pattern(make("local_focus:offset=1"), both), on_pattern(make("previous_token"), both)
    )
