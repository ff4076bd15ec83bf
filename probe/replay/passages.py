"""Passages of ordinary text that no reference map and no choice of heads was made from: the held-out part."""

from typing import Any

import numpy as np

from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.prompts.corpus import held_out_text
from probe.prompts.data import default_text
from probe.replay.ordinary import opening

DATA = (
    "half of them of the shipped story `datasets/tide_mill.txt` (modern prose), half of the first three fifths of the "
    "haystack `datasets/kjv_selection.txt` (King James Bible), its held-out part; nothing is chosen or tuned on them"
)


def passages(loaded: LoadedModel, count: int, width: int) -> list[Prompt]:
    """`count` stretches of `width` tokens, evenly spaced: half of the story, half of the held-out haystack.

    Where the tokenizer puts a token in front of a text, each begins with it. Named by their text and number.
    """
    tokenizer: Any = loaded.tokenizer
    first = opening(loaded)
    made = []
    for name, text in (("story", default_text()), ("haystack", held_out_text())):
        tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        inside = width - len(first)
        for number, start in enumerate(np.linspace(0, len(tokens) - inside - 1, count // 2).astype(int)):
            ids = first + [int(token) for token in tokens[start : start + inside]]
            made.append(Prompt.of_tokens(ids, tokenizer, id=f"{name}:{number}"))
    return made
