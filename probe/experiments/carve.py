"""CARVE: where a question makes the model look, against a general instruction; then it looks again, only there."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from probe_kernels import pattern_block
from probe_kernels.types import Attended, Want
from torch import Tensor, nn

from probe.errors import InputError, InterventionError, UnknownNameError, UsageError
from probe.experiments.carve_map import contrast, refined_pixels, strongest
from probe.interventions.paired_rows import image_tokens, sequence_of
from probe.models import as_loaded
from probe.seam.call import AttentionCall
from probe.seam.places import places
from probe.seam.session import Session

GENERAL_INSTRUCTION = "Write a general description of the image."

Refine = Callable[[Bool[np.ndarray, "high wide"]], Mapping[str, Any]]


@dataclass(frozen=True)
class Carved:
    """What CARVE found."""

    contrast: Float[np.ndarray, "high wide"]  # fused ratio of attention, >= 0, per image token
    mask: Bool[np.ndarray, "high wide"]  # the tokens that were kept
    answer: tuple[int, ...]  # generated token ids, on the whole image
    refined_answer: tuple[int, ...]  # on the refined image
    refined_inputs: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Carve:
    """Contrastive attention refinement of visual input, and its parameters.

    The same image is shown twice, with the task's question Q and with a general instruction G (the paper's is
    `GENERAL_INSTRUCTION`). Per layer and generated step, the last row's attention on the image tokens is averaged over
    heads; ``S = Σ_t w_t Σ_l A^Q / (A^G + lam)``, ``w_t = t - t_start + 1``. The `top` fraction of the token grid is cut
    into connected components, the strongest stay, the image is masked, cropped and resized, and Q is asked again.

    Ge et al. 2025, Focusing by Contrastive Attention: Enhancing VLMs' Visual Reasoning (arXiv:2509.06461). Defaults are
    those of their code. Deviations: regions are chosen on the token grid, not on pixels; masked pixels get 0, the mean
    colour of normalised pixels; the second answer sees the refined image alone, where their code gives both. As in the
    paper, A^G is not clipped: with a `lam` this small, tokens that G hardly looks at dominate; raise it where S is one
    bright spot.

    Raises `UsageError` for parameters out of range.
    """

    layers: tuple[int, ...] = (20, 21, 22, 23, 24, 25)
    lam: float = 1e-8
    top: float = 0.2
    components: int | None = None  # None: max(3, a fifth of them)
    new_tokens: int = 32
    t_start: int = 0
    grid: tuple[int, int] | None = (
        None  # image tokens as (high, wide); None: read from the inputs, else a square
    )

    def __post_init__(self) -> None:
        wrong = {
            "layers": not self.layers,
            "lam": not (self.lam > 0 and math.isfinite(self.lam)),
            "top": not 0 < self.top <= 1,
            "components": self.components is not None and self.components < 1,
            "new_tokens": self.new_tokens < 1,
            "t_start": not 0 <= self.t_start < self.new_tokens,
        }
        for name in (name for name, bad in wrong.items() if bad):
            raise UsageError(f"Carve was asked with {name}={getattr(self, name)!r}, which is out of range")

    def run(
        self,
        model: object,
        question: Mapping[str, Any],
        general: Mapping[str, Any],
        *,
        refine: Refine | None = None,
    ) -> Carved:
        """Ask twice, contrast, and ask again on the refined image.

        Args:
            model: A Hugging Face model that generates text from an image, ``(model, processor)``, or a `LoadedModel`.
            question: The model's inputs for the task's question: ``input_ids``, ``pixel_values``, ….
            general: The inputs for the general instruction, on the same image.
            refine: Makes the question's inputs anew from the mask, with the caller's own image processor; needed where
                ``pixel_values`` are not ``[1, channel, high, wide]``.

        Raises:
            UnknownNameError: a layer that the model does not have.
            InterventionError: a model without image tokens, or that does not generate.
            InputError: inputs that are not one sequence with one image, or images of different sizes.
        """
        loaded = as_loaded(model)
        network = loaded.model
        self._require(network)
        asked = [{k: _there(v, loaded.device) for k, v in one.items()} for one in (question, general)]
        spans = [_image_span(network, one) for one in asked]
        if int(spans[0].sum()) != int(spans[1].sum()):
            raise InputError(
                f"CARVE was asked with {int(spans[0].sum())} image tokens in the question and {int(spans[1].sum())} in "
                "the general instruction; give both the same image"
            )
        high, wide = self._grid(network, asked[0], int(spans[0].sum()))
        pixels = asked[0].get("pixel_values")
        if refine is None and not (isinstance(pixels, Tensor) and pixels.ndim == 4 and pixels.shape[0] == 1):
            shape = list(pixels.shape) if isinstance(pixels, Tensor) else "none"
            raise InputError(
                f"CARVE was asked on pixel_values {shape}, not one image [1, channel, high, wide]: give refine=, which "
                "makes the inputs from the mask"
            )
        (answer, seen), (_, plain) = (
            self._watched(network, *pair) for pair in zip(asked, spans, strict=True)
        )
        scores = contrast(seen, plain, self.lam, self.t_start).reshape(high, wide)
        mask = strongest(scores, self.top, self.components)
        again = self._refined(asked[0], mask, refine)
        again = {k: _there(v, loaded.device) for k, v in again.items()}
        return Carved(scores, mask, answer, self._answer(network, again), again)

    def _require(self, network: nn.Module) -> None:
        can = getattr(network, "can_generate", None)
        if can is None or not can():
            raise InterventionError(
                f"CARVE was asked of {type(network).__name__}, which does not generate text"
            )
        known = {str(place.layer) for place in places(network).values() if place.tower == "decoder"}
        for layer in self.layers:
            if str(layer) not in known:
                raise UnknownNameError.of("layer", str(layer), known)

    def _grid(self, network: nn.Module, inputs: Mapping[str, Any], tokens: int) -> tuple[int, int]:
        sizes = inputs.get("image_grid_thw")
        side = math.isqrt(tokens)
        if self.grid is not None:
            high, wide = self.grid
        elif isinstance(sizes, Tensor) and sizes.shape[0] == 1:
            vision = getattr(getattr(network, "config", None), "vision_config", None)
            merge = int(getattr(vision, "spatial_merge_size", 1))
            high, wide = int(sizes[0, 1]) // merge, int(sizes[0, 2]) // merge
        else:
            high, wide = side, side
        if high * wide != tokens:
            raise InputError(
                f"CARVE was asked on {tokens} image tokens, which are not a grid of {high} × {wide} (one image): give "
                "grid=(high, wide)"
            )
        return high, wide

    def _watched(
        self, network: nn.Module, inputs: Mapping[str, Any], span: Bool[Tensor, "token"]
    ) -> tuple[tuple[int, ...], Float[np.ndarray, "step layer image_token"]]:
        watch = _LastRow(self.layers, span)
        with Session(network, (watch,)):
            answer = self._answer(network, inputs)
        return answer, watch.taken()

    def _answer(self, network: Any, inputs: Mapping[str, Any]) -> tuple[int, ...]:
        with torch.no_grad():
            made = network.generate(**inputs, max_new_tokens=self.new_tokens, do_sample=False, num_beams=1)
        return tuple(made[0, inputs["input_ids"].shape[1] :].tolist())

    def _refined(
        self, inputs: Mapping[str, Any], mask: Bool[np.ndarray, "high wide"], refine: Refine | None
    ) -> Mapping[str, Any]:
        if refine is not None:
            return refine(mask)
        return {**inputs, "pixel_values": refined_pixels(inputs["pixel_values"], mask)}


class _LastRow:
    """An observer of the last row's attention on the image tokens, the mean over heads, layer by layer."""

    def __init__(self, layers: tuple[int, ...], span: Bool[Tensor, "token"]) -> None:
        self._span = span
        self._seen: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}

    def want(self, call: AttentionCall) -> Want:
        return Want(z=False)

    def update(self, call: AttentionCall, attended: Attended) -> None:
        if call.place.tower != "decoder" or call.place.layer not in self._seen:
            return
        _, n_query, n_key = call.size
        if call.scores is not None:
            row = pattern_block(call.scores, call.layout, slice(n_query - 1, n_query), slice(0, n_key))[
                0, :, 0
            ]
        elif call.pattern is not None:
            row = call.pattern[0, :, -1]
        index = call.key_index[0]
        there = (index >= 0) & (index < len(self._span))
        mass = torch.zeros(len(self._span), dtype=torch.float64, device=index.device)
        mass[index[there]] = row.double().mean(0)[there]
        self._seen[call.place.layer].append(mass[self._span].cpu().numpy())

    def taken(self) -> Float[np.ndarray, "step layer image_token"]:
        """Every step of every layer, float64."""
        return np.stack([np.stack(rows) for rows in self._seen.values()], axis=1)


def _image_span(network: nn.Module, inputs: Mapping[str, Any]) -> Bool[Tensor, "token"]:
    ids, _ = sequence_of(inputs, "CARVE")
    span = image_tokens(network, ids)
    if not bool(span.any()):
        raise InterventionError(
            f"CARVE was asked of {type(network).__name__}; the prompt has no image tokens that its config declares, so "
            "attention on an image cannot be read"
        )
    return span


def _there(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
