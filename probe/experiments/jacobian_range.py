"""Jacobian range: how far back a layer or a head really reaches, beside how far back its attention looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.errors import UnknownNameError, UsageError
from probe.experiments.base import Ask, told
from probe.experiments.gradients import Graph, gradients_allowed, graph
from probe.experiments.head_grid import head_grid
from probe.experiments.seen_rows import SeenRows, cannot_read, long_enough, see_rows
from probe.metrics.base import MetricInfo
from probe.metrics.making import at_least, one_of
from probe.prompts import Prompt
from probe.report.answer import Answer

NAMES = ("gradient", "gradient_without_first", "attention", "attention_without_first", "uniform", "error")

PerHead = Float[np.ndarray, "head"]
Found = dict[str, dict[int, PerHead]]  # name -> layer -> value per head


@dataclass(frozen=True)
class _Reading:
    """What one prompt gave."""

    name: str
    found: Found


class JacobianRange:
    """Share of a row's gradient that lies on tokens farther than `beyond`, 0 to 1, per layer or head.

    ``g_ij = ‖∂y_i/∂e_j‖_F``: y_i is the residual stream of row i after a layer (``of=resid``) or a head's z
    (``of=z``), e_j the input embedding of token j, so that all layers below take part. The number is
    ``Σ_{|i−j| > beyond} g_ij / Σ_j g_ij``, mean over chosen rows of all prompts. Squared norms are estimated by
    vector-Jacobian products with `probes` seeded vectors of random signs, which is unbiased; ``error`` is the standard
    error over probes, by leaving each out in turn (undefined for one probe). Rows lie evenly in a prompt's second half.

    Extra: ``attention``, the mass of the same rows beyond the same distance (mean over heads for ``of=resid``);
    ``gradient_without_first`` and ``attention_without_first``, where the first token has no part, since a sink takes
    attention that carries nothing; ``uniform``, the mass that uniform attention would have there; ``error``.

    Interventions of the call act. Costs one backward pass per prompt, layer, row and probe, times heads for ``of=z``.
    Brändel et al., "How Token Influence Decays with Distance: A Green-Function View of Trained Language Models", 2026
    (arXiv:2606.29139), measure the Jacobian of the prediction; here it is that of any layer, beside its attention.

    Args:
        beyond: tokens of distance that count as near.
        rows: rows per prompt.
        probes: random vectors per row.
        layers: layers joined by ``+``, or ``all``.
        of: ``resid`` or ``z``.
        tokens: the shipped text is cut to so many tokens.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="jacobian_range",
        summary="Share of a row's gradient on tokens beyond a distance, 0 to 1, beside its attention there",
        unit="share of gradient",
        better="high",
        paper="Brändel et al. 2026",
        bibtex="""@misc{brandel2026token,
  title={How Token Influence Decays with Distance: A Green-Function View of Trained Language Models},
  author={Br{\\"a}ndel, Matthias and others},
  year={2026},
  eprint={2606.29139},
  archivePrefix={arXiv}
}""",
        axis="layer",
        slow=True,
    )

    def __init__(
        self,
        beyond: int = 32,
        rows: int = 2,
        probes: int = 2,
        layers: str = "all",
        of: Literal["resid", "z"] = "resid",
        tokens: int = 256,
    ) -> None:
        self.spec = self.info.name
        for name, value, low in (
            ("beyond", beyond, 0),
            ("rows", rows, 1),
            ("probes", probes, 1),
            ("tokens", tokens, 2),
        ):
            at_least(self.spec, name, value, low)
        one_of(self.spec, "of", of, ("resid", "z"))
        self.beyond, self.rows, self.probes, self.tokens = beyond, rows, probes, tokens
        self.of: Literal["resid", "z"] = of
        self.layers = _layers(layers)

    def run(self, ask: Ask) -> list[Answer]:
        """One watched forward and one with its graph per prompt; NaN with a note where no prompt is long enough.

        Raises `UsageError` under inference mode and for quantised models, `UnknownNameError` for a layer that is not
        there.
        """
        gradients_allowed(ask.model, self.spec)
        reason = cannot_read(ask.model)
        if reason:
            return [self._nothing(reason)]
        prompts, notes = long_enough(ask.texts(self.tokens), self.beyond + 2)
        if not prompts:
            return [self._nothing("; ".join(notes))]
        read = []
        for number, prompt in enumerate(prompts):
            ask.tell(number, len(prompts), f"{self.spec}: {prompt.id}")
            read.append(self._read(ask, prompt))
        ask.tell(len(prompts), len(prompts), self.spec)
        return [self._answer(read, notes)]

    def _read(self, ask: Ask, prompt: Prompt) -> _Reading:
        rows = chosen_rows(len(prompt), self.beyond, self.rows)
        found: Found = {name: {} for name in NAMES}
        see_rows(ask.model, torch.tensor([prompt.tokens]), rows, partial(self._attention, found, rows))
        wanted = None if self.layers is None else frozenset(self.layers)
        with graph(ask.model, prompt, self.of, wanted) as made:
            missing = sorted(set(self.layers or ()) - set(made.outputs))
            if missing:
                raise UnknownNameError.of("layer", str(missing[0]), map(str, sorted(found["attention"])))
            random = torch.Generator().manual_seed(ask.seed)
            for layer in sorted(made.outputs):
                self._gradients(found, made, layer, rows, random)
        return _Reading(prompt.id, found)

    def _attention(self, found: Found, rows: Int[Tensor, "row"], seen: SeenRows) -> None:
        """Shares of one layer's attention on far keys, as it is and as if it were uniform, mean over rows."""
        if self.layers is not None and seen.layer not in self.layers:
            return
        p, index = seen.p[0].double().cpu(), seen.call.key_index[0].cpu()
        far = (rows[:, None] - index).abs() > self.beyond
        for name, first in (("attention", 0), ("attention_without_first", 1)):
            counted = p * (index >= first)
            share = (counted * far).sum(-1) / counted.sum(-1)
            found[name][seen.layer] = self._heads(share.mean(-1).numpy())
        visible = seen.visible[0].cpu().double()
        uniform = (visible * far).sum(-1) / visible.sum(-1)
        found["uniform"][seen.layer] = self._heads(np.full(len(p), float(uniform.mean())))

    def _heads(self, values: PerHead) -> np.ndarray:
        """The values of all heads; their mean as the one value of a layer for ``of=resid``."""
        return values if self.of == "z" else values.mean(keepdims=True)

    def _gradients(
        self, found: Found, made: Graph, layer: int, rows: Int[Tensor, "row"], random: torch.Generator
    ) -> None:
        heads = range(len(made.outputs[layer]))
        found_here = np.array(
            [[self._row(made, layer, head, int(row), random) for row in rows] for head in heads]
        )
        for place, name in enumerate(("gradient", "gradient_without_first")):
            found[name][layer] = found_here[:, :, place].mean(1)
        found["error"][layer] = np.sqrt((found_here[:, :, 2] ** 2).sum(1)) / len(rows)

    def _row(
        self, made: Graph, layer: int, head: int, row: int, random: torch.Generator
    ) -> tuple[float, float, float]:
        """Share beyond, share beyond without the first token, standard error of the first."""
        squares = made.norms(layer, head, row, self.probes, random).square()
        far = _far(row, squares.shape[1], self.beyond)
        share = share_beyond(squares.mean(0).sqrt(), far)
        without = share_beyond(squares.mean(0).sqrt()[1:], far[1:])
        return share, without, left_out_error(squares, far)

    def _answer(self, read: Sequence[_Reading], notes: Sequence[str]) -> Answer:
        each = {name: [self._map(one.found[name]) for one in read] for name in NAMES}
        extra = {name: _mean(maps) for name, maps in each.items() if name not in ("gradient", "error")}
        squares = np.stack([one.values**2 for one in each["error"]])
        extra["error"] = each["error"][0].copy(data=np.sqrt(squares.sum(0)) / len(read))
        gradient = _mean(each["gradient"])
        stacked = xr.concat(
            each["gradient"], xr.DataArray([one.name for one in read], dims=("prompt",), name="prompt")
        )
        return Answer(
            **told(self.spec, self.info),
            head_map=gradient,
            by_prompt=stacked,
            extra=extra,
            notes=(self._line(gradient, extra), *notes),
        )

    def _line(self, gradient: xr.DataArray, extra: dict[str, xr.DataArray]) -> str:
        mean = {name: float(one.mean()) for name, one in extra.items()}
        error = float(extra["error"].max())
        sure = (
            f"standard error at most {error:.3f}"
            if np.isfinite(error)
            else "one vector has no standard error"
        )
        return (
            f"of={self.of}, {self.rows} rows a prompt, {self.probes} random vectors a row ({sure}): beyond "
            f"{self.beyond} tokens lie {float(gradient.mean()):.3f} of the gradient, {mean['attention']:.3f} of "
            f"attention, {mean['uniform']:.3f} of uniform attention; without the first token "
            f"{mean['gradient_without_first']:.3f} and {mean['attention_without_first']:.3f}"
        )

    def _map(self, values: dict[int, PerHead]) -> xr.DataArray:
        layers = sorted(values)
        if self.of == "resid":
            coords = {"layer": np.array(layers, dtype=np.int64)}
            return xr.DataArray([float(values[layer][0]) for layer in layers], coords, ("layer",))
        return head_grid(values)

    def _nothing(self, reason: str) -> Answer:
        empty = xr.DataArray(np.full(1, np.nan), {"layer": np.zeros(1, np.int64)}, ("layer",))
        return Answer(**told(self.spec, self.info), head_map=empty, notes=(f"not applicable: {reason}",))


