"""Answers whose tokens do not end where the answer does: re-aligned, or refused by name."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from probe.experiments.aligning import alignment, alignment_notes
from probe.prompts import HiddenNeedle, Needle, hide
from probe.prompts.prompt import Prompt
from probe.prompts.spans import Chars

NEEDLE = Needle("vault", "vault needs amber violet bridge.", "?", "amber violet bridge")
HAY = "stone river. " * 20


def pieces(*extra: str, missing: str = "") -> PreTrainedTokenizerFast:
    """A tokenizer that knows the letters and full stop one by one, and joins some pieces of text into one token."""
    letters = sorted({*HAY, *NEEDLE.needle, *"q\n"} - {missing})
    vocabulary = {piece: i for i, piece in enumerate(["<unk>", *letters])}
    merges = []
    for text in extra:
        for stop in range(2, len(text) + 1):
            vocabulary.setdefault(text[:stop], len(vocabulary))
            merges.append((text[: stop - 1], text[stop - 1]))
    base = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    base.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=base, unk_token="<unk>")


def found_in(tokenizer: PreTrainedTokenizerFast) -> tuple[Prompt, str]:
    """The prompt that hides the needle, and how its answer lies."""
    prompt = hide(HiddenNeedle(NEEDLE, 200, 0.5), tokenizer, HAY)
    return prompt, alignment(prompt, prompt.spans["answer"], NEEDLE.answer, tokenizer)


def test_an_answer_of_whole_tokens_is_exact() -> None:
    """One token per letter, or a word split into a few: the span holds the answer and nothing else."""
    for tokenizer in (pieces(), pieces("amb", " violet")):
        prompt, how = found_in(tokenizer)
        at = np.flatnonzero(prompt.spans["answer"])
        said = "".join(prompt.str_tokens[i] for i in at)
        assert (said.strip(), how) == (NEEDLE.answer, "exact")


@pytest.mark.parametrize("joined", ["dge.", "s am"])
def test_a_token_across_the_edge_counts_as_the_answer_s(joined: str) -> None:
    """A token that holds the answer's end and its full stop, or its beginning and the word before, is in the span."""
    prompt, how = found_in(pieces(joined))
    assert how == "joined"
    held = [prompt.str_tokens[i] for i in np.flatnonzero(prompt.spans["answer"])]
    assert joined in held


def test_an_answer_of_unknown_tokens_is_lost() -> None:
    """Where the tokenizer does not know the answer's letters, or the span is empty, the answer is not found."""
    prompt, how = found_in(pieces(missing="b"))
    assert how == "lost"
    assert alignment(prompt, np.zeros(len(prompt), dtype=bool), NEEDLE.answer, pieces()) == "lost"


def test_a_span_elsewhere_is_lost() -> None:
    """Tokens that hold other words are not the answer, whatever the span says."""
    tokenizer = pieces()
    prompt = Prompt.of("amber violet bridge", tokenizer, spans={"answer": Chars((0, 5))})
    assert alignment(prompt, prompt.spans["answer"], "amber violet", tokenizer) == "lost"


def test_tests_are_named() -> None:
    """The notes name what was re-aligned and what was refused, and say nothing where all is well."""
    assert alignment_notes({"a": "exact"}) == []
    joined, lost = alignment_notes({"a": "exact", "b": "joined", "c": "lost", "d": "lost"})
    assert joined.startswith("1 tests were re-aligned")
    assert joined.endswith("('b')")
    assert lost == "2 tests were not counted: the answer's tokens were not found ('c', 'd')"
