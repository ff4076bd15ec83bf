"""Indirect-object pairs (Wang et al. 2023): the corrupt prompt repeats the other name, which makes the first one right.

Clean: "When Mary and John went to the store, John gave a drink to" → " Mary". Corrupt: "…, Mary gave a drink to" →
" John". One token differs, the subject's second mention.
"""

from typing import Any

import numpy as np

from probe.prompts.ioi import ioi_prompts
from probe.prompts.pairs.answers import only_token
from probe.prompts.pairs.pair import Pair, PairSet
from probe.prompts.prompt import Prompt


def ioi_pairs(tokenizer: Any, count: int, seed: int) -> PairSet:
    """Pairs whose corrupt prompt repeats the other name, half ``ABBA`` and half ``BABA``; wrong is the subject.

    Marks: ``io``, ``s1``, ``s2`` and ``end``.

    Raises:
        InputError: this tokenizer splits the names or does not know them.
    """
    prompts = ioi_prompts(tokenizer, count=count, seed=seed)
    return PairSet("ioi", tuple(_pair(prompt, tokenizer) for prompt in prompts))


def _pair(clean: Prompt, tokenizer: Any) -> Pair:
    marks = {name: int(np.flatnonzero(clean.spans[name])[0]) for name in ("io", "s1", "s2", "end")}
    subject, other = (_said(clean, marks[name]) for name in ("s2", "io"))
    start, stop = clean.offsets[marks["s2"]]  # type: ignore[index]
    text = clean.text[:start] + clean.text[start:stop].replace(subject, other) + clean.text[stop:]
    corrupt = Prompt.of(text, tokenizer, id=f"{clean.id}:corrupt", answer=" " + subject)
    right, wrong = (only_token(clean.text, " " + name, tokenizer) for name in (other, subject))
    return Pair(clean.id, clean, corrupt, (right,), (wrong,), marks)


def _said(prompt: Prompt, at: int) -> str:
    start, stop = prompt.offsets[at]  # type: ignore[index]
    return prompt.text[start:stop].strip()
