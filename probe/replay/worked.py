"""Worked problems, text that reasons step by step: every line uses what an earlier one found. Filled from a seed."""

from typing import Any

import numpy as np

from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.prompts.data import default_text, rows
from probe.replay.ordinary import opening

_NAMES = ("Anna", "Boris", "Clara", "David", "Elena", "Frank", "Greta", "Hugo", "Irene", "Jonas")
_THINGS = ("apples", "stamps", "coins", "books", "marbles", "tickets", "shells", "candles")
_MOVES = (
    ("buys {n} more {thing}", "+"),
    ("finds {n} {thing} in a box", "+"),
    ("gives {n} {thing} to {other}", "-"),
    ("loses {n} {thing} on the way", "-"),
    ("multiplies the collection of {thing} by {n}", "*"),
)


def worked_problem(seed: int, steps: int = 9) -> str:
    """A story of counted things, each step with the count before it and after it, and the answer at the end."""
    draw = np.random.default_rng(seed)
    name, other = draw.choice(_NAMES, 2, replace=False)
    thing, count = str(draw.choice(_THINGS)), int(draw.integers(11, 40))
    lines = [
        f"Problem. {name} starts with {count} {thing}. How many {thing} does {name} have at the end? Step by step:"
    ]
    for step in range(1, steps + 1):
        # Nobody gives away what is not there, and counts stay small.
        refused = {"-": count <= 5, "*": count >= 100}
        able = [one for one in _MOVES if not refused.get(one[1], False)]
        words, sign = able[int(draw.integers(len(able)))]
        n = int(draw.integers(2, 4)) if sign == "*" else int(draw.integers(2, max(3, min(count, 30))))
        after = {"+": count + n, "-": count - n, "*": count * n}[sign]
        told = words.format(n=n, thing=thing, other=other)
        lines.append(f"Step {step}. {name} has {count} {thing} and {told}. Since {count} {sign} {n} = {after}, {name} "
                     f"now has {after} {thing}.")  # fmt: skip
        count = after
    lines.append(f"So the answer is that {name} has {count} {thing} at the end.")
    return "\n".join(lines)


def texts(loaded: LoadedModel, each: int, width: int, seed: int = 0) -> dict[str, list[Prompt]]:
    """`each` texts of at most `width` tokens of three kinds: worked problems, code, and the shipped story."""
    tokenizer: Any = loaded.tokenizer
    code = [row["text"] for row in rows("domains.jsonl") if row["domain"] == "code"]
    story = default_text()
    starts = np.linspace(0, len(story) - 6 * width, each).astype(int)
    kinds = {
        "worked problems": [worked_problem(1000 * seed + number) for number in range(each)],
        "code": code[:each],
        "story": [story[start:] for start in starts],
    }
    return {kind: [_cut(loaded, text, width, f"{kind}:{number}", tokenizer) for number, text in enumerate(found)]
            for kind, found in kinds.items()}  # fmt: skip


def shuffled(loaded: LoadedModel, prompt: Prompt, seed: int) -> Prompt:
    """The same tokens in random order, behind the token that the tokenizer puts in front."""
    front = len(opening(loaded))
    ids = np.array(prompt.tokens)
    ids[front:] = np.random.default_rng(seed).permutation(ids[front:])
    return Prompt.of_tokens(ids.tolist(), loaded.tokenizer, id=f"{prompt.id}:shuffled")


def _cut(loaded: LoadedModel, text: str, width: int, name: str, tokenizer: Any) -> Prompt:
    ids = [*opening(loaded), *tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
    return Prompt.of_tokens(ids[:width], tokenizer, id=name)
