"""The commitment layer: from where on the last position's states of right and wrong continuations stay apart."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.continued import continued_states
from probe.circuits.nodes import Side
from probe.circuits.reporting import Told, labelled, make_report
from probe.circuits.separating import separation
from probe.circuits.study import CircuitOptions, Pairs, Study, study
from probe.errors import InputError, UsageError
from probe.report import Report

By = Literal["lens", "probe"]


def commitment_layer(
    model: object,
    pairs: Pairs = "ioi",
    by: By = "lens",
    *,
    draws: int = 1000,
    level: float = 0.95,
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """How far each layer tells right from wrong at the last position, and the first layer from which it stays so.

    Per pair and layer a separation from 0 to 1, 0.5 at chance, of the stream that leaves the layer:

    - ``lens``: 1 where the measure of the final norm and output embedding applied to the last state (logit lens) is
      higher on the clean prompt, which goes on right, than on the corrupt one, which goes on wrong; 0.5 at a tie, else
      0. Both are asked for the same tokens, so that what the lens says of tokens as such cancels.
    - ``probe``: both prompts are continued by the right and by the wrong token, and the last state is that of this
      token. Clean with right and corrupt with wrong fit; the other two do not. Tokens and prompts are balanced, so only
      what the state knows of both tells them apart. A ridge classifier is fitted on the other pairs (five parts); the
      separation is the share of the four comparisons (fitting against not) that come out right in the pair: its AUC.

    The commitment layer is the first from which the mean over pairs stays above chance to the end. Chance: in each draw
    the two classes change places in a random half of the pairs, in all layers alike; the bound is the `level` quantile
    over draws of the highest layer. This definition is ours; forced continuations follow Marín 2026 (arXiv:2603.13259),
    the lens nostalgebraist 2020.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder.
        pairs: A task (``probe.prompts.pairs.PAIR_TASKS``), or at least two pairs (``probe``: five). Of several right or
            wrong tokens the first continues a prompt.
        by: ``lens`` or ``probe``.
        draws: Permutations, 1 or more.
        level: Quantile of the permutations that is chance, between 0 and 1.
        options: How to look; see `CircuitOptions`. The measure is that of the lens, not kl.
        **changes: Single options by name.

    Returns:
        A report with one answer; its map, over layer, is the mean separation. ``extra``: ``commitment`` (the layer;
        NaN: none), ``bound``, ``control`` (bound, layer: mean and `level` quantile of the draws in each layer) and
        ``commitment_by_pair`` (pair: the first layer from which its own separation stays above 0.5; NaN: it does not
        end there). With ``lens``, ``measure`` (side, layer) is the measure's mean.

    Raises:
        UsageError: numbers that cannot be, kl with the lens, or a model that does not solve the task.
        InputError: too few pairs, or pairs that do not fit the model.
    """
    asked = CircuitOptions.of(options, changes)
    if by not in ("lens", "probe") or draws < 1 or not 0 < level < 1:
        raise UsageError(
            f"by={by!r}, draws={draws} and level={level} were asked; by is 'lens' or 'probe', draws are 1 or more, "
            "level is between 0 and 1"
        )
    if by == "lens" and asked.measure == "kl":
        raise UsageError(
            "the lens was asked for kl, which does not tell right from wrong: use logit_difference"
        )
    with study(model, pairs, asked) as case:
        least = 2 if by == "lens" else 5
        if len(case.pairs) < least:
            raise InputError(
                f"commitment_layer by {by} was asked of {len(case.pairs)} pairs; it needs {least} or more"
            )
        layers = [block.place.layer for block in case.engine.taps.anatomy.blocks]
        signs = _signs(len(case.pairs), draws, asked.seed)
        extra: dict[str, Any] = {}
        if by == "lens":
            found, lens = _by_lens(case, signs)
            extra["measure"] = labelled(lens.mean(1), side=("clean", "corrupt"), layer=layers)
        else:
            found = _by_probe(case, signs)
        told = Told(
            f"commitment_layer:by={by}",
            "How far the last position's states of right and wrong continuations are apart: share of comparisons "
            "within pairs that come out right, 0 to 1 (0.5 is chance)", "share", "ours; lens after nostalgebraist 2020",
        )  # fmt: skip
        extra |= found.arrays(layers, level)
        answer = told.answer(
            labelled(found.pairs.mean(0), layer=layers),
            labelled(found.pairs, prompt=range(len(found.pairs)), layer=layers),
            extra,
            found.said(layers, level),
        )
        return make_report(
            case, [answer], {"method": "commitment_layer", "by": by, "draws": draws, "level": level}
        )


@dataclass(frozen=True)
class _Found:
    """Separations by pair, and of permuted classes their means over pairs."""

    pairs: Float[Tensor, "pair layer"]
    permuted: Float[Tensor, "draw layer"]

    def bound(self, level: float) -> float:
        """What the highest layer of a permutation is below, in a share `level` of them."""
        return float(self.permuted.amax(1).quantile(level))

    def commitment(self, level: float) -> int | None:
        """The number of the first layer from which the mean stays above the bound; None where the last is not."""
        return _first_for_good(self.pairs.mean(0) > self.bound(level))

    def arrays(self, layers: list[int], level: float) -> dict[str, Any]:
        """The labelled arrays beside the map."""
        own = [_first_for_good(row > 0.5) for row in self.pairs]
        by_pair = [np.nan if one is None else float(layers[one]) for one in own]
        first = self.commitment(level)
        control = torch.stack([self.permuted.mean(0), self.permuted.quantile(level, 0)])
        return {
            "commitment": labelled(np.asarray(np.nan if first is None else float(layers[first]))),
            "bound": labelled(np.asarray(self.bound(level))),
            "control": labelled(control, bound=("mean", "quantile"), layer=layers),
            "commitment_by_pair": labelled(np.asarray(by_pair), pair=range(len(by_pair))),
        }

    def said(self, layers: list[int], level: float) -> list[str]:
        """The commitment layer in words."""
        first, bound = self.commitment(level), self.bound(level)
        last = float(self.pairs.mean(0)[-1])
        if first is None:
            return [f"no commitment layer: the last layer separates {last:.2f}, chance is up to {bound:.2f}"]
        return [
            f"commitment layer {layers[first]}: from there on the separation stays above {bound:.2f} (chance), "
            f"and ends at {last:.2f}"
        ]


def _first_for_good(above: Tensor) -> int | None:
    below = (~above).nonzero()
    first = int(below[-1]) + 1 if len(below) else 0
    return first if first < len(above) else None


def _signs(pairs: int, draws: int, seed: int) -> Int[Tensor, "draw pair"]:
    """Which pairs' classes change places (-1) in each draw; the first row changes none."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, 2, (draws, pairs), generator=generator) * 2 - 1
    return torch.cat([torch.ones(1, pairs, dtype=drawn.dtype), drawn])


