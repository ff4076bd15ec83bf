"""Successor heads: whose OV circuit turns an item of an ordinal list into the one that comes next."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from probe.circuits.anatomy import anatomy_of
from probe.circuits.ov import ov_logits
from probe.circuits.reporting import Told
from probe.circuits.study import CircuitOptions
from probe.circuits.tables import Effects
from probe.circuits.token_states import states_of, token_states
from probe.circuits.weights import head_weights
from probe.circuits.weights_report import weights_report
from probe.errors import InputError, UsageError
from probe.models import as_loaded
from probe.prompts.data import rows
from probe.prompts.pairs.answers import following
from probe.prompts.pairs.successor import ordinals
from probe.report import Report
from probe.report.provenance import utc_now

BIBTEX = """@inproceedings{gould2024successor,
  title={Successor Heads: Recurring, Interpretable Attention Heads In The Wild},
  author={Gould, Rhys and Ong, Euan and Ogden, George and Conmy, Arthur},
  booktitle={International Conference on Learning Representations},
  year={2024}
}"""


def successor_heads(
    model: object,
    *,
    lists: Sequence[Sequence[str]] | None = None,
    states: str = "stream",
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """Share of the items of ordinal lists whose successor a head's OV circuit puts first within their list, 0 to 1.

    ``argmax_{w in list} (W_U W_O W_V e_t)_w = successor of t``, mean over the items that have one. ``e_t`` is the token
    by itself behind the first block's MLP, that block's attention left out; heads of the first block read the
    embedding. Weights alone: no prompt is run. Chance is one over the length of a list.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder with a tokenizer.
        lists: Items in order; default: the shipped ones (numbers, days, letters, …). Only items that are one token
            behind a comma are used; of the shipped lists, the longest run of them.
        states: ``stream`` (embedding and MLP) or ``mlp`` (what the first MLP adds alone).
        options: Only `progress` counts.
        **changes: Single options by name.

    Returns:
        A report with one answer, ``successor_heads``; its map is per head. ``extra["by_list"]`` has every list apart.

    Raises:
        UsageError: an unknown way to take states, or a model without a tokenizer.
        InputError: no list has three items that this tokenizer keeps whole.
        CaptureError: weights of heads cannot be told in this model.
    """
    asked, started = CircuitOptions.of(options, changes), utc_now()
    taken = states_of(states)
    loaded = as_loaded(model)
    found, notes = read_lists(loaded.tokenizer, lists)
    anatomy, weights = anatomy_of(loaded), head_weights(loaded)
    tokens = [torch.tensor(one.tokens, device=loaded.device) for one in found]
    read = [token_states(loaded, ids, taken) for ids in tokens]
    scores: dict[int, Tensor] = {}
    for number, (layer, heads) in enumerate(weights.items()):
        asked.tell(number, len(weights), "successor heads")
        hits = [
            _hits(ov_logits(anatomy, heads, state.of(layer), ids), one.cyclic)
            for one, ids, state in zip(found, tokens, read, strict=True)
        ]
        scores[layer] = torch.stack([torch.cat(hits, 1).mean(1), *(one.mean(1) for one in hits)]).cpu()
    asked.tell(len(weights), len(weights), "successor heads")
    told = Told(
        "successor_heads" if states == "stream" else f"successor_heads:states={states}",
        "Share of items of ordinal lists whose successor a head's OV circuit puts first within the list, 0 to 1",
        "share", "Gould et al. 2024 (arXiv:2312.09230)", BIBTEX,
    )  # fmt: skip
    answer = told.answer(*_maps(scores, [one.kind for one in found]), notes=notes)
    settings = {"method": "successor_heads", "states": states, "lists": [one.kind for one in found]}
    return weights_report(loaded, asked, answer, settings, started)


@dataclass(frozen=True)
class Items:
    """Items of an ordinal list as tokens; behind the last a cyclic list starts again."""

    kind: str
    tokens: tuple[int, ...]
    cyclic: bool


def read_lists(tokenizer: Any, lists: Sequence[Sequence[str]] | None) -> tuple[list[Items], list[str]]:
    """The lists as this tokenizer keeps them whole, and lines that name what it does not."""
    if tokenizer is None:
        raise UsageError("ordinal lists were asked; the model has no tokenizer: give (model, tokenizer)")
    if lists is None:
        given = [(row["kind"], row["items"], row["between"]) for row in rows("ordinals.jsonl")]
        kept = {one.kind: (one.items, one.cyclic) for one in ordinals(tokenizer)}
    else:
        given = [(f"list {number}", list(items), ", ") for number, items in enumerate(lists)]
        kept = {kind: (_run(items, between, tokenizer), False) for kind, items, between in given}
    found, notes = [], []
    for kind, items, between in given:
        whole, cyclic = kept.get(kind, ((), False))
        left = [item for item in items if item not in whole]
        if left:
            notes.append(
                f"{kind}: {', '.join(map(repr, left))} left out (not one token, or not in a row with the others)"
            )
        tokens = tuple(_token(items[0], between, item, tokenizer)[0] for item in whole)
        if len(set(tokens)) >= 3:
            found.append(Items(kind, tokens, cyclic))
    if not found:
        raise InputError(
            "successor heads were asked; this tokenizer keeps no three items of a list whole in a row: give other lists"
        )
    return found, notes


def _run(items: Sequence[str], between: str, tokenizer: Any) -> tuple[str, ...]:
    """The longest run of items that are one token each: those behind a gap are no successors of those before it."""
    whole = [(item, bool(_token(items[0], between, item, tokenizer))) for item in items]
    runs = [tuple(item for item, _ in run) for kept, run in groupby(whole, key=lambda one: one[1]) if kept]
    return max(runs, key=len, default=())


def _token(first: str, between: str, item: str, tokenizer: Any) -> tuple[int, ...]:
    """The token that an item is behind a comma; empty where it is none or several."""
    ids = following(f"List: {first},", between[1:] + item, tokenizer)
    return ids if len(ids) == 1 and ids[0] != getattr(tokenizer, "unk_token_id", None) else ()


def _hits(logits: Float[Tensor, "head item item"], cyclic: bool) -> Float[Tensor, "head asked"]:
    """1 where the successor comes first; a head that tells no item from another hits nothing."""
    count = logits.shape[1]
    asked = torch.arange(count if cyclic else count - 1, device=logits.device)
    best = logits[:, asked].argmax(-1)
    tells = logits[:, asked].amax(-1) > logits[:, asked].amin(-1)
    return ((best == (asked + 1) % count) & tells).float()


def _maps(
    scores: dict[int, Tensor], kinds: Sequence[str]
) -> tuple[xr.DataArray, None, dict[str, xr.DataArray]]:
    whole = Effects("z", {layer: one[0][:, None, None] for layer, one in scores.items()}).map
    lists = {layer: one[1:].T[..., None] for layer, one in scores.items()}
    each = Effects("z", lists, {"position": kinds}).extra["by_position"]
    return whole, None, {"by_list": each.rename(position="list")}
