"""The patterns by name, and a pattern from its spec."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from probe_kernels.select.anchor_stripe import anchor_stripe
from probe_kernels.select.antidiagonal import antidiagonal
from probe_kernels.select.base import Pattern
from probe_kernels.select.full import full
from probe_kernels.select.neighborhood import neighborhood
from probe_kernels.select.oracle_topk import oracle_topk
from probe_kernels.select.per_head import per_head
from probe_kernels.select.permuted_block import permuted_block
from probe_kernels.select.persistent_topk import persistent_topk
from probe_kernels.select.pooled_topk import pooled_topk
from probe_kernels.select.power_of_two import power_of_two
from probe_kernels.select.random_blocks import random_blocks
from probe_kernels.select.segment_graph import segment_graph
from probe_kernels.select.sink_recent import sink_recent
from probe_kernels.select.sliding import sliding
from probe_kernels.select.vertical_slash import vertical_slash

PATTERNS: Mapping[str, Callable[..., Pattern]] = MappingProxyType(
    {
        maker.__name__: maker
        for maker in (
            full,
            sliding,
            sink_recent,
            neighborhood,
            power_of_two,
            segment_graph,
            random_blocks,
            per_head,
            vertical_slash,
            pooled_topk,
            antidiagonal,
            anchor_stripe,
            permuted_block,
            persistent_topk,
            oracle_topk,
        )
    }
)


def make(spec: str) -> Pattern:
    """The pattern of a spec, ``NAME:k=v,…`` with lists joined by ``+``; its `name` makes it again.

    >>> make("pooled_topk:block=32,tau=0.8").name
    'pooled_topk:block=32,tau=0.8'

    Raises:
        ValueError: no such pattern or parameter, one that is missing, of the wrong kind or out of range.
    """
    name, colon, rest = spec.strip().partition(":")
    if name not in PATTERNS:
        raise ValueError(f"the pattern {name!r} was asked; there are {', '.join(sorted(PATTERNS))}")
    if name == "per_head":
        return _per_head(spec, rest)
    parameters = inspect.signature(PATTERNS[name]).parameters
    kinds = typing.get_type_hints(PATTERNS[name])
    given: dict[str, Any] = {}
    for item in rest.split(",") if colon else ():
        key, equals, text = item.partition("=")
        if not equals or key not in parameters or key in given:
            raise ValueError(
                f"{spec!r} was asked; {item!r} does not set a parameter that is still open: "
                f"give k=v for each of {', '.join(parameters)} at most once"
            )
        given[key] = _read(spec, key, text, kinds[key])
    missing = [
        one for one in parameters if one not in given and parameters[one].default is inspect.Parameter.empty
    ]
    if missing:
        raise ValueError(f"{spec!r} was asked without {', '.join(missing)}; give {missing[0]}=…")
    return PATTERNS[name](**given)


def _per_head(spec: str, rest: str) -> Pattern:
    """Heads instead of parameters, and patterns with / for a comma instead of values."""
    given = [item.partition("=") for item in rest.split(",")]
    keys = [key for key, _, _ in given]
    if not all(equals for _, equals, _ in given) or len(set(keys)) < len(keys):
        raise ValueError(
            f"{spec!r} was asked; write heads=pattern, joined by commas, each once: "
            "per_head:default=sink_recent:sinks=4/recent=64,H0+L2.H3=full"
        )
    told = {key: value for key, _, value in given}
    block = _read(spec, "block", told.pop("block", "64"), int)
    made = {key: make(value.replace("/", ",")) for key, value in told.items()}
    default = made.pop("default", None)
    return per_head(made, default, block)


def _read(spec: str, key: str, text: str, kind: Any) -> Any:
    """A parameter's text as its annotation has it: int, float, bool, or a tuple of one of them."""
    if isinstance(kind, types.UnionType):
        several = [one for one in kind.__args__ if typing.get_origin(one) is tuple]
        kind = (
            several[0]
            if several and "+" in text
            else next(one for one in kind.__args__ if one is not type(None))
        )
    if typing.get_origin(kind) is tuple:
        return tuple(_read(spec, key, one, typing.get_args(kind)[0]) for one in text.split("+"))
    if kind is str:
        return text
    if kind is bool and text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if kind in {int, float}:
        try:
            return kind(text)
        except ValueError:
            pass
    what = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, f"a {kind}")
    raise ValueError(f"{spec!r} was asked; {key} is {what}, {text!r} is not: write {key}=… as such")