def _by_lens(case: Study, signs: Int[Tensor, "draw pair"]) -> tuple[_Found, Float[Tensor, "side pair layer"]]:
    sides: tuple[Side, Side] = ("clean", "corrupt")
    parts = [torch.stack([_lens(case, batch, side) for side in sides]) for batch in case.batches]
    values = case.joined(parts)  # [side, layer, pair]
    # Ties are equal up to rounding: clean and corrupt states that nothing has told apart yet.
    size = values.abs().amax((0, 2), keepdim=True)[0].clamp_min(1e-12)
    apart = (values[0] - values[1]) / size
    score = torch.where(apart.abs() < 1e-5, 0.0, apart.sign())
    permuted = (signs[1:].double() @ score.T.double()) / len(case.pairs)
    return _Found(((1 + score) / 2).T.double(), (1 + permuted) / 2), values.transpose(1, 2)


@torch.no_grad()
def _lens(case: Study, batch: Batch, side: Side) -> Float[Tensor, "layer pair"]:
    anatomy = case.engine.taps.anatomy
    trace = case.engine.record(batch, side, ["resid_post"])
    rows = []
    for layer in trace.layers("resid_post"):
        state = trace.value("resid_post", layer)[:, 0, -1:]
        state = state if anatomy.final is None else anatomy.final.module.forward(state)
        rows.append(case.numbers(batch, anatomy.unembed.forward(state)[:, 0]))
    return torch.stack(rows)


def _by_probe(case: Study, signs: Int[Tensor, "draw pair"]) -> _Found:
    states = continued_states(case)
    found = [separation(one, signs) for one in states]
    return _Found(
        torch.stack([one.pairs for one in found], 1), torch.stack([one.draws[1:] for one in found], 1)
    )
