"""A prefill and cached decode steps, and whether their statistics add up to those of one whole forward."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from subjects.measure import STATISTICS, Row, Tally
from subjects.subject import Inputs
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from probe.seam.session import Session


def continued(model: nn.Module, inputs: Inputs, cut: int, mode: str | None, tally: Tally) -> Tensor:
    """Logits of the last tokens when the first `cut` are prefilled and the others follow one by one, cached."""
    with Session(model, [tally], mode=mode) if mode else nullcontext():  # type: ignore[arg-type]
        return continued_steps(model, inputs, cut)


def continued_steps(model: nn.Module, inputs: Inputs, cut: int) -> Tensor:
    """The same, in whatever session is open."""
    key = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
    tokens, logits = inputs[key], []
    with torch.no_grad():
        given = {**inputs, key: tokens[:, :cut], "use_cache": True}
        grows = [
            name
            for name in ("attention_mask", "mm_token_type_ids", "token_type_ids", "cross_attention_mask")
            if key == "input_ids"
        ]
        given.update({name: inputs[name][:, :cut] for name in grows if name in inputs})
        output = model(**given)
        for end in range(cut + 1, tokens.shape[1] + 1):
            step = {
                key: tokens[:, end - 1 : end],
                "past_key_values": output.past_key_values,
                "use_cache": True,
            }
            if key == "decoder_input_ids":
                step["encoder_outputs"] = BaseModelOutput(output.encoder_last_hidden_state)
            if "attention_mask" in inputs and not bool(inputs["attention_mask"].all()):
                whole = key == "decoder_input_ids"
                step["attention_mask"] = (
                    inputs["attention_mask"] if whole else inputs["attention_mask"][:, :end]
                )
            output = model(**step)
            logits.append(output.logits)
    return torch.cat(logits, dim=1)


def joined(rows: Sequence[Row]) -> dict[tuple[str, int], dict[str, Tensor]]:
    """Statistics of a prefill and its decode steps put together, per module and call: rows laid by query position,
    columns added at key positions."""
    whole: dict[tuple[str, int], dict[str, Tensor]] = {}
    for key, group in _calls(rows).items():
        batch, heads = group[0].values["entropy"].shape[:2]
        keys = max(int(row.key_pos.max()) for row in group) + 1
        length = max(int(row.query_pos.max()) for row in group) + 1
        place = whole.setdefault(
            key, {name: torch.zeros(batch, heads, length).double() for name in STATISTICS[:-1]}
        )
        place["column"] = torch.zeros(batch, heads, keys).double()
        for row in group:
            at = row.query_pos.expand(batch, -1)[:, None].expand(-1, heads, -1)
            for name in STATISTICS[:-1]:
                real = row.values[name].masked_fill(~row.query_real[:, None], 0.0)
                place[name].scatter_(2, at, real)
            at = row.key_pos.expand(batch, -1)[:, None].expand(-1, heads, -1)
            place["column"].scatter_add_(2, at, row.values["column"])
    return whole


def _calls(rows: Sequence[Row]) -> dict[tuple[str, int], list[Row]]:
    """Rows grouped by module and by how often the module was called in one forward."""
    groups: dict[tuple[str, int], list[Row]] = {}
    counts: dict[tuple[str, int], int] = {}
    for row in rows:
        start = int(row.query_pos.min())
        nth = counts[(row.module, start)] = counts.get((row.module, start), -1) + 1
        groups.setdefault((row.module, nth), []).append(row)
    return groups


def together_error(parts: Sequence[Row], whole: Sequence[Row]) -> float:
    """Largest |accumulated - whole| / (1 + |whole|) between a cached run and one whole forward."""
    ours, theirs, worst = joined(parts), joined(whole), 0.0
    if ours.keys() != theirs.keys():
        raise ValueError(f"the cached run saw {sorted(ours)}, the whole forward {sorted(theirs)}")
    for key, truth in theirs.items():
        for name, value in truth.items():
            mine = ours[key][name]
            if mine.shape != value.shape:
                raise ValueError(f"{key}: {name} is {tuple(mine.shape)}, not {tuple(value.shape)}")
            error = (mine - value).abs() / (1 + value.abs())
            worst = max(worst, float("nan") if error.isnan().any() else float(error.max()))
    return worst
