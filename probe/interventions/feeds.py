"""Runs of other texts that an intervention learns from: what is fed to the model, and how it is fed."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probe.errors import InputError, UsageError
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.seam.hub import hub_of
from probe.seam.session import Session

_WIDTH = 8  # sequences per forward


@dataclass(frozen=True)
class Feed:
    """The inputs of one forward; `lengths` are the tokens of its sequences (0 where nobody knows).

    `start_only`: a decoder was given its start token alone, for the user gave text for the encoder.
    """

    inputs: Mapping[str, Any]
    lengths: tuple[int, ...]
    start_only: bool = False


def feeds_of(
    given: object, loaded: LoadedModel, what: str, *, width: int = _WIDTH, exactly: int | None = None
) -> list[Feed]:
    """Forwards for texts, prompts, token tensors or ready-made inputs, in order; no forward holds padding of ours.

    Args:
        given: A list of str, `Prompt`, int tensors (one sequence, or one per row) and mappings of model inputs.
        loaded: The model that will read them.
        what: How errors call the list.
        width: Sequences of equal length that share a forward, at most.
        exactly: Cut every sequence to this many tokens; shorter ones are refused.

    Raises:
        UsageError: not such a list, or text for a model without a tokenizer.
        InputError: a sequence that is too short, or longer than the model has positions.
    """
    if isinstance(given, str | Prompt | Mapping | Tensor) or not isinstance(given, Sequence) or not given:
        raise UsageError(
            f"{what} was {type(given).__name__}; give a list of texts, Prompts, token tensors or model inputs"
        )
    feeds: list[Feed] = []
    rows: list[list[int]] = []
    for number, one in enumerate(given):
        if isinstance(one, Mapping):
            feeds += _joined(rows, loaded, width)
            rows = []
            feeds.append(_ready(one, loaded))
            continue
        rows += [_fitting(ids, loaded, f"{what}[{number}]", exactly) for ids in _ids(one, loaded, what)]
    return feeds + _joined(rows, loaded, width)


def run_feeds(loaded: LoadedModel, feeds: Sequence[Feed], session: Session, what: str) -> None:
    """Run every feed under a session, without gradients and in evaluation mode.

    Raises:
        UsageError: the model is observed or edited already, so that others would see these runs, or change them.
    """
    if hub_of(loaded.model) is not None:
        raise UsageError(
            f"{what} must run {loaded.name} on other texts, and the model is being observed or edited already: make "
            "it the outermost block, or call its prepare(model) before"
        )
    accepts = inspect.signature(loaded.model.forward).parameters
    frugal = {"logits_to_keep": 1, "use_cache": False}
    more = {name: value for name, value in frugal.items() if name in accepts}
    # What is learned may be used where gradients are wanted, wherever it was learned.
    with _evaluating(loaded.model), torch.inference_mode(False), torch.no_grad(), session:
        for feed in feeds:
            loaded.model(**{**more, **feed.inputs})


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _ids(one: object, loaded: LoadedModel, what: str) -> list[list[int]]:
    if isinstance(one, str):
        if loaded.tokenizer is None:
            raise UsageError(
                f"{what} holds text; {loaded.name} has no tokenizer: give token tensors or model inputs"
            )
        one = Prompt.of(one, loaded.tokenizer)
    if isinstance(one, Prompt):
        return [list(one.tokens)]
    if isinstance(one, Tensor) and one.ndim in (1, 2) and not one.is_floating_point() and one.numel():
        rows: list[list[int]] = (one if one.ndim == 2 else one[None]).tolist()
        return rows
    raise UsageError(
        f"{what} holds {type(one).__name__}; give texts, Prompts, int tensors [token] or [batch, token], or mappings "
        "of model inputs"
    )


def _fitting(ids: list[int], loaded: LoadedModel, what: str, exactly: int | None) -> list[int]:
    if exactly is not None:
        if len(ids) < exactly:
            raise InputError(f"{what} has {len(ids)} tokens; exactly {exactly} are needed: give a longer one")
        ids = ids[:exactly]
    limit = loaded.max_positions
    if limit is not None and len(ids) > limit:
        raise InputError(f"{what} has {len(ids)} tokens; {loaded.name} has {limit} positions: cut it")
    return ids


def _joined(rows: Sequence[list[int]], loaded: LoadedModel, width: int) -> list[Feed]:
    """Neighbours of equal length share a forward, so that nothing is ever padded."""
    groups: list[list[list[int]]] = []
    for ids in rows:
        if not groups or len(groups[-1]) >= width or len(groups[-1][0]) != len(ids):
            groups.append([])
        groups[-1].append(ids)
    return [_of_ids(torch.tensor(group), loaded) for group in groups]


def _of_ids(ids: Tensor, loaded: LoadedModel) -> Feed:
    ids = ids.to(_device(loaded))
    accepts = inspect.signature(loaded.model.forward).parameters
    inputs: dict[str, Any] = {"input_ids": ids}
    if "attention_mask" in accepts:
        inputs["attention_mask"] = torch.ones_like(ids)
    if "decoder_input_ids" in accepts:
        inputs["decoder_input_ids"] = torch.full_like(ids[:, :1], _decoder_start(loaded))
    return Feed(inputs, (int(ids.shape[1]),) * int(ids.shape[0]), "decoder_input_ids" in inputs)


def _ready(given: Mapping[str, Any], loaded: LoadedModel) -> Feed:
    device = _device(loaded)
    inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in given.items()}
    first = next((v for v in inputs.values() if isinstance(v, Tensor) and v.ndim > 1), None)
    if first is None:
        raise UsageError(f"model inputs of {sorted(given)} were given; none is a tensor with a batch axis")
    n, ids, mask = int(first.shape[0]), inputs.get("input_ids"), inputs.get("attention_mask")
    if not isinstance(ids, Tensor):
        return Feed(inputs, (0,) * n)
    if isinstance(mask, Tensor) and mask.shape == ids.shape:
        return Feed(inputs, tuple(int(row) for row in mask.bool().sum(1)))
    return Feed(inputs, (int(ids.shape[1]),) * n)


def _device(loaded: LoadedModel) -> torch.device:
    try:
        weight = getattr(getattr(loaded.model, "get_input_embeddings", lambda: None)(), "weight", None)
    except NotImplementedError:  # a model of two towers has no one embedding
        return loaded.device
    return weight.device if isinstance(weight, Tensor) else loaded.device


def _decoder_start(loaded: LoadedModel) -> int:
    for source in (getattr(loaded.model, "generation_config", None), getattr(loaded.model, "config", None)):
        for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
            value = getattr(source, name, None)
            if isinstance(value, int):
                return value
    raise InputError(
        f"text was given to {loaded.name}, whose decoder has no start token: give mappings with decoder_input_ids"
    )
