"""GPT-2 models of which the circuit is known: heads that fetch the token of a position for the token that asks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from silent import silent_gpt2

from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt
from probe.prompts.pairs import Pair

BOS, ASK_A, ASK_B = 0, 1, 2
WORDS = range(3, 12)  # tokens that can be fetched
VOCAB, POSITIONS = 12, 8
SHARP = 6.0


@dataclass(frozen=True)
class Fetch:
    """A head that, at `asks`, attends to `source` and writes its token where the model speaks; else it rests at BOS."""

    layer: int
    head: int
    source: int
    asks: int = ASK_A


def mover(fetches: Sequence[Fetch], n_layers: int = 3) -> LoadedModel:
    """The model: axes of its stream are token, position, token to say. Heads that are not named add nothing."""
    token, position = slice(0, VOCAB), slice(VOCAB, VOCAB + POSITIONS)
    said = VOCAB + POSITIONS
    width = 2 * VOCAB + POSITIONS
    model = silent_gpt2(VOCAB, POSITIONS, width, (n_layers, 2), BOS)
    with torch.no_grad():
        body, each = model.transformer, torch.arange(VOCAB)
        body.wte.weight[:, token] = torch.eye(VOCAB)
        body.wpe.weight[:, position] = torch.eye(POSITIONS)
        model.lm_head.weight[:, said:] = 4 * torch.eye(VOCAB)
        for one in fetches:
            attention, own = body.h[one.layer].attn, one.head * (width // 2)
            query, key, value = own, width + own, 2 * width + own
            attention.c_attn.weight[one.asks, query] = SHARP
            attention.c_attn.weight[position.start + one.source, key] = SHARP
            attention.c_attn.bias[query + 1] = SHARP / 2  # whoever does not ask looks at the first token
            attention.c_attn.weight[position.start, key + 1] = SHARP
            attention.c_attn.weight[each[3:], value + each[3:]] = 1.0
            attention.c_proj.weight[own + each, said + each] = 1.0
    return LoadedModel(model, None, "mover", ModelSource("given"))


def fetch_pairs(source: int, asks: int = ASK_A, count: int = 8, seed: int = 0) -> list[Pair]:
    """Random words behind BOS, then the token that asks; clean and corrupt differ at `source`, which is the answer."""
    drawn = np.random.default_rng(seed)
    made = []
    for number in range(count):
        words = drawn.choice(list(WORDS), POSITIONS - 3).tolist()  # one position is left to go on
        right, wrong = drawn.choice(list(WORDS), 2, replace=False).tolist()
        clean, corrupt = ([BOS, *words, asks] for _ in range(2))
        clean[source], corrupt[source] = right, wrong
        prompts = [Prompt.of_tokens(ids, id=f"{asks}:{number}:{i}") for i, ids in enumerate((clean, corrupt))]
        made.append(Pair(f"{asks}:{number}", prompts[0], prompts[1], (right,), (wrong,), {"source": source}))
    return made
