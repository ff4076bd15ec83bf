"""Composition of heads: how much of what one head writes lies where a later one's queries, keys or values read."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from probe.circuits.reporting import Told
from probe.circuits.study import CircuitOptions
from probe.circuits.tables import Effects
from probe.circuits.weights import HeadWeights, head_weights
from probe.circuits.weights_report import INNER, weights_report
from probe.errors import UsageError
from probe.models import as_loaded
from probe.report import Report
from probe.report.provenance import utc_now

BIBTEX = """@article{elhage2021mathematical,
  title={A Mathematical Framework for Transformer Circuits},
  author={Elhage, Nelson and Nanda, Neel and Olsson, Catherine and others},
  journal={Transformer Circuits Thread},
  year={2021}
}"""
KINDS = ("q", "k", "v")
_DRAWS = 32  # pairs of random heads that the baseline is the mean of


def composition(model: object, *, options: CircuitOptions | None = None, **changes: Any) -> Report:
    """How much more a head composes with earlier and later heads than random heads do; 0 is chance, 1 the most.

    ``‖W_A W_B‖_F / (‖W_A‖_F ‖W_B‖_F) - baseline``: W_A is what the earlier head's OV circuit writes, W_B the later
    head's QK circuit read from the query's side (``q``), from the key's (``k``), or its OV circuit (``v``). The
    baseline is the mean of the same number over seeded pairs of Gaussian heads of the same shape. Weights alone.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder.
        options: Only `seed` and `progress` count.
        **changes: Single options by name (``seed=1``).

    Returns:
        A report with one answer, ``composition``; its map is a head's mean over all earlier and later heads and the
        three kinds. ``extra["pairs"]`` has axes (kind, sender_layer, sender_head, receiver_layer, receiver_head), NaN
        where the sender is not in an earlier layer; ``extra["baseline"]`` has what was subtracted.

    Raises:
        UsageError: a model with fewer than two layers of attention.
        CaptureError: weights of heads cannot be told in this model.
    """
    asked, started = CircuitOptions.of(options, changes), utc_now()
    loaded = as_loaded(model)
    weights = head_weights(loaded)
    layers = sorted(weights)
    if len(layers) < 2:
        raise UsageError(
            f"composition in {loaded.name} was asked; it takes two layers of attention, found {len(layers)}"
        )
    baseline = {kind: _baseline(weights[layers[0]], kind, asked.seed) for kind in KINDS}
    grid = _grid(weights, asked) - np.array([baseline[kind] for kind in KINDS])[:, None, None, None, None]
    told = Told(
        "composition",
        "Composition of a head with earlier and later ones beyond that of random heads, mean; 0 is chance, 1 the most",
        "share", "Elhage et al. 2021 (A Mathematical Framework for Transformer Circuits)", BIBTEX,
    )  # fmt: skip
    pairs = _labelled(grid, layers)
    extra = {
        "pairs": pairs,
        "baseline": xr.DataArray(list(baseline.values()), dims="kind", coords={"kind": list(KINDS)}),
    }
    answer = told.answer(_mean_map(pairs, weights), None, extra, _strongest(pairs))
    normed = any(one.normed for one in weights.values())
    return weights_report(
        loaded, asked, answer, {"method": "composition", "draws": _DRAWS}, started, [INNER] if normed else []
    )


def written(heads: HeadWeights) -> Float[Tensor, "head d_value d_model"]:
    """What heads write, as few rows with the same products and norms as ``W_V W_O``."""
    return _triangle(heads.w_v) @ heads.w_o


def read(heads: HeadWeights, kind: str) -> Float[Tensor, "head d_model d_head"]:
    """What heads read, as few columns with the same products and norms as ``W_Q W_Kᵀ``, ``W_K W_Qᵀ`` or ``W_V W_O``."""
    if kind == "q":
        return heads.w_q @ _triangle(heads.w_k).mT
    if kind == "k":
        return heads.w_k @ _triangle(heads.w_q).mT
    return heads.w_v @ _triangle(heads.w_o.mT).mT


def _triangle(weight: Float[Tensor, "head long short"]) -> Float[Tensor, "head _ short"]:
    """R of the QR decomposition: what has the weight's norms and inner products in fewer rows."""
    made: Tensor = torch.linalg.qr(weight).R
    return made


