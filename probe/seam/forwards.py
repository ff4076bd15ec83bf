"""Which sequences are in a forward: numbers prompts, follows KV caches, keeps tokens and padding.

Hooks on the model and its sub-models mark where a forward begins and ends. A new sequence takes the next number; a
forward that continues a known cache keeps the numbers of that cache.
"""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from probe.errors import CaptureError, ModelInUseError
from probe.seam.call import Batch, Phase
from probe.seam.masks import spec_of
from probe.seam.places import submodels

Spans = dict[str, Tensor]
EditInputs = Callable[["Forward", dict[str, Any]], dict[str, Any]]

UNKNOWN_TOKEN = -1  # stands where a cache holds a token that no observed forward was given


@dataclass
class Thread:
    """What one KV cache holds so far."""

    prompts: tuple[int, ...]
    length: int
    step: int
    tokens: Tensor | None
    real: Tensor | None
    spans: tuple[Spans, ...]
    reordered: bool = False
    cache: weakref.ref[Cache] | None = None


@dataclass
class Forward:
    """One forward in flight: the sequences of the decoder (or only) side, and of the encoder side if there is one."""

    batch: Batch
    start: int  # storage position of the first token of this forward
    width: int  # batch rows
    encoder: Batch | None = None
    phase: Phase = "prefill"
    wants_weights: bool = False
    thread: int = 0
    entries: dict[str, int] = field(default_factory=dict)  # attention module -> how often its forward began
    images: dict[tuple[str, int], tuple[int, ...]] = field(
        default_factory=dict
    )  # numbers of rows beside the text
    calls_in_entry: dict[tuple[str, int], int] = field(default_factory=dict)


