"""Proofs on a model, by short forwards, that the order of documents can be taken from it."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from probe_kernels.types import Attended
from torch import Tensor, nn

from probe.errors import InterventionError
from probe.seam.call import AttentionCall
from probe.seam.hub import hub_of
from probe.seam.session import Session

# Largest difference of the outputs over their size, by what the model computes in.
_SAME = {torch.float64: 1e-6, torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 6e-2}
_PREFIX, _ONE, _OTHER, _SUFFIX = [1], [2, 3], [4], [5, 6]  # short, so that sliding windows hold them
_NAMES = ("one", "other")

_proven: "weakref.WeakKeyDictionary[nn.Module, None]" = weakref.WeakKeyDictionary()


def require_order_free(network: nn.Module, make: Callable[[tuple[str, ...]], Any], what: str) -> None:
    """Raise `InterventionError` unless the model gives two orders of two short documents the same continuation.

    `make` gives the intervention for spans of these names; where a window cuts even so short a prompt, its notes say so
    and nothing is proven. The answer is kept per model.
    """
    if network in _proven:
        return
    require_unobserved(network, what)
    _require_heard(network, what)
    one = make(_NAMES)
    (there, cut), (back, _) = _after(network, one, _ONE, _OTHER), _after(network, one, _OTHER, _ONE)
    gap = float((there - back).abs().max()) / max(1.0, float(there.abs().max()))
    if not cut and not gap <= _SAME.get(next(network.parameters()).dtype, 6e-2):
        raise InterventionError(
            f"{what} was asked of {type(network).__name__}; two documents in the other order still move its output, by "
            f"{gap:.1e}: it knows the order from something else than position ids and the mask (a bias by distance, "
            "a recurrence)"
        )
    _proven[network] = None


def require_attention_alone(network: nn.Module, what: str) -> None:
    """Raise `InterventionError` unless tokens reach one another through attention alone, so that the seam sees it all.

    With z = 0 in every head, another first token must not move what the model says of the tokens after it.
    """
    require_unobserved(network, what)
    said = []
    for first in (1, 2):
        with Session(network, [], [_Silent()]):
            said.append(output_of(network, some_tokens(network, [first, 3, 4, 5]))[:, 1:])
    gap = float((said[0] - said[1]).abs().max()) / max(1.0, float(said[0].abs().max()))
    if gap > _SAME.get(next(network.parameters()).dtype, 6e-2):
        raise InterventionError(
            f"{what} was asked of {type(network).__name__}; its tokens reach one another without attention as well "
            "(a recurrence or a convolution), which keeps the order of the documents"
        )


class _Silent:
    """Zeroes every head."""

    name = "silent"

    def attended(self, call: AttentionCall, attended: Attended) -> Attended:
        """The result with z = 0."""
        return attended if attended.z is None else replace(attended, z=torch.zeros_like(attended.z))


def require_unobserved(network: nn.Module, what: str) -> None:
    """Raise `InterventionError` where a session is open: a proof must not run behind its observers' back."""
    if hub_of(network) is not None:
        raise InterventionError(
            f"{what} was asked inside a block that observes or edits the model; it must first be proven on it: "
            "open it before the other block, or give all interventions in one list"
        )


def some_tokens(network: nn.Module, ids: list[int]) -> Tensor:
    """Token ids within the model's vocabulary, as a batch of one."""
    size = getattr(getattr(network, "config", None), "vocab_size", None) or max(ids) + 1
    return (torch.tensor(ids, device=next(network.parameters()).device) % size)[None]


def output_of(network: nn.Module, ids: Tensor, positions: Tensor | None = None) -> Tensor:
    """Logits or last states of one forward without a cache and without dropout, ``[1, token, …]``."""
    keywords = {} if positions is None else {"position_ids": positions}
    with torch.no_grad(), _evaluating(network):
        try:
            out = network(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **keywords)
        except (RuntimeError, IndexError) as error:
            if positions is None:
                raise
            raise InterventionError(
                f"{type(network).__name__} was given positions {positions[0].tolist()}; it fails there ({error}): "
                "its position_ids are bound to the order of the tokens"
            ) from error
    found = getattr(out, "logits", None)
    value: Tensor = out.last_hidden_state if found is None else found
    return value.double()


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _require_heard(network: nn.Module, what: str) -> None:
    """Raise unless position ids change what the model says, and counting from 0 is what it does by itself."""
    ids = some_tokens(network, [*_PREFIX, *_ONE, *_OTHER, *_SUFFIX])
    plain = torch.arange(ids.shape[1], device=ids.device)[None]
    own, counted = output_of(network, ids), output_of(network, ids, plain)
    apart = output_of(network, ids, plain + 3 * (plain >= 2))
    if torch.equal(counted, apart):
        raise InterventionError(
            f"{what} was asked of {type(network).__name__}; it ignores position_ids, so documents cannot be given the "
            "same positions (a bias by distance, or no positions at all)"
        )
    if not torch.allclose(own, counted, rtol=1e-3, atol=1e-3 * float(own.abs().max())):
        raise InterventionError(
            f"{what} was asked of {type(network).__name__}; its positions do not count 0, 1, 2, … from the first "
            "token, so it is not known what to give it"
        )


def _after(network: nn.Module, intervention: Any, first: list[int], second: list[int]) -> tuple[Tensor, bool]:
    """What the model says of the suffix behind two documents in this order, and whether a window cut them."""
    ids = some_tokens(network, [*_PREFIX, *first, *second, *_SUFFIX])
    flags = torch.arange(ids.shape[1])
    start, middle = len(_PREFIX), len(_PREFIX) + len(first)
    spans = {
        "one": (flags >= start) & (flags < middle),
        "other": (flags >= middle) & (flags < middle + len(second)),
    }
    with Session(network, [], [intervention]) as session:
        session.announce([spans])
        said = output_of(network, ids)[:, -len(_SUFFIX) :]
        return said, bool(session.running[0].notes)
