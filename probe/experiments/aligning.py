"""Where an answer lies among a prompt's tokens, when the tokenizer's tokens do not end where the answer does."""

from typing import Any, Literal

import numpy as np

from probe.experiments.rouge import rouge1_recall
from probe.prompts import Prompt

Alignment = Literal["exact", "joined", "lost"]


def alignment(prompt: Prompt, span: np.ndarray, answer: str, tokenizer: Any) -> Alignment:
    """How well the tokens of a span hold an answer.

    ``exact``: their characters are the answer's, white space at the edges apart. ``joined``: an edge token also holds
    other characters (the tokenizer merged the answer's last word with its full stop, say); such a token counts as the
    answer's. ``lost``: the tokens do not hold all of the answer's words, since they are empty, unknown tokens, or
    lie elsewhere; then a score would be a silent zero.
    """
    said = tokenizer.decode(np.asarray(prompt.tokens)[span].tolist(), skip_special_tokens=True)
    if not span.any() or rouge1_recall(answer, str(said)) < 1.0:
        return "lost"
    if prompt.offsets is None:
        return "exact" if str(said).strip() == answer.strip() else "joined"
    held = [prompt.offsets[at] for at in np.flatnonzero(span)]
    text = prompt.text[min(start for start, _ in held) : max(stop for _, stop in held)]
    return "exact" if text.strip() == answer.strip() else "joined"


def alignment_notes(found: dict[str, Alignment]) -> list[str]:
    """Lines about the tests, by name, whose answer's tokens are not exactly its own."""
    joined, lost = ([name for name, how in found.items() if how == kind] for kind in ("joined", "lost"))
    lines = []
    if joined:
        lines.append(
            f"{len(joined)} tests were re-aligned: the tokenizer joins the answer's edge with its neighbours, and "
            f"joined tokens count as the answer's ({', '.join(map(repr, joined[:3]))})"
        )
    if lost:
        lines.append(
            f"{len(lost)} tests were not counted: the answer's tokens were not found ({', '.join(map(repr, lost[:3]))})"
        )
    return lines
