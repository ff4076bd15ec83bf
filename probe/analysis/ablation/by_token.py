"""What an edit does to a text, token by token: losses, and how far the prediction of what comes next moves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.analysis.ablation.edits import read_edits
from probe.analysis.edit import edit
from probe.analysis.inputs import read_inputs
from probe.analysis.options import AnalyzeOptions
from probe.errors import InputError, UsageError
from probe.models import as_loaded
from probe.prompts import Prompt
from probe.readouts.evaluating import evaluating
from probe.readouts.logits import next_token_logits, parts, precise

_ROWS = 64  # rows whose probabilities are held at once
_MOST = 2**29  # probabilities of the unedited model that are kept: 2 GB in float32


@dataclass(frozen=True)
class TokenDivergence:
    """Losses of a prompt's tokens and divergences after them, in nats.

    Attributes:
        str_tokens: The tokens.
        base: −ln p of each token given those before it, as the model is; NaN at the first, which nothing predicts.
        edited: The same under the edit.
        kl: KL(base ‖ edited) of the prediction of the next token, at every token.
    """

    str_tokens: tuple[str, ...]
    base: np.ndarray
    edited: np.ndarray
    kl: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Plain lists; undefined values are None."""
        plain = {
            name: [float(one) if np.isfinite(one) else None for one in getattr(self, name)]
            for name in ("base", "edited", "kl")
        }
        return {"str_tokens": list(self.str_tokens), **plain}


def token_divergence(model: object, prompt: object, interventions: object) -> TokenDivergence:
    """Score a text with a model as it is and edited, token by token.

    Args:
        model: A Hugging Face model, ``(model, tokenizer)``, a `LoadedModel`, or a name.
        prompt: Text, or a `Prompt`.
        interventions: Interventions or their specs, applied in order.

    Raises:
        UsageError: no interventions, a model that predicts no next token, or a text too long to hold its predictions.
        InterventionError: an intervention changed nothing.
    """
    edits, loaded = read_edits(interventions), as_loaded(model)
    if not isinstance(prompt, str | Prompt):
        raise InputError(f"a {type(prompt).__name__} was given as the prompt; give text or a Prompt")
    found = read_inputs(prompt, loaded, AnalyzeOptions()).items[0].prompt
    if found is None:
        raise InputError("a text was asked to be scored; it has no tokens: give text or a Prompt")
    ids = torch.tensor([found.tokens], device=loaded.device)
    with evaluating(loaded.model), torch.no_grad():
        kept = _kept(loaded, ids)
        with edit(loaded, edits, prompts=[found]):
            rows = zip(kept, _log_probs(loaded, ids), strict=True)
            compared = [_compare(base, edited, ids[0], start) for base, (start, edited) in rows]
    base, edited, kl = (np.concatenate(part) for part in zip(*compared, strict=True))
    return TokenDivergence(tuple(found.str_tokens), _shifted(base), _shifted(edited), kl)


def _kept(loaded: Any, ids: Tensor) -> Sequence[Float[Tensor, "row vocab"]]:
    size = int(ids.shape[1]) * int(getattr(loaded.model.config.get_text_config(), "vocab_size", 0))
    if size > _MOST:
        raise UsageError(
            f"{ids.shape[1]} tokens were asked to be compared; their predictions take {4 * size:,} bytes: use fewer"
        )
    return [part for _, part in _log_probs(loaded, ids)]


def _log_probs(loaded: Any, ids: Tensor) -> Iterator[tuple[int, Float[Tensor, "row vocab"]]]:
    """Log-probabilities of the next token, a few rows at a time, with the number of the first."""
    logits = next_token_logits(loaded.model, {"input_ids": ids})
    for part in parts(logits.size, _ROWS):
        yield part.start, precise(logits.columns(part)[0]).log_softmax(-1).cpu()


def _compare(
    base: Float[Tensor, "row vocab"], edited: Float[Tensor, "row vocab"], tokens: Tensor, start: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """−log p of the tokens after some rows, as the model is and edited, and the divergence at these rows."""
    follow = tokens[start + 1 : start + 1 + len(base)].cpu()
    told = follow[:, None]
    losses = [-one[: len(follow)].double().gather(1, told)[:, 0].numpy() for one in (base, edited)]
    p = base.double()
    kl = (p.exp() * (p - edited.double())).sum(-1)
    return losses[0], losses[1], kl.clamp_min(0.0).numpy()


def _shifted(losses: np.ndarray) -> np.ndarray:
    return np.concatenate([[np.nan], losses])
