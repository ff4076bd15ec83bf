"""One prompt read once without edits; edited runs start from what that left, and run only what an edit can change.

Three things need not run again: rows before the first edited one (their keys and values are kept), blocks below the
first edited layer (what they returned is kept), and decode steps whose token is known beforehand: as long as the model
says the wanted answer, its greedy steps are the rows of one forward over that answer.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from probe.analysis.ready import ready
from probe.analysis.sweeping.stack import Hidden, Stack
from probe.errors import InterventionError, UsageError
from probe.experiments.decoding import stops_at
from probe.experiments.rouge import rouge1_recall
from probe.models import LoadedModel
from probe.seam.session import Session

EXTRA = 4  # tokens that a response may have beyond the answer's


@dataclass(frozen=True)
class Answered:
    """What came after a prompt: ROUGE-1 recall of the answer in the greedy response, and the loss of the answer."""

    recall: float
    loss: float  # nats per answer token, each token after the true ones
    response: str


@contextmanager
def under(loaded: LoadedModel, edits: Sequence[Any]) -> Iterator[None]:
    """A session in the fused mode, edited or not, so that both run by the same kernel.

    Raises `InterventionError` at its end where an edit changed nothing.
    """
    with Session(loaded.model, (), ready(list(edits), loaded), mode="fused") as session, torch.no_grad():
        yield
        if session.idle:
            raise InterventionError(
                f"{session.idle[0].name} was asked; it changed nothing: look at its heads and phase"
            )


class Reading:
    """A sequence after its unedited forward, of all but its last token; `block` is the first that edits may touch.

    Layers with a sliding window keep every key here, so that a cache can be cut back: the mask still hides what lies
    outside the window, and only an edit that looks at *cached* keys sees more of them than a sliding cache would hold.
    Raises `UsageError` where the model declares no chain of blocks.
    """

    def __init__(self, loaded: LoadedModel, tokens: Sequence[int], block: int = 0) -> None:
        self.loaded, self.block = loaded, block
        self._tokenizer: Any = loaded.tokenizer
        self.ids = torch.tensor([list(tokens)], device=loaded.device)
        self.stack = _stack(loaded)
        self._entering: Hidden | None = None
        with under(loaded, ()), self._noting():
            self._cache = self._forward(self.ids[:, :-1], None).past_key_values

    @contextmanager
    def _noting(self) -> Iterator[None]:
        if not self.block:
            yield
            return
        last = self.stack.order[self.block - 1]

        def note(_module: object, _args: object, output: object) -> None:
            self._entering = Hidden(output, last.index)

        handle = last.module.register_forward_hook(note)
        try:
            yield
        finally:
            handle.remove()

    def _forward(self, ids: Tensor, cache: Any, keep: int = 1) -> Any:
        cache = DynamicCache() if cache is None else cache
        return self.loaded.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=keep)

    def filled(self, rows: int) -> Any:
        """The cache of all tokens but the last, with rows from `rows` on run under the session that is open.

        Rows before `rows`, and blocks below the first edited one, are taken from the unedited run.
        """
        width = self.ids.shape[1] - 1
        if rows >= width:
            return copy.deepcopy(self._cache)
        cache = self._cropped(rows)
        entering = self._entering
        if entering is not None:
            entering = entering.holding(entering.tensor[:, rows:])
        out = self.stack.run(
            lambda: self._forward(self.ids[:, rows:-1], cache), start=self.block, entering=entering
        )
        for number in range(self.block):
            out.past_key_values.layers[number] = copy.copy(self._cache.layers[number])
        return out.past_key_values

    def _cropped(self, rows: int) -> Any:
        if not rows:
            return None
        cache = copy.deepcopy(self._cache)
        cache.crop(rows + 1 - self.ids.shape[1])
        return cache

    def answer(self, wanted: str, edits: Sequence[Any] = (), rows: int | None = None) -> Answered:
        """What the model says, edited from row `rows` on (None: from the last prompt token on, decode steps alone)."""
        rows = self.ids.shape[1] - 1 if rows is None else rows
        with under(self.loaded, edits):
            cache = self.filled(rows)
            told = self._wanted(wanted)
            given = torch.cat([self.ids[:, -1:], told[:, :-1]], 1)
            logits = self._forward(given, cache, keep=0).logits[0]
            loss = torch.nn.functional.cross_entropy(logits, told[0])
            right = int((logits.argmax(-1) == told[0]).long().cumprod(0).sum())
            said = told[0, :right].tolist()
            if right < told.shape[1]:
                cache.crop(right + 1 - told.shape[1])
                said += self._continued(int(logits[right].argmax()), cache, wanted, said)
        response = self._tokenizer.decode(said)
        return Answered(rouge1_recall(wanted, response), float(loss), response)

    def losses(self, endings: Sequence[Sequence[int]], edits: Sequence[Any], rows: int) -> list[float]:
        """Nats per token of each of several continuations, all as long, edited from row `rows` on."""
        told = torch.tensor([list(ending) for ending in endings], device=self.loaded.device)
        with under(self.loaded, edits):
            cache = self.filled(rows)
            cache.batch_repeat_interleave(len(endings))
            given = torch.cat([self.ids[:, -1:].expand(len(endings), 1), told[:, :-1]], 1)
            logits = self._forward(given, cache, keep=0).logits
        surprise = torch.nn.functional.cross_entropy(logits.transpose(1, 2), told, reduction="none")
        return [float(one) for one in surprise.mean(1)]

    def decoded(self) -> Tensor:
        """Logits ``[row, vocab]`` of rows 1 to the last but one, decoded after row 0, under the open session."""
        cache = self._forward(self.ids[:, :1], None).past_key_values
        entering = self._entering
        if entering is not None:
            entering = entering.holding(entering.tensor[:, 1:])
        rest = self.ids[:, 1:-1]
        out = self.stack.run(lambda: self._forward(rest, cache, 0), start=self.block, entering=entering)
        logits: Tensor = out.logits[0]
        return logits

    def _wanted(self, answer: str) -> Tensor:
        tokens = self._tokenizer(" " + answer, add_special_tokens=False)["input_ids"]
        return torch.tensor([tokens], device=self.loaded.device)

    def _continued(self, token: int, cache: Any, wanted: str, before: list[int]) -> list[int]:
        """Greedy tokens from `token` on, until the response stops, is long enough, or has said everything."""
        stop: Callable[[int], bool] = stops_at(self.loaded)
        limit, said = self._wanted(wanted).shape[1] + EXTRA - len(before), list[int]()
        while not stop(token):
            said.append(token)
            everything = rouge1_recall(wanted, self._tokenizer.decode(before + said)) == 1.0
            if len(said) == limit or everything:
                break
            logits = self._forward(torch.tensor([[token]], device=self.loaded.device), cache).logits
            token = int(logits[0, -1].argmax())
        return said


def _stack(loaded: LoadedModel) -> Stack:
    probe_ids = torch.tensor([[0]], device=loaded.device)
    with torch.no_grad():
        found = Stack.found(loaded.model, lambda: loaded.model(input_ids=probe_ids))
    if found is None:
        raise UsageError(
            f"{loaded.name} was asked to run a part of its blocks; it declares no chain of them: take a decoder"
        )
    return found
