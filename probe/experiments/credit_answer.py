"""From the credit that one row gives to tokens, layer by layer, to an answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float

from probe.experiments.base import told
from probe.metrics.base import MetricInfo
from probe.report.answer import Answer

_SHOWN = 5


@dataclass(frozen=True)
class Credit:
    """What a row of one prompt owes to the stream of every token before each layer."""

    name: str
    row: int
    layers: list[int]
    values: Float[np.ndarray, "layer token"]

    @property
    def tokens(self) -> Float[np.ndarray, "layer"]:
        """On how many tokens the credit rests: (Σ|c|)² / Σc²; NaN where there is none."""
        values = np.abs(self.values)
        with np.errstate(invalid="ignore", divide="ignore"):
            spread: np.ndarray = values.sum(-1) ** 2 / (values**2).sum(-1)
        return spread

    def line(self) -> str:
        """The tokens with most credit at the input, by position."""
        first = self.values[0]
        best = np.argsort(-first, kind="stable")[:_SHOWN]
        total = first.sum()
        shares = ", ".join(f"{at} ({first[at] / total:.1%})" for at in best) if total > 0 else "none"
        return f"prompt {self.name!r}, row {self.row}: most credit at the input goes to tokens {shares}"


def credit_answer(
    info: MetricInfo, spec: str, given: Sequence[Credit], notes: Sequence[str], tower: str = "decoder"
) -> Answer:
    """Head map: tokens that the credit rests on, per layer, mean over prompts; token maps: the credit itself."""
    layers = np.array(given[0].layers, dtype=np.int64)
    each = np.stack([one.tokens for one in given])
    maps = {
        number: xr.DataArray(
            one.values.astype(np.float32),
            dims=("layer", "token"),
            coords={"layer": layers, "token": np.arange(one.values.shape[1], dtype=np.int64)},
        )
        for number, one in enumerate(given)
    }
    names = np.array([one.name for one in given])
    return Answer(
        **told(spec, info, tower),
        head_map=xr.DataArray(each.mean(0), dims=("layer",), coords={"layer": layers}),
        by_prompt=xr.DataArray(each, dims=("prompt", "layer"), coords={"prompt": names, "layer": layers}),
        token_maps=maps,
        notes=(*notes, *(one.line() for one in given)),
    )
