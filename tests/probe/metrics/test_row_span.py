"""A metric over the rows of a span equals the mean of those rows alone, padded and cached."""

import dense_metrics as dense
import numpy as np
import pytest

from probe.errors import UnknownNameError
from probe.metrics import answers, make
from probe.metrics.row_span import on_rows
from probe.testing import Feeding, feed, samples


@pytest.mark.parametrize(
    "how", [Feeding(), Feeding(pad=2, cuts=(4, 5, 9))], ids=["whole", "padded and cached"]
)
def test_only_rows_of_the_span_count(how: Feeding) -> None:
    """The mean of largest probabilities is over the rows of the span `middle`, and the plain metric is not changed."""
    prompts = samples((12, 9), seed=4)
    plain = make("max_prob")
    found = answers(feed(on_rows(plain, "middle"), prompts, how))[0]
    assert found.spec == "max_prob at middle"
    assert not plain.cells
    for layer in range(2):
        rows = [dense.pattern(one, layer)[:, one.spans["middle"].numpy()].max(-1) for one in prompts]
        np.testing.assert_allclose(found.head_map.values[layer], np.concatenate(rows, 1).mean(1), rtol=1e-5)


def test_an_empty_span_is_undefined_and_an_unknown_one_refused() -> None:
    """No row, no number; no span, an error with the nearest name."""
    prompts = samples((8,))
    assert np.isnan(answers(feed(on_rows(make("sink"), "none"), prompts))[0].head_map.values).all()
    with pytest.raises(UnknownNameError, match="'middle'"):
        feed(on_rows(make("sink"), "midle"), prompts)
