"""JSON lookups are what they promise, for any seed."""

import json
import re
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from probe.errors import InputError, UsageError
from probe.prompts.corpus import train_text
from probe.prompts.json_lookups import INSTRUCTION, json_lookups


def characters() -> PreTrainedTokenizerFast:
    """Words, numbers and single signs are tokens; what they are does not matter."""
    base = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=base, unk_token="<unk>")


WORDS = characters()


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 9), st.integers(1, 4), st.integers(0, 10_000))
def test_a_lookup_can_be_solved_from_its_object(pairs: int, count: int, seed: int) -> None:
    """The object is JSON and holds what is asked and solved; three other keys are solved, truly, and one is asked."""
    for number, found in enumerate(json_lookups(WORDS, count=count, pairs=pairs, seed=seed)):
        text = found.prompt.text
        assert text.startswith(INSTRUCTION)
        stop = text.index("}") + 1
        held = json.loads(text[text.index("{") : stop])
        *solved, asked, end = re.split(r"\n+", text[stop:].strip() + "\n")
        assert end == ""
        key = json.loads(asked[: asked.rindex(":")])
        assert asked == f'"{key}": "'
        assert held[key] == found.prompt.answer
        assert list(held).index(key) == number % pairs == round(found.depth * (pairs - 1))
        examples = json.loads("{" + ",".join(solved) + "}")
        assert len(examples) == 3
        assert key not in examples
        assert all(held[one] == value for one, value in examples.items())
        assert len(held) == len(set(held.values())) == pairs
        assert all(len(one) == 32 and set(one) <= {*string.ascii_letters, *string.digits} for one in held)


def test_the_span_is_the_asked_value_in_the_object() -> None:
    """The answer's tokens are those of the value in the object, not of the examples."""
    for found in json_lookups(WORDS, count=5, pairs=5, seed=2):
        inside = np.flatnonzero(found.prompt.spans["answer"])
        start, stop = found.prompt.offsets[inside[0]][0], found.prompt.offsets[inside[-1]][1]
        assert found.prompt.text[start:stop] == found.prompt.answer
        assert stop < found.prompt.text.index("}")
        assert found.prompt.answer in train_text()
        assert len(inside) <= 30


def test_the_seed_decides() -> None:
    """The same seed gives the same lookups, another seed others."""
    one, two, other = (json_lookups(WORDS, count=2, pairs=4, seed=seed) for seed in (0, 0, 1))
    assert [found.prompt.text for found in one] == [found.prompt.text for found in two]
    assert one[0].prompt.text != other[0].prompt.text


def test_wrong_sizes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer than four pairs cannot have three solved and one asked; a text of few words gives no values."""
    for wrong in ({"count": 0}, {"pairs": 3}):
        with pytest.raises(UsageError, match="at least 4"):
            json_lookups(WORDS, **wrong)
    monkeypatch.setattr("probe.prompts.json_lookups.train_text", lambda: "Too few words. Here. And here. ")
    with pytest.raises(InputError, match="fewer pairs"):
        json_lookups(WORDS, pairs=4)
