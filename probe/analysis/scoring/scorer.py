"""Losses of documents, by a model as it is and with heads masked: AttentionInfluence (arXiv:2505.07293)."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.analysis.applied import Applied
from probe.analysis.edit import spans_of
from probe.analysis.forward import Runner, out_of_memory
from probe.analysis.inputs import Item
from probe.analysis.ready import ready
from probe.analysis.scoring.batches import batches
from probe.analysis.scoring.documents import Document
from probe.analysis.scoring.options import ScoreOptions
from probe.analysis.scoring.table import Scored
from probe.analysis.settle import settled
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.prompts.tokens import starts_with_bos
from probe.readouts.evaluating import evaluating
from probe.readouts.logits import Keep, rows_at_once
from probe.readouts.losses import predicted, real_tokens, token_losses

LEAST = 2  # tokens that a loss needs: the first is predicted by nothing

_TOO_SHORT = "fewer than 2 tokens"
_NOT_FINITE = "a loss is not finite"
_NO_LOSS = "the base loss is 0"


@dataclass(frozen=True)
class ShardScores:
    """The scores of one shard's documents, in their order, and lines that a reader must see."""

    rows: tuple[Scored, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Text:
    """A document as the model gets it."""

    document: Document
    prompt: Prompt
    cut: bool

    def __len__(self) -> int:
        return len(self.prompt)


class Scorer:
    """Scores documents with one model and one intervention.

    ``influence = (L_masked − L_base) / L_base`` with L the mean cross-entropy, in nats, of a document's tokens after
    the first. Both forwards run under the same attention, so that nothing but the edit differs. Which documents share
    a forward follows from the shard and `batch_tokens` alone.
    """

    def __init__(self, loaded: LoadedModel, mask: object, options: ScoreOptions) -> None:
        """Make the intervention ready for the model.

        Raises:
            UsageError: it needs prompts of its own, or the model lacks what it names.
        """
        self.loaded, self.options = loaded, options
        self._ways = (Applied(loaded), Applied(loaded, ready([mask], loaded)))
        self._runner = Runner(loaded)
        limits = [n for n in (options.max_tokens, loaded.max_positions) if n is not None]
        self.limit = min(limits, default=None)
        accepts = inspect.signature(loaded.model.forward).parameters
        self._cached = {"use_cache": False} if "use_cache" in accepts else {}

    def score(self, documents: Sequence[Document], tell: Callable[[int], None] | None = None) -> ShardScores:
        """The scores of a shard; `tell` is called with the number of finished documents after every batch.

        Raises:
            InterventionError: the intervention changed nothing in any document so far.
            BudgetError: memory ran out, naming the size.
        """
        texts = self._read(documents)
        found = {one.document.index: self._scored(one, None, None) for one in texts}
        long = [one for one in texts if len(one) >= LEAST]
        done = len(texts) - len(long)
        padded = "attention_mask" in self._runner.accepts
        with (
            evaluating(self.loaded.model),
            settled(self.options.seed, deterministic=False, device=self.loaded.device),
        ):
            for batch in batches(long, self.options.batch_tokens, padded=padded):
                base, masked = (self._losses(way, batch) for way in self._ways)
                for one, *losses in zip(batch, base.tolist(), masked.tolist(), strict=True):
                    found[one.document.index] = self._scored(one, *losses)
                done += len(batch)
                if tell is not None:
                    tell(done)
        self._ways[1].require_effect()
        notes = [note for way in self._ways for note in way.notes]
        return ShardScores(tuple(found[one.document.index] for one in texts), tuple(dict.fromkeys(notes)))

    def _read(self, documents: Sequence[Document]) -> list[_Text]:
        tokenizer: Any = self.loaded.tokenizer
        coded = tokenizer([one.text for one in documents], verbose=False)["input_ids"]
        return [self._text(one, tokens) for one, tokens in zip(documents, coded, strict=True)]

    def _text(self, document: Document, tokens: Sequence[int]) -> _Text:
        kept = tuple(int(token) for token in tokens[: self.limit])
        # Tokens as strings are for readers; a stream has none.
        prompt = Prompt(document.id, "", kept, (), {})
        if kept:
            prompt = Prompt.of_tokens(kept, None, id=document.id)
        if starts_with_bos(kept, self.loaded.tokenizer):
            first = prompt.spans["last"] & False
            first[0] = True
            prompt = replace(prompt, spans={**prompt.spans, "bos": first})
        return _Text(document, prompt, len(kept) < len(tokens))

    def _losses(self, way: Applied, batch: Sequence[_Text]) -> Float[Tensor, " batch"]:
        """The mean loss of every document of a batch, in nats per token."""
        model = self.loaded.model
        inputs = self._runner.tensors([Item(one.prompt) for one in batch])
        spans = [spans_of(one.prompt) for one in batch]
        number = batch[0].document.index

        def forward(keep: Keep) -> Any:
            kept = {} if keep is None else {"logits_to_keep": keep}
            with way.open_batch(spans, number):
                return model(**inputs, **self._cached, **kept)

        with out_of_memory("scoring a batch", sum(map(len, batch))), torch.no_grad():
            losses = token_losses(model, inputs, forward, rows=rows_at_once(model))
        counts = predicted(real_tokens(inputs))
        return torch.where(counts, losses, 0.0).sum(1) / counts.sum(1)

    @staticmethod
    def _scored(one: _Text, base: float | None, masked: float | None) -> Scored:
        row = Scored(one.document.index, one.document.id, len(one), cut=one.cut)
        if base is None or masked is None:
            return replace(row, reason=_TOO_SHORT)
        if not (math.isfinite(base) and math.isfinite(masked)):
            return replace(row, reason=_NOT_FINITE)
        if base == 0.0:
            return replace(row, base_loss=base, masked_loss=masked, reason=_NO_LOSS)
        return replace(row, base_loss=base, masked_loss=masked, influence=(masked - base) / base)
