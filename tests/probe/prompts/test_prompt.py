"""Prompts: tokens, named spans, chat turns, and what cutting does to them."""

import numpy as np
import pytest
from copier import words_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from small_models import letters
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from probe.errors import InputError, UsageError
from probe.prompts import RESERVED, Chars, Prompt

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def merging() -> PreTrainedTokenizerFast:
    """Byte-level pairs: words drag their leading space along, and `n.` is one token across a word's edge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "m"), ("Ġm", "o"), ("n", "."), ("Ġmo", "o"), ("Ġmoo", "n."), ("o", "n")]
    words = [*alphabet, *(a + b for a, b in merges), "<s>"]
    base = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, trim_offsets=False)
    base.decoder = decoders.ByteLevel()
    base.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", words.index("<s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=base, bos_token="<s>")


def _said(prompt: Prompt, span: str) -> str:
    return "".join(s for s, inside in zip(prompt.str_tokens, prompt.spans[span], strict=True) if inside)


@given(
    st.text("abc ,.", min_size=1, max_size=30).filter(str.strip),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=3),
)
def test_character_spans_are_exact_where_tokens_are_letters(text: str, raw: list[tuple[int, int]]) -> None:
    """With one token per letter, a character span holds exactly its letters (and its spaces: they are tokens too)."""
    ranges = [tuple(sorted((min(a, len(text)), min(b, len(text))))) for a, b in raw]
    prompt = Prompt.of(text, letters(), spans={"x": Chars(*ranges)})
    inside = {i for start, stop in ranges for i in range(start, stop)}
    assert prompt.spans["x"].tolist() == [i in inside for i in range(len(text))]


@given(st.data())
def test_three_ways_to_say_a_span_agree(data: st.DataObject) -> None:
    """Token ranges, flags and characters that say the same give the same span."""
    text = data.draw(st.text("abc", min_size=1, max_size=20))
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    flags = np.zeros(len(text), dtype=bool)
    flags[start:stop] = True
    spans = {"range": (start, stop), "list": [(start, stop)], "flags": flags, "chars": Chars((start, stop))}
    prompt = Prompt.of(text, letters(), spans=spans)
    assert all((prompt.spans[name] == flags).all() for name in spans)


def test_merged_tokens_at_the_edges() -> None:
    """A token that shares a letter with the span belongs to it; a space that it drags along does not count."""
    text = "a moon. on"
    prompt = Prompt.of(
        text,
        merging(),
        spans={"moon": Chars((2, 6)), "before": Chars((0, 2)), "dot": Chars((6, 7)), "gap": Chars((7, 8))},
    )
    assert prompt.str_tokens == ("<s>", "a", " moon.", " ", "on")
    assert _said(prompt, "moon") == " moon."
    assert _said(prompt, "before") == "a"
    assert _said(prompt, "dot") == " moon."
    assert _said(prompt, "gap") == " "
    assert _said(prompt, "bos") == "<s>"


def test_bos_is_the_tokenizers_default_and_recorded() -> None:
    """A tokenizer's own BOS is there and marked; without it, or without special tokens, the span is empty."""
    assert Prompt.of("on", merging()).bos
    assert not Prompt.of("on", merging(), special=False).bos
    plain = Prompt.of("ab", letters())
    assert not plain.bos
    assert set(RESERVED) <= set(plain.spans)
    assert not plain.spans["response"].any()
    assert plain.spans["prompt"].all()


@given(st.text("abc", min_size=1, max_size=20), st.integers(1, 25))
def test_truncating_keeps_the_first_tokens(text: str, keep: int) -> None:
    """Tokens, strings, text and spans are cut alike; the last span moves; a longer limit changes nothing."""
    prompt = Prompt.of(text, letters(), spans={"all": (0, len(text))})
    cut = prompt.truncate(keep)
    n = min(keep, len(text))
    assert (cut.text, cut.tokens) == (text[:n], prompt.tokens[:n])
    assert len(cut.str_tokens) == n
    assert all(len(flags) == n for flags in cut.spans.values())
    assert cut.spans["last"].tolist() == [i == n - 1 for i in range(n)]
    assert (keep < len(text)) or cut is prompt


@pytest.mark.parametrize(
    ("spans", "complaint"),
    [
        ({"last": (0, 1)}, "'last'; the names"),
        ({"": (0, 1)}, "the names"),
        ({"x": (0, 9)}, "the prompt has 3"),
        ({"x": (2, 1)}, "start <= stop"),
        ({"x": (-1, 1)}, "0 <= start"),
        ({"x": Chars((0, 4))}, "the text has 3"),
        ({"x": Chars((2, 1))}, "start <= stop"),
        ({"x": np.ones(2, dtype=bool)}, "shape"),
        ({"x": np.ones(3)}, "bool array"),
    ],
)
def test_spans_that_do_not_fit_are_refused(spans, complaint: str) -> None:
    """A span outside the prompt, or under a reserved name, is an error of the call."""
    with pytest.raises(InputError, match=complaint):
        Prompt.of("abc", letters(), spans=spans)


