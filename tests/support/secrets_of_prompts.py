"""Prompts that hold a token which a text-free report must not show, whatever is asked of it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from probe.prompts import Prompt
from probe.prompts.pairs import Pair
from probe.report import Report

SECRET = "xqzsecretzqx"
HOSTILE = f'it\'s"{SECRET}":'  # quotes of both kinds and a colon, as labels and notes have them


def hostile_tokenizer(vocab: int = 60) -> PreTrainedTokenizerFast:
    """A tokenizer of words between spaces, all of whose tokens but the first three hold the secret."""
    words = ["<pad>", "<s>", "</s>", *(f"{HOSTILE}{number}" for number in range(3, vocab))]
    base = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<pad>"))
    base.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=base, pad_token="<pad>", eos_token="</s>")


def hostile_prompt(prompt: Prompt, name: str = "") -> Prompt:
    """The prompt with the secret in its name, its text and every token."""
    words = tuple(f"{HOSTILE}{token}" for token in prompt.tokens)
    return replace(prompt, id=f"{HOSTILE}{name or prompt.id}", text=" ".join(words), str_tokens=words)


def hostile_pairs(pairs: list[Pair]) -> list[Pair]:
    """The pairs with the secret in names, texts and tokens of both prompts."""
    return [
        replace(
            one, id=HOSTILE + one.id, clean=hostile_prompt(one.clean), corrupt=hostile_prompt(one.corrupt)
        )
        for one in pairs
    ]


def telling(report: Report, folder: Path) -> Iterator[str]:
    """The files of the saved report, however deep, that hold the secret."""
    report.save(folder)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and SECRET.encode() in path.read_bytes():
            yield path.name
