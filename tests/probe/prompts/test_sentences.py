"""Sentences: laws for any text, what ends one and what does not, and their tokens."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_models import LETTERS, letters

from probe.prompts import Prompt
from probe.prompts.sentences import sentences, split_sentences

TEXTS = st.text(st.sampled_from([*'ab1 .!?:\n")']), max_size=80)
ON_LETTERS = st.text(st.sampled_from(LETTERS[2:]), min_size=1, max_size=80).filter(str.strip)


def _pieces(text: str, shortest: int = 1) -> list[str]:
    return [text[start:stop] for start, stop in split_sentences(text, shortest)]


@given(TEXTS, st.integers(1, 12))
def test_pieces_joined_are_the_text(text: str, shortest: int) -> None:
    """Nothing is lost or said twice, no piece is empty, and none is short unless it is the only one."""
    pieces = _pieces(text, shortest)
    assert "".join(pieces) == text
    assert all(pieces)
    assert len(pieces) == 1 or all(len(piece.strip()) >= shortest for piece in pieces)


@given(TEXTS, st.integers(1, 12))
def test_splitting_again_finds_nothing_new(text: str, shortest: int) -> None:
    """Merging is all that a larger limit does: its cuts are among those of a smaller one."""
    cuts = {stop for _, stop in split_sentences(text, 1)}
    assert {stop for _, stop in split_sentences(text, shortest)} <= cuts | {len(text)}


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("One. Two! Three? Four: five\nsix", ["One.", " Two!", " Three?", " Four:", " five\n", "six"]),
        ("It is 3.14 or 10:30. See a.b.org now.", ["It is 3.14 or 10:30.", " See a.b.org now."]),
        ("Do this:\n1. Add.\n2. Divide.", ["Do this:\n", "1. Add.\n", "2. Divide."]),
        ("In 1999. Then", ["In 1999.", " Then"]),
        ('"Stop!" he said... "Why?"', ['"Stop!"', " he said...", ' "Why?"']),
        ("Wait...what?!No", ["Wait...", "what?!", "No"]),
        ("no end", ["no end"]),
        ("", []),
    ],
)
def test_what_ends_a_sentence(text: str, pieces: list[str]) -> None:
    """Marks and line breaks do, points within numbers and words and behind list numbers do not."""
    assert _pieces(text) == pieces


def test_short_pieces_are_merged_into_the_next_and_the_last_into_the_one_before() -> None:
    """As the paper's splitter merges them, at ten characters."""
    assert _pieces("No. That is not it. Ok.", 10) == ["No. That is not it. Ok."]
    assert _pieces("No. That is not it. But this one is.", 10) == ["No. That is not it.", " But this one is."]
    assert _pieces("A. B. C.", 10) == ["A. B. C."]


@given(ON_LETTERS, st.data())
def test_every_token_is_in_one_sentence(text: str, data) -> None:
    """Stretches of tokens follow one another from start to stop, and their texts joined are the text of the stretch."""
    prompt = Prompt.of(text, letters())
    start = data.draw(st.integers(0, len(prompt) - 1))
    stop = data.draw(st.integers(start + 1, len(prompt)))
    found = sentences(prompt, start, stop)
    assert found[0].start == start
    assert found[-1].stop == stop
    assert all(one.stop == two.start for one, two in pairwise(found))
    assert all(len(one) > 0 for one in found)
    assert "".join(one.text for one in found) == text[start:stop]


def test_tokens_with_their_space_belong_to_the_word() -> None:
    """A token `` The`` belongs to its word's sentence; one that is a mark and a line break to the mark's."""
    text = "First it rained.\nThen it snowed. The end came."
    prompt = Prompt.of(text, letters())
    words = [
        (0, 5),
        (5, 8),
        (8, 15),
        (15, 17),
        (17, 21),
        (21, 24),
        (24, 31),
        (31, 32),
        (32, 36),
        (36, 40),
        (40, 45),
        (45, 46),
    ]
    coarse = replace(prompt.truncate(len(words)), text=text, offsets=tuple(words))
    assert [(one.start, one.stop) for one in sentences(coarse)] == [(0, 4), (4, 8), (8, 12)]
    assert [one.text for one in sentences(coarse)] == [
        "First it rained.\n",
        "Then it snowed.",
        " The end came.",
    ]


def test_tokens_without_characters_take_part() -> None:
    """A special token of no characters belongs to the sentence in progress; unknown offsets follow one another."""
    prompt = Prompt.of("one long line. another line.", letters())
    special = replace(prompt, offsets=((0, 0), *prompt.offsets[1:-1], (0, 0)))
    assert [(one.start, one.stop) for one in sentences(special)] == [(0, 14), (14, 28)]
    assert sentences(replace(prompt, offsets=None)) == sentences(prompt)
