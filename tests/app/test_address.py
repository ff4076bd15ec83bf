"""Addresses are read back as they were written, and nonsense in them is harmless."""

from hypothesis import given
from hypothesis import strategies as st
from probe_app.address import read, span, write

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(st.dictionaries(WORDS, WORDS, max_size=5))
def test_round_trip(fields: dict[str, str]) -> None:
    """What is written is read."""
    assert read(write(fields)) == fields


@given(st.text(max_size=200))
def test_anything_can_be_read(search: str) -> None:
    """No address raises."""
    assert all(isinstance(value, str) for value in read(search).values())


@given(text=st.one_of(st.none(), st.text(max_size=12), st.from_regex(r"\d{1,9}-\d{1,9}", fullmatch=True)),
       length=st.integers(1, 10_000), shortest=st.integers(1, 64))  # fmt: skip
def test_spans_lie_within(text: str | None, length: int, shortest: int) -> None:
    """A range is never empty and never out of bounds."""
    start, stop = span(text, length, shortest)
    assert 0 <= start < stop <= length