def test_empty_spans_are_allowed() -> None:
    """A span of nothing is a span: no token is in it."""
    prompt = Prompt.of("abc", letters(), spans={"a": (1, 1), "b": Chars(), "c": Chars((2, 2)), "d": []})
    assert not any(prompt.spans[name].any() for name in "abcd")


@pytest.mark.parametrize("text", ["", "  \n"])
def test_empty_text_is_refused(text: str) -> None:
    """Nothing, or only white space, is not a prompt."""
    with pytest.raises(InputError, match="empty text"):
        Prompt.of(text, letters())


def test_wrong_calls_are_refused() -> None:
    """No tokenizer, no tokens, and a cut to nothing are errors of the call."""
    with pytest.raises(InputError, match="no tokenizer"):
        Prompt.of("abc", None)
    with pytest.raises(InputError, match="no tokens"):
        Prompt.of_tokens([])
    with pytest.raises(UsageError, match="keep at least 1"):
        Prompt.of("abc", letters()).truncate(0)


def test_tokens_without_a_tokenizer() -> None:
    """Ids alone make a prompt whose strings are the ids."""
    prompt = Prompt.of_tokens([5, 6, 7], spans={"x": (1, 2)})
    assert prompt.str_tokens == ("5", "6", "7")
    assert prompt.spans["x"].tolist() == [False, True, False]


def _chatty() -> PreTrainedTokenizerFast:
    tokenizer = letters()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_chat_turns_are_spans() -> None:
    """Every turn's content is a span, even where it repeats the template's own words or another turn."""
    messages = [
        {"role": "system", "content": "user"},
        {"role": "user", "content": " user "},
        {"role": "assistant", "content": "assistant user"},
    ]
    prompt = Prompt.from_messages(messages, _chatty())
    assert [_said(prompt, f"turn:{i}:{m['role']}").strip() for i, m in enumerate(messages)] == [
        "user", "user", "assistant user",
    ]  # fmt: skip
    starts = [int(prompt.spans[f"turn:{i}:{m['role']}"].argmax()) for i, m in enumerate(messages)]
    assert starts == [8, 23, 43]
    assert (prompt.spans["response"] == prompt.spans["turn:2:assistant"]).all()
    assert (prompt.spans["prompt"] == ~prompt.spans["response"]).all()


def test_a_users_last_turn_opens_the_answer() -> None:
    """After a user's turn the template's opening of the answer follows, and the response is empty."""
    prompt = Prompt.from_messages([{"role": "user", "content": "hi"}], _chatty())
    assert prompt.text.endswith("<assistant>")
    assert not prompt.spans["response"].any()
    assert _said(prompt, "turn:0:user") == "hi"


def test_an_empty_turn_is_an_empty_span() -> None:
    """Saying nothing is allowed."""
    messages = [{"role": "user", "content": ""}, {"role": "assistant", "content": "yes"}]
    prompt = Prompt.from_messages(messages, _chatty())
    assert not prompt.spans["turn:0:user"].any()
    assert _said(prompt, "response") == "yes"


@pytest.mark.parametrize(
    ("messages", "template", "complaint"),
    [
        ([], TEMPLATE, "no messages"),
        ([{"role": "user", "content": "a"}], None, "no chat template"),
        ([{"role": "user"}], TEMPLATE, "message 0"),
        ([{"role": "user", "content": "a"}], "{{ raise_exception('not you') }}", "not you"),
        (
            [{"role": "user", "content": "abc"}],
            "{{ messages[0]['content'] | upper }}",
            "changes what a message says",
        ),
    ],
)
def test_chats_that_cannot_be_rendered(messages, template, complaint: str) -> None:
    """No messages, no template, malformed messages, and templates that refuse or rewrite are errors of the call."""
    tokenizer = letters()
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=complaint):
        Prompt.from_messages(messages, tokenizer)


def test_words_keep_their_characters() -> None:
    """Offsets say which characters a token covers."""
    prompt = Prompt.of("stone river", words_tokenizer(["stone", "river"]), spans={"x": Chars((6, 11))})
    assert prompt.spans["x"].tolist() == [False, True]
    assert prompt.offsets == ((0, 5), (6, 11))
