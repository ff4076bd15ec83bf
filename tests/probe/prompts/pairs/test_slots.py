"""Two fillings of a template differ in the changed slots alone, or are refused."""

import pytest
from copier import words_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from small_models import letters

from probe.errors import InputError
from probe.prompts.pairs.slots import Draft, fill

WORDS = ("apple", "pear", "plum", "fig")


@given(st.lists(st.sampled_from(WORDS), min_size=3, max_size=3))
def test_places_are_where_the_words_are(chosen: list[str]) -> None:
    """Every slot's characters are its word, whatever stands around it."""
    words = dict(zip("abc", chosen, strict=True))
    filled = fill("{b}, {a}; and {c}", words)
    assert {slot: filled.text[start:stop] for slot, (start, stop) in filled.places.items()} == words
    assert filled.text == f"{chosen[1]}, {chosen[0]}; and {chosen[2]}"


def _draft(clean: str, corrupt: str) -> Draft:
    return Draft("one", "a {thing} is", {"thing": clean}, {"thing": corrupt})


def test_every_slot_is_marked_at_its_last_token() -> None:
    """Where a word is several tokens, the mark is where all of it has been read."""
    pair = _draft("pear", "plum").answered("a", "b", letters())
    assert pair.marks == {"thing": 5, "end": 8}
    assert (pair.clean.answer, pair.corrupt.answer) == ("a", "b")
    assert pair.clean.text == "a pear is"
    assert pair.corrupt.text == "a plum is"


def test_fillings_that_do_not_correspond_are_refused() -> None:
    """Other lengths, and tokens that move though the length stays, are named."""
    with pytest.raises(InputError, match="9 tokens, the corrupt one 8"):
        _draft("pear", "fig").answered("a", "b", letters())
    draft = Draft("two", "{a} {b}", {"a": "pear", "b": "fig"}, {"a": "fig", "b": "pear"})
    with pytest.raises(InputError, match=r"'two' changes \['a', 'b'\].* move"):
        draft.answered("a", "b", letters())


@pytest.mark.parametrize(
    ("answer", "why"),
    [("ab", "it is 2 tokens"), ("", "it merges"), ("0", "does not know")],
)
def test_answers_that_are_not_one_token(answer: str, why: str) -> None:
    """An answer of several tokens, of none, or that the tokenizer does not know is refused before a model sees it."""
    tokenizer = letters()
    tokenizer.unk_token = "<pad>"
    with pytest.raises(InputError, match=why):
        _draft("pear", "plum").answered(answer, "b", tokenizer)


def test_an_answer_is_read_behind_the_prompt() -> None:
    """The token is the one that follows the text, and right and wrong must be two."""
    tokenizer = words_tokenizer([*WORDS, "a", "is"])
    pair = _draft("pear", "plum").answered(" pear", " plum", tokenizer)
    assert tokenizer.convert_ids_to_tokens([*pair.right, *pair.wrong]) == ["pear", "plum"]
    with pytest.raises(InputError, match="1 of them both"):
        _draft("pear", "plum").answered(" pear", " pear", tokenizer)