def chosen_rows(length: int, beyond: int, rows: int) -> Int[Tensor, "row"]:
    """Rows spread evenly over the second half of a prompt, the last one among them, each with a token beyond."""
    first = max(length // 2, beyond + 1)
    return torch.from_numpy(np.unique(np.linspace(length - 1, first, rows).round().astype(np.int64)))


def share_beyond(norms: Float[Tensor, "token"], far: Bool[Tensor, "token"]) -> float:
    """Share of the norms that lies on far tokens; NaN where all are 0."""
    return float((norms * far).sum() / norms.sum())


def left_out_error(squares: Float[Tensor, "probe token"], far: Bool[Tensor, "token"]) -> float:
    """Standard error of `share_beyond` over probes, by leaving each out in turn (jackknife); NaN for one probe."""
    probes = len(squares)
    if probes < 2:
        return float("nan")
    without = [(squares.sum(0) - one) / (probes - 1) for one in squares]
    shares = np.array([share_beyond(one.clamp_min(0).sqrt(), far) for one in without])
    return float(np.sqrt((probes - 1) / probes * ((shares - shares.mean()) ** 2).sum()))


def _far(row: int, length: int, beyond: int) -> Bool[Tensor, "token"]:
    return (torch.arange(length) - row).abs() > beyond


def _mean(maps: Sequence[xr.DataArray]) -> xr.DataArray:
    return maps[0].copy(data=np.mean([one.values for one in maps], axis=0))


def _layers(given: str) -> tuple[int, ...] | None:
    if given == "all":
        return None
    try:
        found = tuple(sorted({int(part) for part in str(given).split("+")}))
    except ValueError:
        found = ()
    if not found or found[0] < 0:
        raise UsageError(f"jacobian_range: layers was {given!r}; allowed are layers joined by +, or all")
    return found
