"""Greedy decoding, one token at a time with a KV cache, watched from the last prompt token on."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probe.experiments.watching import TopKeys
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.session import Session


@dataclass(frozen=True)
class Step:
    """One emitted token, and per layer the key that each head looked at most in the row that emitted it."""

    token: int
    top: dict[int, np.ndarray]


def decode(loaded: LoadedModel, prompt: Prompt, *, limit: int, stop: Callable[[int], bool]) -> list[Step]:
    """Decode greedily until `stop` says so of a token, or `limit` tokens; the stopping token is not a step.

    The prompt but its last token goes through the model unwatched in one forward; its last token is the first decode
    step, since that row emits the first answer token.
    """
    model, watch = loaded.model, TopKeys()
    steps: list[Step] = []
    ids = torch.tensor([prompt.tokens], device=loaded.device)
    frugal = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    cache: Any = None
    with torch.no_grad(), Session(model, [watch]) as session:
        if ids.shape[1] > 1:
            cache = model(input_ids=ids[:, :-1], use_cache=True, **frugal).past_key_values
        last: Tensor = ids[:, -1:]
        watch.active = True
        while len(steps) < limit:
            out = model(input_ids=last, past_key_values=cache, use_cache=True, **frugal)
            cache = out.past_key_values
            last = out.logits[:, -1].argmax(-1, keepdim=True)
            seen = watch.take()
            if stop(int(last)):
                break
            steps.append(Step(int(last), seen))
        session.require_seen()
    return steps


def stops_at(loaded: LoadedModel) -> Callable[[int], bool]:
    """Whether a token ends a response: the model's or tokenizer's end tokens, and any token with a line break."""
    tokenizer: Any = loaded.tokenizer
    ends = getattr(getattr(loaded.model, "generation_config", None), "eos_token_id", None)
    known = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id}
    return lambda token: token in known or "\n" in tokenizer.decode([token])
