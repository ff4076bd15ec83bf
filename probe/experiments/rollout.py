"""Attention rollout: what a row owes to each input token if attention alone carried information."""

from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from probe.errors import UsageError
from probe.experiments.base import Ask, told
from probe.experiments.credit_answer import Credit, credit_answer
from probe.experiments.explained import Layer, blocks_of, cannot_recompute, read_layers, row_chain
from probe.experiments.seen_rows import cannot_read
from probe.metrics.base import MetricInfo
from probe.metrics.making import at_least
from probe.metrics.papers import ABNAR_2020
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.report.answer import Answer


class Rollout:
    """Number of tokens on which a row's credit rests, 1 or more, at the input of every layer.

    ``Â_l = rownorm(mean_h A_l + I)``; the credit of tokens before layer l is the row of ``Â_L … Â_l`` that belongs to
    the answering token, a distribution; the number is ``1 / Σ c²``. Token map: the credit itself, its first layer
    that of the input tokens. The row is a chain of vector-matrix products, each computed again from q and k by blocks
    of rows, so no n×n map is made.

    Abnar & Zuidema 2020, Quantifying Attention Flow in Transformers (arXiv:2005.00928).

    Args:
        row: the answering token; negative counts from the end. Encoders with a CLS token: 0.
        tokens: the shipped text is cut to so many tokens.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="rollout",
        summary="Tokens on which a row's rolled-out attention rests, 1 or more, at each layer's input.",
        unit="tokens",
        better="high",
        paper="Abnar & Zuidema 2020",
        bibtex=ABNAR_2020,
        axis="layer",
    )

    def __init__(self, row: int = -1, tokens: int = 512) -> None:
        self.spec = self.info.name
        at_least(self.spec, "tokens", tokens, 1)
        self.row, self.tokens = row, tokens

    def run(self, ask: Ask) -> list[Answer]:
        """One forward and one recomputation per prompt; raises `UsageError` for a row that a prompt does not have."""
        reason = cannot_read(ask.model) or cannot_recompute(ask.model)
        if reason:
            return [nothing(self.info, self.spec, ask.model, reason)]
        prompts = ask.texts(self.tokens)
        found, tower = [], "decoder"
        for number, prompt in enumerate(prompts):
            ask.tell(number, len(prompts), f"{self.spec}: {prompt.id}")
            row = row_of(self.spec, self.row, prompt)
            layers = read_layers(ask.model, prompt)
            values = row_chain(layers, row, step)
            found.append(Credit(prompt.id, row, [one.number for one in layers], values.numpy()))
            tower = layers[0].tower
        ask.tell(len(prompts), len(prompts), self.spec)
        return [credit_answer(self.info, self.spec, found, (f"row {self.row} of each prompt",), tower)]


def step(layer: Layer, credit: Float[Tensor, "token"]) -> Float[Tensor, "token"]:
    """Credit · rownorm(mean_h A + I)."""
    out = torch.zeros_like(credit)
    for rows in blocks_of(credit):
        mean = layer.rows(rows).double().mean(0).cpu()
        share = credit[rows] / (mean.sum(-1) + 1)
        out += share @ mean
        out[rows] += share
    return out


def row_of(spec: str, row: int, prompt: Prompt) -> int:
    """The index of the answering row; raises `UsageError` where the prompt has no such token."""
    at = row if row >= 0 else len(prompt) + row
    if not 0 <= at < len(prompt):
        raise UsageError(
            f"{spec}: row was {row}; prompt {prompt.id!r} has {len(prompt)} tokens: allowed is "
            f"{-len(prompt)} to {len(prompt) - 1}"
        )
    return at


def nothing(info: MetricInfo, spec: str, model: LoadedModel, reason: str) -> Answer:
    """NaN for every layer that the configuration states, and why."""
    config: Any = getattr(model.model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    layers = np.arange(int(getattr(text, "num_hidden_layers", 0) or 0), dtype=np.int64)
    return Answer(
        **told(spec, info),
        head_map=xr.DataArray(np.full(len(layers), np.nan), dims=("layer",), coords={"layer": layers}),
        notes=(f"not applicable: {reason}",),
    )
