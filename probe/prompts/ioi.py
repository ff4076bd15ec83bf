"""Indirect-object prompts: "When Mary and John went to the store, John gave a drink to" (Wang et al. 2022)."""

import json
from typing import Any

import numpy as np

from probe.errors import InputError
from probe.prompts.data import data_dir, rows
from probe.prompts.prompt import Prompt
from probe.prompts.spans import Chars


def ioi_prompts(tokenizer: Any, *, count: int = 32, seed: int = 0) -> list[Prompt]:
    """Seeded indirect-object prompts, half ``ABBA`` and half ``BABA``; `answer` is the indirect object with its space.

    Spans: ``io`` (the indirect object's one mention), ``s1`` and ``s2`` (the subject's two), and ``end`` (the last
    token). Only names that are one token for this tokenizer are used.

    Raises:
        InputError: fewer than two names are one token.
    """
    words = json.loads((data_dir() / "ioi_words.json").read_text(encoding="utf-8"))
    names = [
        name
        for name in words["names"]
        if len(tokenizer(" " + name, add_special_tokens=False)["input_ids"]) == 1
    ]
    if len(names) < 2:
        raise InputError(
            "indirect-object prompts were asked; this tokenizer splits every name: give prompts of your own"
        )
    generator = np.random.default_rng(seed)
    by_order = {
        order: [row for row in rows("ioi.jsonl") if row["order"] == order] for order in ("ABBA", "BABA")
    }
    prompts = []
    for number in range(count):
        templates = by_order["ABBA" if number % 2 == 0 else "BABA"]
        template = templates[int(generator.integers(len(templates)))]
        io, subject = generator.choice(names, size=2, replace=False).tolist()
        place, thing = (str(generator.choice(words[kind])) for kind in ("places", "objects"))
        filled = template["text"].replace("{place}", place).replace("{object}", thing)
        prompts.append(_fill(filled, io, subject, tokenizer, f"ioi:{number}:{template['id']}"))
    return prompts


def _fill(template: str, io: str, subject: str, tokenizer: Any, name: str) -> Prompt:
    text, found = "", {"{A}": [], "{B}": []}  # type: tuple[str, dict[str, list[tuple[int, int]]]]
    rest = template
    while (slot := min((s for s in found if s in rest), key=rest.index, default=None)) is not None:
        before, rest = rest.split(slot, 1)
        text += before
        word = io if slot == "{A}" else subject
        found[slot].append((len(text), len(text) + len(word)))
        text += word
    text += rest
    spans = {
        "io": Chars(*found["{A}"]),
        "s1": Chars(found["{B}"][0]),
        "s2": Chars(found["{B}"][1]),
        "end": Chars((len(text) - 1, len(text))),
    }
    return Prompt.of(text, tokenizer, spans=spans, id=name, answer=" " + io)
