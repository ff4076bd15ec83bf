"""Next-token logits of a forward, a few columns at a time: whole logits are never made where that can be avoided.

A vocabulary of 262 144 makes 17 GB of logits for 16 384 tokens; hidden states are 42 MB. So the forward keeps one
position, the last hidden states are caught on their way to the head, and the head runs on chunks of them. Where that
does not give the model's own logits (an intervention edits logits, a head of another form), the forward is repeated
for every chunk with ``logits_to_keep``; and where a model has no such keyword, whole logits are made, if they fit.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from probe.errors import BudgetError, UsageError
from probe.readouts.head import Head

ROWS = 512  # rows of logits at a time, at most
MOST_AT_ONCE = 2**25  # logits at a time, at most: 134 MB in float32
MOST_WHOLE = 2**32  # bytes of whole logits that are made where nothing else works
_CANNOT_REPLAY = (
    TypeError,
    ValueError,
    AttributeError,
    KeyError,
    IndexError,
    NotImplementedError,
    RuntimeError,
)

Keep = int | Tensor | None
Forward = Callable[[Keep], Any]  # what ``logits_to_keep`` shall be (None: not passed) -> the model's output


@runtime_checkable
class Logits(Protocol):
    """Logits of one forward over a batch."""

    how: str  # "head", "repeated" or "whole"
    size: tuple[int, int]  # batch, columns

    def columns(self, part: slice) -> Float[Tensor, "batch column vocab"]:
        """The logits of some columns."""


def next_token_logits(model: nn.Module, inputs: Mapping[str, Any], forward: Forward | None = None) -> Logits:
    """Run a model on a batch and give access to the logits of every position.

    Args:
        model: A model with a language-modelling head, in evaluation mode.
        inputs: ``input_ids`` and what else its forward takes.
        forward: How to run it, where that is more than ``model(**inputs, logits_to_keep=...)``: it may open a session.
            It may be called again for every chunk.

    Raises:
        UsageError: the model predicts no next token.
        BudgetError: only whole logits could be had, and they would not fit.
    """
    size = (int(inputs["input_ids"].shape[0]), int(inputs["input_ids"].shape[1]))
    if getattr(model, "get_output_embeddings", lambda: None)() is None:
        raise UsageError(
            f"next-token losses of {type(model).__name__} were asked; it predicts no next token: use a decoder with a "
            "language-modelling head"
        )
    accepts = inspect.signature(model.forward).parameters
    cached = {"use_cache": False} if "use_cache" in accepts else {}

    def plain(keep: Keep) -> Any:
        kept = {} if keep is None else {"logits_to_keep": keep}
        return model(**{**cached, **inputs}, **kept)

    run = forward or plain
    with torch.no_grad():
        if "logits_to_keep" not in accepts:
            return _whole(model, run, size)
        return _by_head(model, run, size) or _Repeated(run, size)


def parts(size: tuple[int, int], rows: int = ROWS) -> Iterator[slice]:
    """Consecutive columns, `rows` rows (batch × columns) at a time at most."""
    batch, columns = size
    width = max(1, rows // batch)
    for start in range(0, columns, width):
        yield slice(start, min(start + width, columns))


def precise(logits: Tensor) -> Tensor:
    """Logits in float32, or in float64 where they are so already."""
    return logits if logits.dtype == torch.float64 else logits.float()


def rows_at_once(model: nn.Module) -> int:
    """How many rows of a model's logits to make at a time: 512, fewer for a large vocabulary."""
    get: Any = model.get_output_embeddings
    return max(16, min(ROWS, MOST_AT_ONCE // int(get().weight.shape[0])))


def logits_by_steps(model: nn.Module, ids: Int[Tensor, "1 token"]) -> Logits:
    """Run one sequence token by token over its cache; every forward but the first is a decode step.

    Raises:
        UsageError: the model has no cache, or a head that cannot be applied to hidden states alone.
    """
    head = Head(model)
    if (
        not head.found
        or head.body is None
        or "past_key_values" not in inspect.signature(model.forward).parameters
    ):
        raise UsageError(
            f"stepwise losses of {type(model).__name__} were asked; it has no KV cache: leave stepwise out"
        )
    hidden: list[Tensor] = []
    cache: Any = None
    caught = _Caught(model, head.body)
    try:
        with torch.no_grad():
            for step in range(ids.shape[1]):
                out = model(input_ids=ids[:, step : step + 1], past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                one = _hidden(head, caught, out.logits, (1, 1), torch.tensor([0]))
                if one is None:
                    raise UsageError(
                        f"stepwise losses of {type(model).__name__} were asked; its logits do not follow from its last "
                        "hidden states alone, or an intervention edits them: leave stepwise out"
                    )
                hidden.append(one)
    finally:
        caught.close()
    return _ByHead(head, torch.cat(hidden, dim=1))


class _ByHead:
    how = "head"

    def __init__(self, head: Head, hidden: Tensor) -> None:
        self.head, self.hidden = head, hidden
        self.size = (int(hidden.shape[0]), int(hidden.shape[1]))

    def columns(self, part: slice) -> Tensor:
        with torch.no_grad():
            return self.head(self.hidden[:, part])


class _Repeated:
    how = "repeated"

    def __init__(self, run: Forward, size: tuple[int, int]) -> None:
        self.run, self.size = run, size

    def columns(self, part: slice) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.run(torch.arange(part.start, part.stop)).logits
        return logits


class _Whole:
    how = "whole"

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.size = (int(logits.shape[0]), int(logits.shape[1]))

    def columns(self, part: slice) -> Tensor:
        return self.logits[:, part]


class _Caught:
    """The last hidden states of a forward, and the logits before anybody's hooks."""

    def __init__(self, model: nn.Module, body: nn.Module) -> None:
        self.output: Any = None
        self.passes = 0  # of the body, since last asked
        self.logits: Tensor | None = None
        self._handles = [
            body.register_forward_hook(self._body),
            # First of all hooks: what the model's own code returned.
            model.register_forward_hook(self._model, prepend=True),
        ]

    def _body(self, module: nn.Module, args: Any, output: Any) -> None:
        self.output = output
        self.passes += 1

    def _model(self, module: nn.Module, args: Any, output: Any) -> None:
        self.logits = getattr(output, "logits", None)

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def _by_head(model: nn.Module, run: Forward, size: tuple[int, int]) -> _ByHead | None:
    """Logits by the head alone; None where that would not give what the forward gives."""
    head = Head(model)
    if not head.found or head.body is None:
        return None
    caught = _Caught(model, head.body)
    try:
        # A few rows far apart, by which an edit of logits shows itself.
        rows = torch.tensor(sorted({0, size[1] // 2, size[1] - 1}))
        seen: Tensor | None = run(rows).logits
    finally:
        caught.close()
    hidden = _hidden(head, caught, seen, size, rows)
    return None if hidden is None else _ByHead(head, hidden)


def _hidden(
    head: Head, caught: _Caught, seen: Tensor | None, size: tuple[int, int], rows: Int[Tensor, "row"]
) -> Tensor | None:
    """The hidden states of a forward, if the head makes of some rows of them the logits `seen`."""
    hidden, passes = getattr(caught.output, "last_hidden_state", None), caught.passes
    caught.passes = 0
    # An intervention that edits logits returns others than the model's own code did, or runs the body twice.
    if passes != 1 or seen is None or seen is not caught.logits:
        return None
    if not isinstance(hidden, Tensor) or tuple(hidden.shape[:2]) != size:
        return None
    head.form = type(caught.output)
    try:
        again = head(hidden[:, rows.to(hidden.device)])
    except _CANNOT_REPLAY:
        return None
    return hidden if again.shape == seen.shape and _close(again, seen, hidden.dtype) else None


def _close(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    """Equal up to rounding: the same rows went through the same code."""
    size = max(1.0, float(other.abs().max()))
    return bool((one - other).abs().max() <= 64 * torch.finfo(dtype).eps * size)


def _whole(model: nn.Module, run: Forward, size: tuple[int, int]) -> _Whole:
    get: Any = model.get_output_embeddings
    n_bytes = size[0] * size[1] * int(get().weight.shape[0]) * 4
    if n_bytes > MOST_WHOLE:
        raise BudgetError(
            f"losses of {size[0]} × {size[1]} tokens were asked; {type(model).__name__} takes no logits_to_keep, so "
            f"{n_bytes:,} bytes of logits would be made (allowed {MOST_WHOLE:,}): use fewer tokens (--max-tokens)"
        )
    return _Whole(run(None).logits)
