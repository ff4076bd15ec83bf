"""From attention on image tokens to a contrast map, its strongest regions, and a crop of the pixels."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probe.errors import InputError

Attention = Float[np.ndarray, "_ layer image_token"]  # the first axis is the generated steps


class Box(NamedTuple):
    """Rows ``top..bottom`` and columns ``left..right`` of the token grid, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int


def contrast(
    question: Attention, general: Attention, lam: float, t_start: int = 0
) -> Float[np.ndarray, "image_token"]:
    """``S = Σ_t w_t Σ_l A^Q / (A^G + lam)``, ``w_t = t - t_start + 1``, over the steps that both runs have; >= 0.

    Raises `InputError` where neither run reaches step `t_start`.
    """
    steps = min(len(question), len(general))
    if steps <= t_start:
        raise InputError(
            f"steps from {t_start} on were asked; the shorter of the two answers has {steps}: start earlier"
        )
    ratio = question[t_start:steps] / (general[t_start:steps] + lam)
    weight = np.arange(1, steps - t_start + 1, dtype=np.float64)
    fused: np.ndarray = np.einsum("t,tln->n", weight, ratio)
    return fused


def strongest(
    scores: Float[np.ndarray, "high wide"], top: float, components: int | None
) -> Bool[np.ndarray, "high wide"]:
    """The regions of the largest scores: True in the chosen components of the top fraction of tokens.

    Of the ``ceil(top · tokens)`` largest (of equals the first), tokens that share a side form a component; components
    are ranked by their summed score, and `components` of them stay (None: ``max(3, ⌊0.2 n⌋)`` of n).
    """
    count = math.ceil(top * scores.size)
    best = np.argsort(-scores, axis=None, kind="stable")[:count]
    kept = np.zeros(scores.size, dtype=bool)
    kept[best] = True
    labels = components_of(kept.reshape(scores.shape))
    numbers = np.unique(labels[labels >= 0])
    sums = np.array([scores[labels == number].sum() for number in numbers])
    stay = max(3, int(0.2 * len(numbers))) if components is None else components
    chosen = numbers[np.argsort(-sums, kind="stable")[:stay]]
    mask: np.ndarray = np.isin(labels, chosen)
    return mask


def components_of(kept: Bool[np.ndarray, "high wide"]) -> np.ndarray:
    """A number for every component of tokens that share a side, int ``[high, wide]``; -1 where not kept."""
    labels = np.where(kept, np.arange(kept.size).reshape(kept.shape), -1)
    while True:
        around = np.pad(labels, 1, constant_values=-1)
        sides = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
        spread = np.where(kept, np.maximum.reduce([labels, *sides]), -1)
        if np.array_equal(spread, labels):
            return labels
        labels = spread


def box_of(mask: Bool[np.ndarray, "high wide"]) -> Box:
    """The smallest box that holds every chosen token."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return Box(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)


def refined_pixels(
    pixels: Float[Tensor, "1 channel high wide"], mask: Bool[np.ndarray, "rows columns"]
) -> Float[Tensor, "1 channel high wide"]:
    """The image masked, cropped to the mask's box, and resized to its old size (bilinear, antialiased).

    Masked pixels are 0, which is the mean colour where pixels are normalised.
    """
    high, wide = pixels.shape[-2:]
    grid = torch.from_numpy(mask.astype(np.float32))[None, None].to(pixels)
    shown = torch.nn.functional.interpolate(grid, size=(high, wide), mode="nearest")
    box = box_of(mask)
    rows, columns = mask.shape
    cut_rows = slice(box.top * high // rows, math.ceil(box.bottom * high / rows))
    cut_columns = slice(box.left * wide // columns, math.ceil(box.right * wide / columns))
    cropped = (pixels * shown)[..., cut_rows, cut_columns]
    return torch.nn.functional.interpolate(cropped, size=(high, wide), mode="bilinear", antialias=True)
