"""One metric's or experiment's answer for one tower: labelled arrays and what they mean. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import xarray as xr


@dataclass(frozen=True)
class Answer:
    """What one metric found in one tower.

    `head_map` has axes (layer, head), (layer, kv_head), (layer, expert), (layer,), or none for one number of the whole
    model; NaN where a layer has fewer heads
    (coordinate ``n_heads`` over layer says how many) and where the value is undefined. `by_prompt` adds a leading
    ``prompt`` axis.
    `token_maps` holds, per prompt, axes (layer, head, token). `extra` holds further labelled arrays by name.
    """

    spec: str  # as typed: the key of this answer in the report
    name: str
    summary: str
    unit: str
    better: Literal["high", "low"]
    paper: str
    bibtex: str
    tower: str
    head_map: xr.DataArray
    by_prompt: xr.DataArray | None = None
    token_maps: Mapping[int, xr.DataArray] = field(default_factory=dict)
    extra: Mapping[str, xr.DataArray] = field(default_factory=dict)
    # Lines the reader must see: parameters used, coverage, what was left out. Names and words of prompts are in quotes
    # (``repr``) there, so that a text-free report can leave them out.
    notes: tuple[str, ...] = ()
