"""Documents and a question that one of them answers: what query-focused retrieval heads are found on."""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from probe.errors import UsageError
from probe.prompts.data import rows
from probe.prompts.prompt import Prompt
from probe.prompts.spans import Chars, SpanLike

Part = Literal["train", "held_out"]

OPENING = "Here are some paragraphs:"
INSTRUCTION = "Please find information that is relevant to the following query in the paragraphs above."


@dataclass(frozen=True)
class Document:
    """A short document, the question that it alone answers, and the part of the data it belongs to."""

    id: str
    part: Part
    title: str
    text: str
    question: str


@cache
def documents(part: Part) -> tuple[Document, ...]:
    """The shipped documents of one part, in the file's order: 12 to find heads on, 12 held out."""
    return tuple(Document(**row) for row in rows("documents.jsonl") if row["part"] == part)


def document_prompts(
    tokenizer: Any, part: Part, *, count: int = 8, size: int = 6, seed: int = 0
) -> list[Prompt]:
    """`count` prompts of `size` documents of a part, one of which answers the question that follows.

    Documents are written ``[i] title``, new line, text, with an empty line between; then an instruction and
    ``Query: …``. The first `count` documents are the right ones in turn; the seed draws the others and the order.
    Spans: ``doc:0``, ``doc:1``, … with their numbers in brackets; ``gold``, the right one; ``query``, instruction and
    question; and ``question`` alone.

    Raises:
        UsageError: more prompts or documents than the part has.
    """
    known = documents(part)
    if not 1 <= count <= len(known) or not 2 <= size <= len(known):
        raise UsageError(
            f"{count} prompts of {size} documents were asked; give 1 to {len(known)} prompts, of 2 to {len(known)}"
        )
    generator = np.random.default_rng(seed)
    prompts = []
    for number in range(count):
        others = [at for at in range(len(known)) if at != number]
        chosen = np.array([number, *generator.choice(others, size - 1, replace=False)])
        order = generator.permutation(chosen)
        gold = int(np.flatnonzero(order == number)[0])
        name = f"documents:{part}:{known[number].id}"
        prompts.append(_written([known[at] for at in order], gold, tokenizer, name))
    return prompts


def _written(shown: list[Document], gold: int, tokenizer: Any, name: str) -> Prompt:
    text, spans = OPENING, dict[str, SpanLike]()
    for number, one in enumerate(shown):
        text += "\n\n"
        start = len(text)
        text += f"[{number + 1}] {one.title}\n{one.text}"
        spans[f"doc:{number}"] = Chars((start, len(text)))
    spans["gold"] = spans[f"doc:{gold}"]
    text += "\n\n"
    start = len(text)
    text += f"{INSTRUCTION}\n\nQuery: "
    asked = len(text)
    text += shown[gold].question
    spans |= {"query": Chars((start, len(text))), "question": Chars((asked, len(text)))}
    return Prompt.of(text, tokenizer, spans=spans, id=name, answer=shown[gold].id)