def composed(
    senders: Float[Tensor, "sender d_value d_model"], receivers: Float[Tensor, "receiver d_model d_head"]
) -> Float[Tensor, "sender receiver"]:
    """``‖W_A W_B‖_F / (‖W_A‖_F ‖W_B‖_F)``, 0 to 1; 0 where one of them is nothing."""
    products = senders.flatten(0, 1) @ receivers.transpose(0, 1).flatten(1)
    split = products.reshape(*senders.shape[:2], receivers.shape[0], -1)
    size = split.square().sum((1, 3)).sqrt()
    norms = senders.flatten(1).norm(dim=1)[:, None] * receivers.flatten(1).norm(dim=1)
    return torch.where(norms > 0, size / norms.clamp_min(1e-30), torch.zeros_like(size))


def _grid(weights: Mapping[int, HeadWeights], asked: CircuitOptions) -> np.ndarray:
    layers, most = sorted(weights), max(one.n_heads for one in weights.values())
    grid = np.full((len(KINDS), len(layers), most, len(layers), most), np.nan)
    senders = {layer: written(weights[layer]) for layer in layers}
    for number, layer in enumerate(layers):
        asked.tell(number, len(layers), "composition of heads")
        for place, kind in enumerate(KINDS):
            receivers = read(weights[layer], kind)
            for earlier in range(number):
                found = composed(senders[layers[earlier]], receivers).cpu().double().numpy()
                grid[place, earlier, : found.shape[0], number, : found.shape[1]] = found
    asked.tell(len(layers), len(layers), "composition of heads")
    return grid


def _baseline(like: HeadWeights, kind: str, seed: int) -> float:
    """The mean over pairs of Gaussian heads of this shape."""
    drawn = torch.Generator().manual_seed(seed)

    def random() -> HeadWeights:
        w_q, w_k, w_v, w_o = (
            torch.randn(_DRAWS, *one.shape[1:], generator=drawn)
            for one in (like.w_q, like.w_k, like.w_v, like.w_o)
        )
        return HeadWeights(w_q, w_k, w_v, w_o, normed=False)

    one, other = random(), random()
    return float(composed(written(one), read(other, kind)).mean())


def _labelled(grid: np.ndarray, layers: list[int]) -> xr.DataArray:
    heads = list(range(grid.shape[2]))
    coords = {
        "kind": list(KINDS), "sender_layer": layers, "sender_head": heads, "receiver_layer": layers,
        "receiver_head": heads,
    }  # fmt: skip
    return xr.DataArray(grid, dims=tuple(coords), coords=coords)


def _mean_map(pairs: xr.DataArray, weights: Mapping[int, HeadWeights]) -> xr.DataArray:
    """Every head's mean over the pairs that it takes part in."""
    values = pairs.values
    parts = (values, np.moveaxis(values, (1, 2), (3, 4)))  # as a sender, and as a receiver
    total = sum(np.nansum(one, axis=(0, 3, 4)) for one in parts)
    count = sum(np.isfinite(one).sum(axis=(0, 3, 4)) for one in parts)
    mean = torch.tensor(total / np.maximum(count, 1))
    layers = sorted(weights)
    return Effects(
        "z", {layer: mean[n, : weights[layer].n_heads, None, None] for n, layer in enumerate(layers)}
    ).map


def _strongest(pairs: xr.DataArray, count: int = 5) -> list[str]:
    flat = np.nan_to_num(pairs.values.ravel(), nan=-np.inf)
    said = []
    for place in np.argsort(-flat)[:count]:
        kind, sender, head, receiver, other = np.unravel_index(int(place), pairs.shape)
        layers = pairs.sender_layer.values
        said.append(
            f"L{layers[sender]}.H{head} → L{layers[receiver]}.H{other} ({KINDS[kind]}, {flat[place]:+.3f})"
        )
    return [f"strongest beyond chance: {', '.join(said)}"]
