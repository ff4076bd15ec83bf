"""The shipped data is what its manifest says, and the prompts made from it are what they promise."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from copier import words_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import letters

from probe.errors import InputError, UsageError
from probe.prompts import (
    HiddenNeedle,
    data_dir,
    default_text,
    haystack,
    hide,
    ioi_prompts,
    needles,
    repeated_tokens,
)
from probe.prompts.data import rows


def test_manifest_lists_every_file_with_its_sum() -> None:
    """Sums, sizes, rows and licences of all files are as stated; no file is unlisted; there is no package."""
    folder = data_dir()
    listed = {entry["path"]: entry for entry in json.loads((folder / "MANIFEST.json").read_text())["files"]}
    found = {path.name for path in folder.iterdir()} - {"MANIFEST.json", "README.md", "__pycache__"}
    assert found == set(listed)
    for name, entry in listed.items():
        raw = (folder / name).read_bytes()
        assert hashlib.sha256(raw).hexdigest() == entry["sha256"], name
        assert len(raw) == entry["bytes"]
        assert entry["licence"] in {"CC0-1.0", "Public domain"}
        assert entry["rows"] == (len(raw.splitlines()) if name.endswith(".jsonl") else None)
    readme = (folder / "README.md").read_text()
    assert all(name in readme for name in listed)


def test_needles_can_be_completed() -> None:
    """At least twelve; each answer appears once, ends its needle, and is not a word of the haystack."""
    assert len(needles()) >= 12
    assert len({needle.id for needle in needles()}) == len(needles())
    for needle in needles():
        assert needle.needle.count(needle.answer) == 1
        assert needle.needle.endswith(needle.answer + ".")
        assert needle.opening + " " + needle.answer + "." == needle.needle
        assert needle.question.endswith("?")
        assert len(needle.answer.split()) >= 5
        assert needle.answer not in haystack()


def test_shipped_texts_are_long_enough() -> None:
    """The default text has well over 1500 words, the haystack over a megabyte."""
    assert len(default_text().split()) > 1700
    assert len(haystack()) > 1_000_000


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 15), st.integers(150, 600), st.floats(0, 1), st.sampled_from(["complete", "question"]),
    st.integers(0, 500_000),
)  # fmt: skip
def test_hidden_needles_are_where_they_should_be(
    at: int, length: int, depth: float, style, start: int
) -> None:
    """The prompt fits, marks needle and answer, hides it behind a sentence before its depth, and asks at the end."""
    needle = needles()[at]
    # One token per letter, unknown ones included: sizes are characters.
    tokenizer = letters()
    length = length + len(needle.needle) * 2 + len(needle.question) + 100
    prompt = hide(HiddenNeedle(needle, length, depth, style, start), tokenizer)
    assert length - 2 <= len(prompt) <= length
    said = [i for i, inside in enumerate(prompt.spans["needle"]) if inside]
    assert prompt.text[said[0] : said[-1] + 1] == needle.needle
    inside = [i for i, flag in enumerate(prompt.spans["answer"]) if flag]
    assert prompt.text[inside[0] : inside[-1] + 1] == needle.answer
    assert prompt.text.endswith(needle.opening if style == "complete" else "Answer:")
    assert prompt.answer == needle.answer
    before = prompt.text[: said[0]].rstrip()
    # Wherever the haystack was cut, depth 1 is its very end, as in the paper.
    assert depth == 1 or not before or before[-1] in ".?!:;"
    assert said[0] <= depth * length + 80


def test_hidden_needles_that_do_not_fit() -> None:
    """A length with no room for hay, or a depth outside 0 to 1, is an error of the call."""
    with pytest.raises(InputError, match="ask for more"):
        hide(HiddenNeedle(needles()[0], 20, 0.5), letters())
    with pytest.raises(InputError, match="depth of 2"):
        hide(HiddenNeedle(needles()[0], 500, 2.0), letters())
    with pytest.raises(InputError, match="longer one"):
        hide(HiddenNeedle(needles()[0], 500, 0.5), letters(), text="Too short. Much too short.")


def test_repeated_tokens_repeat() -> None:
    """Each prompt says the same different tokens `repeats` times, never a special one; the seed decides which."""
    tokenizer = letters()
    prompts = repeated_tokens(tokenizer, length=20, repeats=3, count=5, seed=1)
    assert len({prompt.tokens for prompt in prompts}) == 5
    for prompt in prompts:
        parts = [np.asarray(prompt.tokens)[prompt.spans[f"repeat:{turn}"]].tolist() for turn in range(3)]
        assert parts[0] == parts[1] == parts[2]
        assert len(set(parts[0])) == 20
        assert not {0, 1} & set(parts[0])
    again = repeated_tokens(tokenizer, length=20, repeats=3, count=5, seed=1)
    assert [prompt.tokens for prompt in again] == [prompt.tokens for prompt in prompts]
    other = repeated_tokens(tokenizer, length=20, repeats=3, count=5, seed=2)
    assert [prompt.tokens for prompt in other] != [prompt.tokens for prompt in prompts]


def test_repeated_tokens_that_cannot_be() -> None:
    """More different tokens than the vocabulary has, nothing to repeat, and a BOS that is not there are refused."""
    with pytest.raises(UsageError, match="at most the 55 ordinary"):
        repeated_tokens(letters(), length=500)
    with pytest.raises(UsageError, match="repeats=0"):
        repeated_tokens(letters(), length=5, repeats=0)
    with pytest.raises(UsageError, match="BOS"):
        repeated_tokens(letters(), length=5, bos=True)


def test_indirect_object_prompts() -> None:
    """Subject twice, indirect object once and not last, half in each order; the answer is the indirect object."""
    words = json.loads((data_dir() / "ioi_words.json").read_text())
    prompts = ioi_prompts(words_tokenizer(words["names"]), count=24, seed=3)
    assert Counter(prompt.id.split(":")[2].split("-")[0] for prompt in prompts) == {"abba": 12, "baba": 12}
    for prompt in prompts:
        io = (prompt.answer or "").strip()
        named = {name: _at(prompt, name) for name in ("io", "s1", "s2")}
        assert named["io"][0] == io
        assert named["s1"][0] == named["s2"][0] != io
        assert named["s1"][1] < named["s2"][1]
        assert named["io"][1] < named["s2"][1]
        assert prompt.spans["end"].tolist() == prompt.spans["last"].tolist()
        assert "{" not in prompt.text


def _at(prompt, span: str) -> tuple[str, int]:
    (index,) = np.flatnonzero(prompt.spans[span])
    start, stop = prompt.offsets[index]
    return prompt.text[start:stop], int(index)


def test_indirect_object_needs_whole_names() -> None:
    """A tokenizer that splits every name cannot be used for the task."""
    with pytest.raises(InputError, match="splits every name"):
        ioi_prompts(letters())


def test_recipes_of_repeated_tokens_are_complete() -> None:
    """Every shipped recipe says length, repeats, count and seed."""
    for row in rows("repeated_tokens.jsonl"):
        assert set(row) == {"id", "length", "repeats", "count", "seed"}
        assert min(row["length"], row["repeats"], row["count"]) >= 1
