"""The rules of relevance patching: a backward pass in which every module gives on as much as it was given.

Each rule leaves the forward's values as they are and changes what the backward pass takes for a constant, so that a
module's output is of degree one in its input (Euler: then ``Σ x · dM/dx`` is the same before and behind it).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from probe.circuits.norms import Norm
from probe.circuits.sites import Sites, sites_of
from probe.errors import CaptureError, UnknownNameError
from probe.models import LoadedModel
from probe.seam.points import hidden_input

Rule = Literal["ln", "identity", "half", "attention"]
RULES: tuple[Rule, ...] = get_args(Rule)

#: What a rule does, for tables and errors.
TOLD: dict[str, str] = {
    "ln": "a norm's scale is a constant",
    "identity": "an activation function is its input times a constant",
    "half": "each factor of a gated product gets half of the gradient",
    "attention": "attention patterns are constants",
}


def rules_of(names: str | Sequence[str]) -> tuple[Rule, ...]:
    """Rules by name, or from a text of them joined by ``+`` (``none``: no rule), in the order of `RULES`.

    Raises:
        UnknownNameError: no such rule.
    """
    asked = names.split("+") if isinstance(names, str) else list(names)
    if asked == ["none"]:
        return ()
    for name in asked:
        if name not in RULES:
            raise UnknownNameError.of("relevance rule", name, (*RULES, "none"))
    return tuple(rule for rule in RULES if rule in asked)


def require_rules(loaded: LoadedModel, rules: Sequence[Rule]) -> None:
    """Refuse rules that have nothing to act on in some MLPs of a model, where they would be needed.

    An MLP without a product has no half rule, and needs none.

    Raises:
        CaptureError: activation functions that are no modules, or products whose linear map is none (experts that are
            computed in one piece, or that did not all run).
    """
    sites = sites_of(loaded)
    for rule, layers in (("identity", sites.unread), ("half", sites.unmultiplied)):
        if rule in rules and layers:
            rest = "+".join(one for one in rules if one != rule) or "none"
            raise CaptureError(
                f"the {rule} rule was asked ({TOLD[rule]}); in {len(layers)} layers of {loaded.name}, from layer "
                f"{layers[0]} on, its place cannot be told (an MLP of batched experts, or one that is computed outside "
                f"of modules): leave it out, rules={rest!r}"
            )


@contextmanager
def applied(loaded: LoadedModel, rules: Sequence[Rule]) -> Iterator[None]:
    """While open, forwards of the model are made with these rules (``attention`` is the engine's, see `graph`)."""
    sites: Sites = sites_of(loaded)
    handles: list[Any] = []
    # First of all hooks: whoever reads a module's output must read the one that goes on.
    first = {"prepend": True, "with_kwargs": True}
    if "ln" in rules:
        handles += [one.module.register_forward_hook(_held(one), **first) for one in sites.norms]
    if "identity" in rules:
        handles += [one.register_forward_hook(_identity, **first) for one in sites.elementwise]
    if "half" in rules:
        handles += [one.register_forward_pre_hook(_half, prepend=True) for one in sites.products]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _held(norm: Norm) -> Callable[..., Any]:
    def hook(_module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
        given = hidden_input(args, kwargs)
        return None if given is None else norm.held(given, output)

    return hook


def _identity(_module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
    """``x · detach(f(x) / x)``; where x is 0 nothing is given on."""
    given = hidden_input(args, kwargs)
    if given is None:
        return None
    x, y = given.detach(), output.detach()
    near = x.abs() < torch.finfo(x.dtype).tiny ** 0.5
    ratio = torch.where(near, 0.0, y / torch.where(near, 1.0, x))
    return y + (given - x) * ratio


def _half(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    given = args[0]
    half = given / 2
    return (half + half.detach(), *args[1:])
