"""What is run: prompts and ready-made inputs, checked against the model before anything is computed."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probe.analysis.options import AnalyzeOptions
from probe.errors import InputError
from probe.models import LoadedModel
from probe.prompts import Prompt, default_text

DEFAULT_TOKENS = 2048  # length of the shipped text, unless the model has fewer positions


@dataclass(frozen=True)
class Item:
    """One sequence to run: a prompt, or inputs that the caller made (pixels, audio, ids)."""

    prompt: Prompt | None
    inputs: Mapping[str, Any] | None = None

    @property
    def n_tokens(self) -> int:
        """Real tokens; 0 where the inputs hold no ids."""
        if self.prompt is not None:
            return len(self.prompt.tokens)
        ids = (self.inputs or {}).get("input_ids")
        if not isinstance(ids, Tensor):
            return 0
        mask = (self.inputs or {}).get("attention_mask")
        return int(mask.sum()) if isinstance(mask, Tensor) and mask.shape == ids.shape else ids.numel()

    @property
    def n_prompts(self) -> int:
        """Sequences in it: the batch size of ready-made inputs, else 1."""
        first = next((v for v in (self.inputs or {}).values() if isinstance(v, Tensor) and v.ndim > 1), None)
        return 1 if first is None else int(first.shape[0])


@dataclass(frozen=True)
class Inputs:
    """Everything to run, in order, and lines that the reader of the report must see."""

    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()

    @property
    def n_tokens(self) -> int:
        """Real tokens over all prompts."""
        return sum(item.n_tokens for item in self.items)

    @property
    def n_prompts(self) -> int:
        """Sequences over all items."""
        return sum(item.n_prompts for item in self.items)

    def batches(self, size: int) -> list[tuple[Item, ...]]:
        """Items in order, `size` at a time; ready-made inputs go alone."""
        out: list[list[Item]] = []
        for item in self.items:
            full = not out or len(out[-1]) >= size or out[-1][0].prompt is None or item.prompt is None
            if full:
                out.append([])
            out[-1].append(item)
        return [tuple(batch) for batch in out]

    def digest(self) -> str:
        """sha256 over every token, span and tensor, in order."""
        total = hashlib.sha256()
        for item in self.items:
            for piece in _pieces(item):
                total.update(piece)
        return total.hexdigest()


def read_inputs(prompts: object, loaded: LoadedModel, options: AnalyzeOptions) -> Inputs:
    """Turn whatever a user gave into inputs, and check them.

    Args:
        prompts: Text, a `Prompt`, a mapping of model inputs, a sequence of these; None is the shipped text.
        loaded: The model that will read them.
        options: `max_tokens` is applied here.

    Raises:
        InputError: no text, text where the model has no tokenizer, or a text longer than the model's positions.
    """
    notes: list[str] = []
    if prompts is None:
        items = [Item(_shipped(loaded, options, notes))]
    else:
        many = isinstance(prompts, Sequence) and not isinstance(prompts, str)
        given = list(prompts) if many else [prompts]  # type: ignore[call-overload]
        if not given:
            raise InputError("an analysis was asked; the list of prompts is empty: give at least one")
        items = [_item(one, number, loaded, options, notes) for number, one in enumerate(given)]
    for number, item in enumerate(items):
        _check_length(item, number, loaded)
    return Inputs(tuple(items), tuple(dict.fromkeys(notes)))


def _shipped(loaded: LoadedModel, options: AnalyzeOptions, notes: list[str]) -> Prompt:
    whole = _prompt(default_text(), 0, loaded)
    limit = min(DEFAULT_TOKENS, loaded.max_positions or DEFAULT_TOKENS)
    if len(whole.tokens) > limit and (options.max_tokens is None or options.max_tokens > limit):
        notes.append(f"the shipped text was cut to its first {limit} tokens")
    return whole.truncate(min(limit, options.max_tokens or limit))


def _item(one: object, number: int, loaded: LoadedModel, options: AnalyzeOptions, notes: list[str]) -> Item:
    if isinstance(one, Mapping):
        if not any(isinstance(value, Tensor) for value in one.values()):
            raise InputError(
                f"prompt {number} is a mapping without tensors; give the model's own keyword inputs"
            )
        if options.max_tokens is not None:
            raise InputError(
                f"max_tokens={options.max_tokens} was asked for prompt {number}, which is ready-made inputs: "
                "cut them yourself, or give text"
            )
        return Item(None, dict(one))
    prompt = one if isinstance(one, Prompt) else _prompt(one, number, loaded)
    if not prompt.tokens:
        raise InputError(f"prompt {prompt.id or number} has no tokens; give some text")
    if options.max_tokens is not None and len(prompt.tokens) > options.max_tokens:
        notes.append(f"prompts were cut to their first {options.max_tokens} tokens")
        prompt = prompt.truncate(options.max_tokens)
    return Item(prompt)


def _prompt(text: object, number: int, loaded: LoadedModel) -> Prompt:
    if not isinstance(text, str):
        raise InputError(
            f"prompt {number} is a {type(text).__name__}; give text, a Prompt, or a mapping of model inputs"
        )
    if not text.strip():
        raise InputError(f"prompt {number} is empty; give some text")
    if loaded.tokenizer is None:
        raise InputError(
            f"text was given to {loaded.name}, which has no tokenizer: give (model, tokenizer), or a mapping "
            "of inputs"
        )
    return Prompt.of(text, loaded.tokenizer, id=str(number))


def _check_length(item: Item, number: int, loaded: LoadedModel) -> None:
    limit = loaded.max_positions
    if item.prompt is None or limit is None or item.n_tokens <= limit:
        return
    raise InputError(
        f"prompt {item.prompt.id or number} has {item.n_tokens} tokens; {loaded.name} has positions for {limit}: "
        f"shorten it, or keep its first tokens with --max-tokens {limit} (max_tokens={limit})"
    )


def _pieces(item: Item) -> Iterator[bytes]:
    if item.prompt is not None:
        yield json.dumps([item.prompt.id, list(item.prompt.tokens), item.prompt.answer]).encode()
        for name, flags in sorted(item.prompt.spans.items()):
            yield name.encode() + flags.tobytes()
        return
    for name, value in sorted((item.inputs or {}).items()):
        if isinstance(value, Tensor):
            yield f"{name}{tuple(value.shape)}{value.dtype}".encode()
            yield value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
        else:
            yield f"{name}={value!r}".encode()
