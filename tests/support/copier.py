"""A two-layer GPT-2 whose weights are an induction circuit: L0.H0 looks one back, L1.H0 copies, the rest do nothing."""

import torch
from silent import silent_gpt2
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from probe.models import LoadedModel, ModelSource

POSITIONS = 128
SHARP = 6.0


def words_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """One token per word, with offsets."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<eos>", *words])}
    base = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=base, eos_token="<eos>", unk_token="<unk>")


def copier(words: list[str]) -> LoadedModel:
    """The model and its tokenizer. Axes of the residual: token, position, token before, token to say next."""
    tokenizer = words_tokenizer(words)
    n = len(tokenizer)
    token, position = slice(0, n), slice(n, n + POSITIONS)
    before, said = slice(n + POSITIONS, 2 * n + POSITIONS), slice(2 * n + POSITIONS, 3 * n + POSITIONS)
    width = 3 * n + POSITIONS + (3 * n) % 2
    model = silent_gpt2(n, POSITIONS, width, (2, 2), 1)
    d_head = width // 2
    with torch.no_grad():
        body = model.transformer
        body.wte.weight[:, token] = torch.eye(n)
        body.wpe.weight[:, position] = torch.eye(POSITIONS)
        look = torch.arange(POSITIONS - 1)
        first, second = (block.attn for block in body.h)
        # c_attn columns: queries of both heads, keys of both heads, values of both heads.
        first.c_attn.weight[position.start + 1 + look, look] = SHARP  # query i asks for position i - 1
        first.c_attn.weight[position.start + look, width + look] = SHARP
        _copy(first, width, d_head, token, before)
        each = torch.arange(n)
        second.c_attn.weight[token.start + each, each] = SHARP  # which key had my token before it?
        second.c_attn.weight[before.start + each, width + each] = SHARP
        _copy(second, width, d_head, token, said)
        model.lm_head.weight[:, said] = torch.eye(n)
    return LoadedModel(model, tokenizer, "copier", ModelSource("given"))


def _copy(attention: torch.nn.Module, width: int, d_head: int, source: slice, target: slice) -> None:
    """Head 0's value is the token, written into `target`."""
    each = torch.arange(source.stop - source.start)
    attention.c_attn.weight[source.start + each, 2 * width + each] = 1.0
    attention.c_proj.weight[each, target.start + each] = 1.0
