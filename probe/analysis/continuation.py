"""Continuations of a prompt by a model's own ``generate()``: greedy or sampled, or along given tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probe.analysis.applied import Applied
from probe.errors import InputError, UsageError
from probe.models import LoadedModel
from probe.models.convert import quiet_transformers
from probe.prompts import Prompt
from probe.prompts.tokens import strings


@dataclass(frozen=True)
class Decoding:
    """How to choose tokens: greedily, or sampled at a temperature; nothing else shapes the distribution."""

    new_tokens: int = 20
    temperature: float | None = None  # None = greedy

    def __post_init__(self) -> None:
        if not isinstance(self.new_tokens, int) or self.new_tokens < 0:
            raise UsageError(f"new_tokens={self.new_tokens!r} was asked; it must be a whole number from 0")
        if self.temperature is not None and not 0.0 < self.temperature < float("inf"):
            raise UsageError(f"temperature={self.temperature!r} was asked; it must be a number above 0")


@dataclass(frozen=True)
class Continuation:
    """What a model wrote after a prompt.

    `probs` are the probabilities, 0 to 1, that the model gave each token before any temperature.
    """

    tokens: tuple[int, ...]
    str_tokens: tuple[str, ...]
    probs: tuple[float, ...]
    text: str

    def differs_at(self, other: "Continuation") -> int | None:
        """Number of the first token, from 0, that is not the same; None where all are."""
        pairs = zip(self.tokens, other.tokens, strict=False)
        first = next((number for number, (a, b) in enumerate(pairs) if a != b), None)
        if first is None and len(self.tokens) != len(other.tokens):
            return min(len(self.tokens), len(other.tokens))
        return first

    def to_dict(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "text": self.text,
            "tokens": list(self.tokens),
            "str_tokens": list(self.str_tokens),
            "probs": list(self.probs),
        }


def require_generates(loaded: LoadedModel) -> None:
    """Raise `UsageError` unless the model writes text after a prompt."""
    if not getattr(loaded.model, "can_generate", lambda: False)():
        raise UsageError(
            f"text after a prompt was asked of {loaded.name}; it has no head that predicts the next token: use a model "
            "that generates, such as smollm2-135m"
        )


def room(loaded: LoadedModel, prompt: Prompt, wanted: int) -> int:
    """How many of the wanted tokens the model has positions for."""
    limit = loaded.max_positions
    if limit is None or getattr(loaded.model.config, "is_encoder_decoder", False):
        return wanted
    return max(0, min(wanted, limit - len(prompt)))


def continued(applied: Applied, prompt: Prompt, how: Decoding) -> Continuation | None:
    """What the model writes after a prompt under the interventions of `applied`; None where it has no room to."""
    loaded = applied.loaded
    steps = room(loaded, prompt, how.new_tokens)
    if steps == 0:
        return None
    sampled = {} if how.temperature is None else {"do_sample": True, "temperature": how.temperature}
    tokens, logits = _generate(applied, prompt, {"max_new_tokens": steps, **sampled})
    probs = [float(row.softmax(-1)[token]) for row, token in zip(logits, tokens, strict=True)]
    pieces, text = _words(loaded, tuple(tokens))
    return Continuation(tuple(tokens), pieces, tuple(probs), text)


def forced(applied: Applied, prompt: Prompt, answer: Sequence[int]) -> list[float]:
    """−ln p of each token of an answer after a prompt, in nats: the prompt in one forward, then token by token.

    So interventions act as they would while the model writes that answer.
    """
    start = len(prompt) if not getattr(applied.loaded.model.config, "is_encoder_decoder", False) else 1

    def only(batch: int, so_far: Tensor) -> list[int]:
        return [answer[min(len(so_far) - start, len(answer) - 1)]]

    length = {"max_new_tokens": len(answer), "min_new_tokens": len(answer)}
    _, logits = _generate(applied, prompt, length, prefix_allowed_tokens_fn=only)
    return [-float(row.log_softmax(-1)[token]) for row, token in zip(logits, answer, strict=True)]


def answer_tokens(prompt: Prompt, tokenizer: Any) -> tuple[int, ...]:
    """The tokens of a prompt's answer as they follow it, a space between where neither side has one.

    Raises:
        InputError: the answer has no tokens.
    """
    answer = prompt.answer or ""
    glue = "" if prompt.text[-1:].isspace() or answer[:1].isspace() else " "
    coded = tokenizer(glue + answer, add_special_tokens=False)["input_ids"] if answer.strip() else []
    if not coded:
        raise InputError(
            f"the answer {answer!r} of prompt {prompt.id} was given; it has no tokens: write some text"
        )
    return tuple(int(token) for token in coded)


def _words(loaded: LoadedModel, tokens: tuple[int, ...]) -> tuple[tuple[str, ...], str]:
    """Each token's string, and the text of all of them; ids where there is no tokenizer."""
    tokenizer: Any = loaded.tokenizer
    if tokenizer is None:
        pieces = tuple(map(str, tokens))
        return pieces, " ".join(pieces)
    return strings(tokens, tokenizer), str(tokenizer.decode(list(tokens), skip_special_tokens=True))


def _generate(
    applied: Applied, prompt: Prompt, entries: dict[str, Any], **more: Any
) -> tuple[list[int], list[Tensor]]:
    """The new tokens, and the model's own logits that each was chosen from."""
    from transformers import GenerationConfig

    model: Any = applied.loaded.model
    ids = torch.tensor([prompt.tokens], device=applied.loaded.device)
    # A model's own generation settings (penalties, a cut of the distribution) would hide what its heads do.
    plain = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    if entries.get("do_sample"):
        plain |= {"top_k": 0, "top_p": 1.0}
    config = GenerationConfig(
        **{**plain, **entries},
        return_dict_in_generate=True,
        output_logits=True,
        pad_token_id=_pad(applied.loaded),
    )
    with torch.no_grad(), quiet_transformers(), applied.open(prompt):
        out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, **more)
    logits = [row[0] if row.dtype == torch.float64 else row[0].float() for row in out.logits]
    return [int(token) for token in out.sequences[0, -len(logits) :]], logits


def _pad(loaded: LoadedModel) -> int:
    for source in (loaded.tokenizer, getattr(loaded.model, "generation_config", None)):
        value = getattr(source, "pad_token_id", None)
        if isinstance(value, int):
            return value
    return 0