class Forwards:
    """Follows the forwards of one model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.current: Forward | None = None
        self.last: Forward | None = None
        self.count = 0
        self.notes: list[str] = []
        self.edit_inputs: EditInputs | None = None  # what interventions do to the keywords of a forward
        self.prefilling = False  # True while a prompt is fed in chunks: continuations are prefill, not decode
        self._depth = 0
        self._next_prompt = 0
        self._next_image: dict[str, int] = {}
        self._announced: tuple[Spans, ...] = ()
        self._threads: dict[int, Thread] = {}
        self._encoded: Batch | None = None
        self._undo: list[Callable[[], None]] = []

    def attach(self) -> None:
        """Hook the model and every sub-model."""
        for sub in {id(m): m for m in (self.model, *submodels(self.model).values())}.values():
            begin = sub.register_forward_pre_hook(self._begin, with_kwargs=True)
            end = sub.register_forward_hook(self._end, with_kwargs=True, always_call=True)
            self._undo += [begin.remove, end.remove]

    def detach_hooks(self) -> None:
        """Remove every hook; what is known of caches stays, for a session that joins or leaves in between."""
        while self._undo:
            self._undo.pop()()
        self.current = None
        self._depth = 0

    def announce(self, spans: tuple[Spans, ...]) -> None:
        """Name the spans of the next new sequences, row by row."""
        self._announced = spans

    def _begin(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._depth and self.current is not None and self.current.thread != threading.get_ident():
            raise ModelInUseError(
                "the observed model was called by two threads at once; its prompts could not be told apart: "
                "run one forward at a time, or observe two copies of the model"
            )
        self._depth += 1
        if self._depth == 1:
            self.current = self._open(module, args, kwargs)
            self.count += 1
            if self.edit_inputs is not None:
                return args, self.edit_inputs(self.current, kwargs)
        return None

    @contextmanager
    def again(self) -> Iterator[None]:
        """While open, the model runs a second time within the forward in flight: its modules are entered anew."""
        forward = self.current
        if forward is None:
            raise CaptureError("a second pass was asked for outside any forward")
        kept = forward.entries, forward.calls_in_entry, forward.images
        forward.entries, forward.calls_in_entry = {}, {}
        try:
            yield
        finally:
            forward.entries, forward.calls_in_entry, forward.images = kept

    def _end(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._depth = max(0, self._depth - 1)
        if self._depth or self.current is None:
            return
        cache = getattr(output, "past_key_values", None) or kwargs.get("past_key_values")
        if isinstance(cache, Cache) and output is not None:
            self._remember(cache)
        self.last, self.current = self.current, None

    def _open(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Forward:
        alone = module is not self.model and self._is_encoder_of_model(module)
        prefix = "decoder_" if self._encodes_and_decodes() and not alone else ""
        ids = kwargs.get(f"{prefix}input_ids", args[0] if args and not prefix else None)
        tokens = ids if isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point() else None
        width, length = self._extent(tokens, args, kwargs, prefix)
        cache = kwargs.get("past_key_values")
        before = self._known(cache, width)
        start = cached_tokens(cache)
        real = _padding(kwargs.get(f"{prefix}attention_mask"), start + length)
        if before is not None and start < before.length:
            kept = None if before.tokens is None else before.tokens[:, :start]
            before = replace(before, tokens=kept, reordered=True)
            self.notes.append(
                "tokens were revisited (a cache was cropped): token maps of this run are not kept"
            )
        numbers = None
        if self._encoded is not None and before is None and kwargs.get("encoder_outputs") is not None:
            numbers = _spread(self._encoded.prompts, width)
        if module is not self.model and not alone and tokens is None:
            batch = Batch(tuple(range(width)), 0)  # a tower that reads images, called on its own: no prompts
        else:
            batch = self._batch(before, width, tokens, real, numbers, start)
        forward = Forward(batch, start, width, thread=threading.get_ident())
        forward.phase = "decode" if start and not self.prefilling else "prefill"
        forward.wants_weights = _wants_weights(self.model, kwargs)
        if alone:
            self._encoded = forward.encoder = batch
        elif prefix:
            forward.encoder = self._encoder_batch(kwargs, batch)
            forward.batch = replace(batch, spans=())  # the spans announced are those of the encoder's text
        return forward

    def _batch(
        self,
        before: Thread | None,
        width: int,
        tokens: Tensor | None,
        real: Tensor | None,
        numbers: tuple[int, ...] | None,
        start: int,
    ) -> Batch:
        if before is not None:
            joined = None
            if tokens is not None and before.tokens is not None:
                joined = torch.cat([before.tokens, tokens], dim=1)
            return Batch(before.prompts, before.step + 1, joined, real, before.spans, before.reordered)
        if numbers is not None and len(numbers) == width:
            return Batch(numbers, 0, tokens, real, (), reordered=len(set(numbers)) < width)
        if start and tokens is not None:  # a cache that was filled unseen: its tokens are not known
            tokens = torch.nn.functional.pad(tokens, (start, 0), value=UNKNOWN_TOKEN)
        prompts = tuple(range(self._next_prompt, self._next_prompt + width))
        self._next_prompt += width
        spans, self._announced = self._announced, ()
        return Batch(prompts, 0, tokens, real, _spread_spans(spans, width))

    def _encoder_batch(self, kwargs: dict[str, Any], batch: Batch) -> Batch:
        if self._encoded is not None and kwargs.get("encoder_outputs") is not None:
            return replace(self._encoded, prompts=batch.prompts)
        ids = kwargs.get("input_ids")
        tokens = ids if isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point() else None
        real = _padding(kwargs.get("attention_mask"), tokens.shape[1] if tokens is not None else 0)
        return Batch(batch.prompts, 0, tokens, real, batch.spans)

    def _known(self, cache: object, width: int) -> Thread | None:
        if not isinstance(cache, Cache):
            return None
        known = self._threads.get(id(cache))
        if known is None or known.cache is None or known.cache() is not cache or len(known.prompts) != width:
            return None
        return known if cached_tokens(cache) else None

    def _remember(self, cache: Cache) -> None:
        forward = self.current
        if forward is None:
            return
        batch, known = forward.batch, self._threads.get(id(cache))
        if known is None or known.cache is None or known.cache() is not cache:
            self._threads = {
                key: t for key, t in self._threads.items() if t.cache is not None and t.cache() is not None
            }
            self._watch_reorder(cache)
        self._threads[id(cache)] = Thread(
            batch.prompts, cached_tokens(cache), batch.step, batch.tokens, batch.real, batch.spans,
            batch.reordered or (known is not None and known.prompts == batch.prompts and known.reordered),
            weakref.ref(cache),
        )  # fmt: skip

    def _watch_reorder(self, cache: Cache) -> None:
        """Beams swap rows of a cache behind our back; mark its sequences when they do."""
        # Weakly: a session may see thousands of caches, and must not keep one alive.
        held, key = weakref.ref(cache), id(cache)
        before, plain = cache.__dict__.get("reorder_cache"), type(cache).reorder_cache

        def reorder_cache(beam_idx: Tensor) -> None:
            known, own = self._threads.get(key), held()
            if known is not None and not torch.equal(beam_idx.cpu(), torch.arange(len(beam_idx))):
                known.reordered = True
                if known.tokens is not None:
                    known.tokens = known.tokens.index_select(0, beam_idx.to(known.tokens.device))
            if before is not None:
                before(beam_idx)
            elif own is not None:
                plain(own, beam_idx)

        cache.reorder_cache = reorder_cache

        def undo() -> None:
            own = held()
            if own is not None:
                own.__dict__.pop("reorder_cache", None)

        self._undo.append(undo)

    def images(self, tower: str, chunk: int, width: int) -> tuple[int, ...]:
        """Numbers for rows that are not prompts (images, audio): the same in every layer of one forward."""
        forward = self.current
        if forward is None:
            return tuple(range(width))
        if (tower, chunk) not in forward.images:
            first = self._next_image.get(tower, 0)
            self._next_image[tower] = first + width
            forward.images[(tower, chunk)] = tuple(range(first, first + width))
        return forward.images[(tower, chunk)]

    def _encodes_and_decodes(self) -> bool:
        return bool(getattr(getattr(self.model, "config", None), "is_encoder_decoder", False))

    def _is_encoder_of_model(self, module: nn.Module) -> bool:
        if not self._encodes_and_decodes():
            return False
        get = getattr(self.model, "get_encoder", None)
        return get is not None and get() is module

    def _extent(
        self, tokens: Tensor | None, args: tuple[Any, ...], kwargs: dict[str, Any], prefix: str
    ) -> tuple[int, int]:
        if tokens is not None:
            return tokens.shape[0], tokens.shape[1]
        embeds = kwargs.get(f"{prefix}inputs_embeds")
        if isinstance(embeds, Tensor):
            return embeds.shape[0], embeds.shape[1]
        given = [value for value in (*kwargs.values(), *args) if isinstance(value, Tensor) and value.ndim > 1]
        return (given[0].shape[0] if given else 1), 0


def cached_tokens(cache: object) -> int:
    """Tokens that a cache has taken; 0 for what is no cache. Its first layer may be of a kind that counts none."""
    if not isinstance(cache, Cache):
        return 0
    length = int(cache.get_seq_length())
    layers = () if length else getattr(cache, "layers", ())
    return max(
        (int(layer.get_seq_length()) for layer in layers if hasattr(layer, "get_seq_length")), default=length
    )


def _spread(prompts: tuple[int, ...], width: int) -> tuple[int, ...]:
    """Prompts over `width` rows: each repeated in place where generation expanded them (beams)."""
    copies, rest = divmod(width, len(prompts))
    return prompts if copies <= 1 or rest else tuple(p for p in prompts for _ in range(copies))


def _spread_spans(spans: tuple[Spans, ...], width: int) -> tuple[Spans, ...]:
    """The announced spans over `width` rows: each repeated in place where generation expanded the prompts."""
    if not spans or width % len(spans):
        return ()
    return tuple(one for one in spans for _ in range(width // len(spans)))


def _padding(mask: object, length: int) -> Tensor | None:
    """The real tokens among the first `length`; None where all are real or nobody says."""
    if isinstance(mask, dict):
        mask = next((value for value in mask.values() if isinstance(value, Tensor)), None)
    if isinstance(mask, Tensor) and mask.ndim == 4 and (spec := spec_of(mask)) is not None:
        mask = spec.padding
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return None
    real = mask[:, :length].bool() if length else mask.bool()
    return None if bool(real.all()) else real


def _wants_weights(model: nn.Module, kwargs: dict[str, Any]) -> bool:
    asked = kwargs.get("output_attentions")
    return (
        bool(getattr(getattr(model, "config", None), "output_attentions", False))
        if asked is None
        else bool(asked)
    )
