"""What the rows of a query see of the documents before it, with the query and with one that asks nothing."""

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.errors import InputError
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.readouts.evaluating import evaluating
from probe.seam.call import AttentionCall
from probe.seam.session import Session


@dataclass(frozen=True)
class Suffix:
    """What stands behind the documents: its tokens, and which of their rows are the query's."""

    tokens: tuple[int, ...]
    rows: np.ndarray


@dataclass(frozen=True)
class Example:
    """A prompt, cut where its query begins.

    Attributes:
        id: the prompt's name.
        front: tokens of the documents and what is before and between them.
        asked: the rest, with the query.
        null: the rest, with the null query in place of the question.
        documents: one flag per token of `front`, for each document.
        gold: numbers of the documents that answer.
    """

    id: str
    front: tuple[int, ...]
    asked: Suffix
    null: Suffix
    documents: tuple[np.ndarray, ...]
    gold: tuple[int, ...]

    @classmethod
    def of(cls, prompt: Prompt, null: tuple[int, ...]) -> "Example":
        """Cut a prompt with spans ``query``, ``doc:0``, ``doc:1``, … and ``gold``; ``question`` is optional.

        The null query replaces the span ``question``, or all of ``query`` where there is none. A document answers when
        it shares a token with ``gold``.

        Raises:
            InputError: a span is missing, empty or lies on the wrong side of the query.
        """
        query = _span(prompt, "query")
        question = _span(prompt, "question") if "question" in prompt.spans else query
        numbers = sorted(int(name[4:]) for name in prompt.spans if name[:4] == "doc:" and name[4:].isdigit())
        docs = [_span(prompt, f"doc:{number}") for number in numbers]
        gold = _span(prompt, "gold")
        cut = int(np.flatnonzero(query)[0])
        if not docs or any(one[cut:].any() for one in docs) or (question & ~query).any():
            raise InputError(
                f"prompt {prompt.id!r}: it has {len(docs)} documents (spans doc:0, doc:1, …); at least one is needed, "
                "all before the span 'query', and the span 'question' must lie in the query"
            )
        right = tuple(number for number, one in enumerate(docs) if (one & gold).any())
        if not right:
            raise InputError(
                f"prompt {prompt.id!r}: the span 'gold' touches none of its {len(docs)} documents"
            )
        at = np.flatnonzero(question[cut:])
        start, stop = int(at[0]), int(at[-1]) + 1
        tokens, rows = prompt.tokens[cut:], query[cut:]
        blank = Suffix(
            (*tokens[:start], *null, *tokens[stop:]),
            np.concatenate([rows[:start], np.ones(len(null), dtype=bool), rows[stop:]]),
        )
        cut_docs = tuple(one[:cut] for one in docs)
        return cls(prompt.id, prompt.tokens[:cut], Suffix(tokens, rows), blank, cut_docs, right)


def document_attention(
    loaded: LoadedModel, example: Example, *, calibrate: bool = True
) -> dict[int, Float[np.ndarray, "head token"]]:
    """Per layer, the mean probability of the query's rows on each token of the documents' part, less the null query's.

    ``(1/|q|) Σ_{i in q} p_ij − (1/|n|) Σ_{i in n} p_ij``. The documents run through the model once; both queries
    continue a copy of their KV cache. Only rows of the queries are computed, ``p = exp(s − lse)`` from the cached keys
    and the rows' own queries, block by block.
    """
    watch = _QueryRows(len(example.front))
    model: Any = loaded.model
    frugal = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    with evaluating(model), torch.no_grad(), Session(model, [watch]) as session:
        front = torch.tensor([example.front], device=loaded.device)
        cache = model(input_ids=front, use_cache=True, **frugal).past_key_values
        seen = []
        for suffix in (example.asked, example.null) if calibrate else (example.asked,):
            watch.rows = suffix.rows
            ids = torch.tensor([suffix.tokens], device=loaded.device)
            model(input_ids=ids, past_key_values=copy.deepcopy(cache), use_cache=True, **frugal)
            seen.append(watch.take())
        session.require_seen()
    asked, *null = seen
    return {layer: mass - null[0][layer] if null else mass for layer, mass in asked.items()}


class _QueryRows:
    """An observer of the mean probability of some rows on each of the first `width` tokens; idle without rows."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.rows: np.ndarray | None = None
        self.seen: dict[int, np.ndarray] = {}

    def want(self, call: AttentionCall) -> Want:
        """Column sums over the rows of the query."""
        if self.rows is None or call.place.tower != "decoder":
            return Want(z=False)
        groups = torch.where(torch.from_numpy(self.rows), 0, -1).to(torch.int16)[None]
        return Want(z=False, query_groups={"query rows": groups.to(call.layout.key_pos.device)})

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Keep the mean per head and token, in the order of the tokens."""
        if self.rows is None or call.place.tower != "decoder":
            return
        columns: Tensor = attended.query_groups["query rows"][0, :, 0].cpu().double()
        index = call.key_index[0].cpu()
        there = (index >= 0) & (index < self.width)
        mass = torch.zeros(columns.shape[0], self.width, dtype=torch.float64)
        mass[:, index[there]] = columns[:, there]
        self.seen[call.place.layer] = (mass / int(self.rows.sum())).numpy()

    def take(self) -> dict[int, np.ndarray]:
        """What was seen since the last call."""
        seen, self.seen = self.seen, {}
        return seen


def _span(prompt: Prompt, name: str) -> np.ndarray:
    flags = prompt.spans.get(name)
    if flags is None or not flags.any():
        have = ", ".join(sorted(key for key, held in prompt.spans.items() if held.any()))
        raise InputError(
            f"prompt {prompt.id!r}: qr_retrieval needs the span {name!r}; the prompt has {have}: give query, gold and "
            "doc:0, doc:1, …"
        )
    return flags
