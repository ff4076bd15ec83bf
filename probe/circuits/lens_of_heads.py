"""The logit lens per head: which tokens each head's own write promotes and suppresses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.lens import Lens
from probe.circuits.measures import flags
from probe.circuits.reporting import Told, make_report
from probe.circuits.study import CircuitOptions, Pairs, Study, study
from probe.circuits.tables import Effects
from probe.errors import CaptureError, UsageError
from probe.prompts.tokens import strings
from probe.report import Report

BIBTEX = """@misc{nostalgebraist2020lens,
  title={interpreting GPT: the logit lens},
  author={nostalgebraist},
  year={2020},
  howpublished={LessWrong}
}"""
_MOST_LOGITS = 2**25  # at a time


def head_lens(
    model: object,
    pairs: Pairs = "ioi",
    *,
    top: int = 10,
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """The rank of the right answer among the tokens that a head's own write promotes: 1 to the vocabulary's size.

    ``logits_h = W_U · norm(w_h)``: w_h is what head h writes to the last position's stream on a clean prompt; the final
    norm's scale is held at the value it has there. Of several right tokens the most promoted one counts; ties share
    their mean rank, so that a head that writes nothing is in the middle.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder.
        pairs: A task (``probe.prompts.pairs.PAIR_TASKS``), or pairs; the clean prompts are looked at.
        top: How many promoted and suppressed tokens of each head are named.
        options: How to look; see `CircuitOptions`.
        **changes: Single options by name (``count=32``).

    Returns:
        A report with one answer, ``head_lens``; its map is the median over pairs. ``extra`` has ``right`` (what the
        head adds to the right tokens' mean logit beyond the vocabulary's mean), and, by what it adds on average over
        pairs, ``promoted`` and ``suppressed`` (tokens) with ``promoted_logit`` and ``suppressed_logit``, all per head.

    Raises:
        UsageError: fewer than one token asked, or a model that does not solve the task.
        InputError: pairs that do not fit the model.
        CaptureError: a model in which what a head adds cannot be told.
    """
    asked = CircuitOptions.of(options, changes)
    if top < 1:
        raise UsageError(f"the top {top} tokens were asked; ask for at least 1")
    with study(model, pairs, asked) as case:
        looks = _looks(case, top)
        if not looks:
            raise CaptureError(
                f"heads of {case.loaded.name} were asked; no layer of it has attention of the seam"
            )
        ranks = Effects("z", {layer: one.rank[:, None] for layer, one in looks.items()})
        rank_map = ranks.map.copy(data=ranks.by_prompt.median("prompt").values)
        told = Told(
            "head_lens" if top == 10 else f"head_lens:top={top}",
            "Rank of the right answer among the tokens that a head's write promotes: 1 (most) to the vocabulary's size",
            "rank", "nostalgebraist 2020 (the logit lens), per head", BIBTEX, "low",
        )  # fmt: skip
        answer = told.answer(rank_map, ranks.by_prompt, _extra(case, looks), _notes(case))
        return make_report(case, [answer], {"method": "head_lens", "top": top})


@dataclass
class _Look:
    """What was seen of one layer."""

    rank: Float[Tensor, "head pair"]
    right: Float[Tensor, "head pair"]
    tokens: dict[str, Tensor] = field(default_factory=dict)  # [head, place], by promoted or suppressed
    values: dict[str, Tensor] = field(default_factory=dict)


def _looks(case: Study, top: int) -> dict[int, _Look]:
    anatomy = case.engine.taps.anatomy
    layers = [block.place.layer for block in anatomy.blocks if block.attention is not None]
    writes: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    lenses = []
    for batch in case.batches:
        trace = case.engine.record(batch, "clean", ["resid_post", "z"])
        lenses.append(Lens.of(anatomy, trace.value("resid_post", anatomy.blocks[-1].place.layer)[:, 0, -1]))
        for layer in layers:
            writes[layer].append(trace.head_writes(layer, slice(-1, None))[0][:, :, 0])
    found = {}
    for number, layer in enumerate(layers):
        case.options.tell(number, len(layers), "logit lens per head")
        found[layer] = _layer(case, writes[layer], lenses, top)
    case.options.tell(len(layers), len(layers), "logit lens per head")
    return found


def _layer(case: Study, writes: Sequence[Tensor], lenses: Sequence[Lens], top: int) -> _Look:
    """One layer, a few heads at a time."""
    vocab = int(case.logits[case.batches[0], "clean"].shape[-1])
    size = max(1, _MOST_LOGITS // (vocab * max(len(batch) for batch in case.batches)))
    parts = []
    for start in range(0, writes[0].shape[1], size):
        few: Tensor | float = 0.0
        ranks, rights = [], []
        for batch, own, lens in zip(case.batches, writes, lenses, strict=True):
            logits = lens.logits(own[:, start : start + size])
            few = few + logits.sum(0)
            rank, right = _right(batch, logits)
            ranks.append(rank)
            rights.append(right)
        mean = torch.as_tensor(few) / len(case.pairs)
        look = _Look(case.joined(ranks), case.joined(rights))
        for name, sign in (("promoted", 1), ("suppressed", -1)):
            values, look.tokens[name] = (sign * mean).topk(min(top, vocab), dim=-1)
            look.values[name] = sign * values
        parts.append(look)
    return _Look(
        torch.cat([one.rank for one in parts]),
        torch.cat([one.right for one in parts]),
        {name: torch.cat([one.tokens[name] for one in parts]).cpu() for name in parts[0].tokens},
        {name: torch.cat([one.values[name] for one in parts]).cpu() for name in parts[0].values},
    )


def _right(batch: Batch, logits: Float[Tensor, "pair head vocab"]) -> tuple[Tensor, Tensor]:
    """The rank of the best right token, and the right tokens' mean logit beyond the vocabulary's: ``[head, pair]``."""
    right = flags(batch, logits, "right")[:, None]
    best = logits.masked_fill(~right, float("-inf")).amax(-1, keepdim=True)
    above, level = (logits > best).sum(-1), (logits == best).sum(-1)
    rank = 1 + above.double() + (level.double() - 1) / 2
    mean = (logits * right).sum(-1) / right.sum(-1) - logits.mean(-1)
    return rank.T.cpu(), mean.T.double().cpu()


def _extra(case: Study, looks: dict[int, _Look]) -> dict[str, xr.DataArray]:
    rights = Effects("z", {layer: one.right[:, None] for layer, one in looks.items()})
    made = {"right": rights.map}
    for name in ("promoted", "suppressed"):
        made[name] = _by_place(rights.map, list(_named(case, looks, name)), "")
        values = [looks[layer].values[name].double().numpy() for layer in sorted(looks)]
        made[f"{name}_logit"] = _by_place(rights.map, values, np.nan)
    return made


def _named(case: Study, looks: dict[int, _Look], name: str) -> Iterator[np.ndarray]:
    for layer in sorted(looks):
        ids = looks[layer].tokens[name]
        flat = tuple(int(token) for token in ids.flatten())
        tokenizer = case.loaded.tokenizer
        said = tuple(map(str, flat)) if tokenizer is None else strings(flat, tokenizer)
        yield np.array(said).reshape(ids.shape)


def _by_place(like: xr.DataArray, rows: Sequence[np.ndarray], filler: str | float) -> xr.DataArray:
    """Rows ``[head, place]`` by layer as one array, with the labels of `like`."""
    width = int(like.sizes["head"])
    padded = [np.concatenate([one, np.full((width - len(one), one.shape[1]), filler)]) for one in rows]
    places = list(range(1, rows[0].shape[1] + 1))
    return xr.DataArray(
        np.stack(padded), dims=("layer", "head", "place"), coords={**like.coords, "place": places}
    )


def _notes(case: Study) -> list[str]:
    if case.engine.taps.anatomy.scale is None:
        return ["the model caps its logits; what heads add is told before the cap"]
    return []
