"""Heat strips: one mark per layer."""

import math

from hypothesis import given
from hypothesis import strategies as st

from probe.cli.strip import BLOCKS, PLAIN, columns, ruler, strip

VALUES = st.lists(st.floats(0, 1) | st.just(math.nan), max_size=200)


@given(values=VALUES, width=st.integers(1, 120), plain=st.booleans())
def test_a_strip_fits_its_width(values: list[float], width: int, plain: bool) -> None:
    """And it has a mark for every layer or group of layers."""
    text = strip(values, (0.0, 1.0), width, plain=plain).plain
    wide, together = columns(len(values), width)
    assert len(text) <= width
    assert len(text) == wide * math.ceil(len(values) / together)
    assert not plain or text.isascii()


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_a_higher_value_never_has_a_lower_block(values: list[float]) -> None:
    """Height alone tells the order; colour only repeats it."""
    marks = strip(values, (0.0, 1.0), len(values)).plain
    for (a, x), (b, y) in zip(
        zip(values, marks, strict=True), zip(values[1:], marks[1:], strict=True), strict=False
    ):
        assert (BLOCKS.index(x) <= BLOCKS.index(y)) if a <= b else (BLOCKS.index(x) >= BLOCKS.index(y))


def test_ends_of_the_scale_and_undefined() -> None:
    """Lowest, highest, none; and without Unicode."""
    assert strip([0.0, 1.0, math.nan], (0.0, 1.0), 3).plain == "▁█·"
    assert strip([0.0, 1.0, math.nan], (0.0, 1.0), 3, plain=True).plain == PLAIN[0] + PLAIN[-1] + " "


def test_neighbours_share_a_mark_where_layers_are_many() -> None:
    """Their mean is shown."""
    assert strip([0.0, 1.0] * 20, (0.0, 1.0), 20).plain == "▅" * 20


@given(st.integers(1, 200), st.integers(5, 120))
def test_the_ruler_labels_the_right_columns(n_layers: int, width: int) -> None:
    """The first layer's number is at the left; no label runs into another."""
    labels = ruler(range(n_layers), width).split()
    assert labels[0] == "0"
    assert [int(label) for label in labels] == sorted(int(label) for label in labels)
    assert all(int(label) < n_layers for label in labels)
