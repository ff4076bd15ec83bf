"""Lines over tokens: gaps where undefined, one number per token."""

import pytest

from probe.errors import ReportError
from probe.plots import token_lines


def test_a_line_per_name_with_its_tokens() -> None:
    """Markup in tokens and names is text."""
    first, second = token_lines({"<i>kl</i>": [None, 0.5], "loss": [1.0, 2.0]}, ["a", "<b>"]).data
    assert list(first.y) == [None, 0.5]
    assert first.name == "&lt;i&gt;kl&lt;/i&gt;"
    assert list(second.customdata) == ["a", "&lt;b&gt;"]


def test_lengths_must_agree() -> None:
    """The line is named."""
    with pytest.raises(ReportError, match="'loss' of 1 numbers"):
        token_lines({"loss": [1.0]}, ["a", "b"])
