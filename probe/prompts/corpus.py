"""The shipped text in two parts: one to learn statistics from, and one that is kept for judging."""

from probe.prompts.data import haystack

# Retrieval experiments draw their haystacks from starts in the first half; the gap keeps even long ones out.
_TRAIN_FROM = 0.6


def train_text() -> str:
    """The last two fifths of the haystack, from a sentence's start: what references are drawn from (about 450 kB)."""
    return haystack()[_cut() :]


def held_out_text() -> str:
    """The first three fifths of the haystack, which no reference ever saw (about 670 kB)."""
    return haystack()[: _cut()]


def _cut() -> int:
    text = haystack()
    return text.index(". ", int(_TRAIN_FROM * len(text))) + 2
