"""Forwards of experiments: one prompt through the model, watched and edited, and the loss of its tokens."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.readouts.evaluating import evaluating
from probe.readouts.losses import token_losses
from probe.seam.session import Session


def spans_of(prompt: Prompt) -> dict[str, Tensor]:
    """A prompt's spans as the seam takes them."""
    return {name: torch.from_numpy(flags.copy()) for name, flags in prompt.spans.items()}


def watch(
    loaded: LoadedModel, prompt: Prompt, observers: Sequence[Any], interventions: Sequence[Any] = ()
) -> list[str]:
    """One forward over a prompt, seen by `observers` and edited by `interventions`; no logits but the last row's.

    Returns the lines that a reader of the numbers must see. Raises `UnseenLayersError` where no attention was seen.
    """
    model = loaded.model
    accepts = inspect.signature(model.forward).parameters
    frugal = {k: v for k, v in {"logits_to_keep": 1, "use_cache": False}.items() if k in accepts}
    ids = torch.tensor([prompt.tokens], device=loaded.device)
    with evaluating(loaded.model), torch.no_grad(), Session(model, observers, interventions) as session:
        session.announce([spans_of(prompt)])
        model(input_ids=ids, **frugal)
        session.require_seen()
        return session.notes


def losses(
    loaded: LoadedModel, prompt: Prompt, interventions: Sequence[Any] = (), observers: Sequence[Any] = ()
) -> Float[Tensor, "token"]:
    """−ln p of every token of a prompt given those before it, in nats, float64; NaN at the first.

    Raises `UsageError` where the model predicts no next token.
    """
    ids = torch.tensor([prompt.tokens], device=loaded.device)
    if not observers and not interventions:
        with evaluating(loaded.model):
            return token_losses(loaded.model, {"input_ids": ids})[0]
    with evaluating(loaded.model), Session(loaded.model, observers, interventions) as session:
        session.announce([spans_of(prompt)])
        return token_losses(loaded.model, {"input_ids": ids})[0]
