"""One forward of two rows: a prompt, and the same prompt without a span, both ending in the last column."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from probe.errors import InputError, InterventionError, UsageError

IMAGE = "image"


def pair_of_tokens(
    model: nn.Module, tokens: Int[Tensor, "token"], span: Bool[Tensor, "token"], asked: str
) -> dict[str, Any]:
    """Two left-padded rows for a text model; positions count each row's own tokens.

    Raises:
        InputError: the span is empty, holds the last token, or holds every token.
        InterventionError: the model takes no padding, or the tokens stand for an image that is not given.
    """
    if bool(image_tokens(model, tokens).any()):
        raise InterventionError(
            f"{asked} was asked; the prompt holds image tokens, and a prompt has no pixels: give the model's own "
            "inputs (inputs={'input_ids': …, 'pixel_values': …})"
        )
    keep = kept_tokens(span, asked)
    made: dict[str, Any] = {"input_ids": _rows(tokens, keep)}
    return {**made, **_padding(model, keep, asked)}


def pair_of_inputs(
    model: nn.Module, inputs: Mapping[str, Any], span: Bool[Tensor, "token"], asked: str
) -> dict[str, Any]:
    """Two left-padded rows of ready-made inputs; `span` is over real tokens.

    An image leaves the second row with its tokens: pixels then belong to the first row alone. Where the span is text,
    both rows have them.

    Raises:
        InputError: the span is empty, holds the last token, every token, or only a part of the image tokens.
        InterventionError: the model takes no padding, or inputs that are not one sequence.
    """
    ids, real = sequence_of(inputs, asked)
    keep = kept_tokens(span, asked)
    images = image_tokens(model, ids)
    left = int((images & keep).sum())
    if left not in (0, int(images.sum())):
        raise InputError(
            f"{asked} was asked; it takes out only some of the image tokens: take out all, or none"
        )
    made: dict[str, Any] = {}
    for name, value in inputs.items():
        if name in ("attention_mask", "position_ids"):
            continue
        if isinstance(value, Tensor) and value.shape == real.shape:
            made[name] = _rows(value[real], keep)
        elif isinstance(value, Tensor) and left:
            made[name] = torch.cat([value, value])
        else:
            made[name] = value
    return {**made, **_padding(model, keep, asked)}


def sequence_of(
    inputs: Mapping[str, Any], asked: str
) -> tuple[Int[Tensor, "token"], Bool[Tensor, "1 stored"]]:
    """The real tokens of ready-made inputs, and where they lie; raises `InterventionError` unless one sequence."""
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.shape[0] != 1:
        raise InterventionError(
            f"{asked} was asked; its inputs must hold input_ids of one sequence, [1, token]"
        )
    real = torch.ones_like(ids, dtype=torch.bool)
    if isinstance(mask, Tensor) and mask.shape == ids.shape:
        real = mask.bool()
    return ids[real], real


def image_tokens(model: nn.Module, ids: Int[Tensor, "token"]) -> Bool[Tensor, "token"]:
    """Which tokens stand for an image, by the id that the model's config declares; none where it declares none."""
    config = getattr(model, "config", None)
    for name in ("image_token_id", "image_token_index"):
        declared = getattr(config, name, None)
        if isinstance(declared, int):
            return ids == declared
    return torch.zeros_like(ids, dtype=torch.bool)


def span_of_inputs(
    model: nn.Module, inputs: Mapping[str, Any], span: str | tuple[int, int], asked: str
) -> Bool[Tensor, "token"]:
    """A span of ready-made inputs: ``image``, or ``(start, stop)`` in real tokens."""
    ids, _ = sequence_of(inputs, asked)
    if isinstance(span, tuple):
        at = torch.arange(len(ids), device=ids.device)
        return (at >= span[0]) & (at < span[1])
    if span != IMAGE:
        raise UsageError(
            f"{asked} was asked; ready-made inputs have no named spans but 'image': give (start, stop) in real tokens"
        )
    return image_tokens(model, ids)


def kept_tokens(span: Bool[Tensor, "token"], asked: str) -> Bool[Tensor, "token"]:
    """What is left without a span; raises `InputError` where it is empty, holds the last token, or every token."""
    if not bool(span.any()):
        raise InputError(
            f"{asked} was asked; its span holds no token of this prompt: there is nothing to take out"
        )
    if bool(span[-1]):
        raise InputError(
            f"{asked} was asked; its span holds the last token, where heads are compared: end it earlier"
        )
    return ~span


def _rows(values: Tensor, keep: Bool[Tensor, "token"]) -> Tensor:
    short = values[keep]
    padded = torch.cat([values.new_zeros(len(values) - len(short)), short])
    return torch.stack([values, padded])


def _padding(model: nn.Module, keep: Bool[Tensor, "token"], asked: str) -> dict[str, Tensor]:
    accepts = inspect.signature(model.forward).parameters
    if "attention_mask" not in accepts:
        raise InterventionError(
            f"{asked} was asked; {type(model).__name__} takes no padding, so prompts of two lengths cannot be "
            "compared"
        )
    mask = _rows(torch.ones_like(keep, dtype=torch.int64), keep)
    made = {"attention_mask": mask}
    if "position_ids" in accepts and not several_axes(model):
        made["position_ids"] = (mask.cumsum(-1) - 1).clamp_min(0)
    return made


def several_axes(model: nn.Module) -> bool:
    """Whether positions have axes for time, height and width: then the model makes them from its inputs."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    named = (getattr(text, name, None) or {} for name in ("rope_parameters", "rope_scaling"))
    return any("mrope_section" in one for one in named)
