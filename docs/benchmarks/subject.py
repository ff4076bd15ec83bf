"""The model and the text that the rows are measured on."""

import torch
from torch import Tensor

import probe
from probe.models import LoadedModel
from probe.prompts import haystack

SMALL = "smollm2-135m"
LONG = "gemma3-270m"


def load(name: str, attention: str = "sdpa") -> LoadedModel:
    """A known model in float32 on the CPU, with the asked native attention."""
    loaded = probe.load(name, dtype="float32")
    loaded.model.eval()
    loaded.model.set_attn_implementation(attention)
    return loaded


def tokens(loaded: LoadedModel, length: int) -> Tensor:
    """The first `length` tokens of the shipped public-domain text, as one row."""
    text = str(haystack())
    ids: list[int] = loaded.tokenizer(text[: length * 16])["input_ids"]
    while len(ids) < length:
        ids = ids + ids
    return torch.tensor([ids[:length]])


def forward(loaded: LoadedModel, ids: Tensor, **options: object) -> object:
    """One forward that makes logits for one position only, as both sides of every comparison do."""
    with torch.inference_mode():
        return loaded.model(ids, logits_to_keep=1, use_cache=False, **options)
