"""ROUGE-1 recall: how many of the reference's words a text says (Lin 2004)."""

import re
from collections import Counter

_WORD = re.compile(r"[^\W_]+")


def rouge1_recall(reference: str, response: str) -> float:
    """Share of the reference's words, counted with repeats, that the response holds: 0 to 1, NaN-free.

    recall = Σ_w min(count_ref(w), count_resp(w)) / Σ_w count_ref(w); lower case, no stemming. A reference without
    words gives 0.

    >>> rouge1_recall("seven copper moons", "Seven moons, seven moons.")
    0.6666666666666666
    """
    wanted, said = (Counter(_WORD.findall(text.lower())) for text in (reference, response))
    total = wanted.total()
    return (wanted & said).total() / total if total else 0.0
