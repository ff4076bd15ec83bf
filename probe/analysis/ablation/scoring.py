"""A prompt through a model: the logits of all its positions, in one forward or token by token."""

import inspect
from typing import Any

import torch
from torch import Tensor

from probe.analysis.applied import Applied
from probe.prompts import Prompt
from probe.readouts.logits import Keep, Logits, logits_by_steps, next_token_logits


def tokens_of(applied: Applied, prompt: Prompt) -> Tensor:
    """A prompt's tokens as one row on the model's device."""
    return torch.tensor([prompt.tokens], device=applied.loaded.device)


def logits_of(applied: Applied, prompt: Prompt, *, stepwise: bool = False) -> Logits:
    """The logits of a prompt under the interventions of `applied`.

    With `stepwise` every token after the first is a decode step over the cache, as if the model had written the prompt
    itself, so that interventions on decode steps act.
    """
    model, ids = applied.loaded.model, tokens_of(applied, prompt)
    if stepwise:
        with applied.open(prompt):
            return logits_by_steps(model, ids)
    cached = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}

    def forward(keep: Keep) -> Any:
        kept = {} if keep is None else {"logits_to_keep": keep}
        with applied.open(prompt):
            return model(input_ids=ids, **cached, **kept)

    return next_token_logits(model, {"input_ids": ids}, forward)
