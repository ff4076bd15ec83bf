"""Edge attribution patching (EAP): what each path from one part's output to another's input carries, to first order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from probe.circuits.anatomy import Anatomy
from probe.circuits.attribution import require_direction
from probe.circuits.batches import Batch
from probe.circuits.changes import MOST_NUMBERS, Changes, bounded
from probe.circuits.gradients import Backward, GradientRun, gradient_run, require_gradients, require_slope
from probe.circuits.inputs import READS as INPUTS
from probe.circuits.inputs import inputs_of
from probe.circuits.integrated import between, require_steps
from probe.circuits.nodes import Side
from probe.circuits.patching import Direction, sides
from probe.circuits.relevance import DEFAULT, ruled
from probe.circuits.reporting import Told, labelled, make_report
from probe.circuits.rules import require_rules, rules_of
from probe.circuits.senders import READS as OUTPUTS
from probe.circuits.senders import Senders
from probe.circuits.study import CircuitOptions, Pairs, Study, study
from probe.circuits.tables import Effects
from probe.circuits.trace import Trace
from probe.errors import UsageError
from probe.models import as_loaded
from probe.report import Report

Gradient = Literal["plain", "integrated", "relp"]

BIBTEX = """@inproceedings{syed2024attribution,
  title={Attribution Patching Outperforms Automated Circuit Discovery},
  author={Syed, Aaquib and Rager, Can and Conmy, Arthur},
  booktitle={BlackboxNLP Workshop},
  year={2024}
}"""


def edge_attribution(
    model: object,
    pairs: Pairs = "ioi",
    gradient: Gradient = "plain",
    *,
    direction: Direction = "denoise",
    steps: int = 8,
    rules: str | Sequence[str] = DEFAULT,
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """What each path carries from a head, an MLP or the embedding to a head's q, k or v, an MLP or the logits.

    ``score(u → v) = Σ_positions (u_to - u_from) · dM/d(input of v) / (m_to - m_from)``: u is what a part adds to the
    stream, the gradient at the stream that v reads is taken through v alone. It is what patching the path alone would
    recover, to first order. Scores from u to all v sum to u's score as a node (`attribution_patching`, without a norm
    behind W_O). Two forwards and one backward pass, and one product with the graph of its own layer per receiver; more
    of them, for fewer pairs or senders at a time, where what all parts add would take too much memory.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder, not quantised.
        pairs: A task (``probe.prompts.pairs.PAIR_TASKS``), or pairs.
        gradient: ``plain`` (EAP), ``integrated`` (EAP-IG: the mean between the two prompts) or ``relp``.
        direction: ``denoise`` (gradient at the corrupt run) or ``noise``; integrated gradients have none.
        steps: Runs between the two prompts, for ``integrated``.
        rules: Relevance rules, for ``relp``.
        options: How to look; see `CircuitOptions`.
        **changes: Single options by name (``count=32``).

    Returns:
        A report with one answer, ``edge_attribution:gradient=…``; its map is each head's sum over receivers.
        ``extra``: ``edges`` (sender, receiver), NaN where there is no path; ``mlps`` (layer): the sums of MLPs.

    Raises:
        UsageError: an unknown gradient, rule or direction; a quantised model; a measure without a gradient; a model
            that does not solve the task.
        InputError: pairs that do not fit the model, or a measure that is the same on both sides.
        CaptureError: a model in which what heads or MLPs add to the stream cannot be told.
    """
    asked = CircuitOptions.of(options, changes)
    if gradient not in get_args(Gradient):
        raise UsageError(f"gradient {gradient!r} was asked; it is one of {', '.join(get_args(Gradient))}")
    require_direction(direction)
    require_steps(steps)
    chosen = rules_of(rules if gradient == "relp" else "none")
    loaded = as_loaded(model)
    require_gradients(loaded, "edge_attribution")
    require_slope(asked, "edge_attribution", None if gradient == "integrated" else sides(direction)[1])
    require_rules(loaded, chosen)
    with study(loaded, pairs, asked) as case:
        how = ruled(loaded, chosen, keep=True)
        found = trace_edges(case, direction, steps if gradient == "integrated" else 0, how)
        more = {"plain": "", "integrated": f",steps={steps}", "relp": f",rules={'+'.join(chosen) or 'none'}"}
        told = Told(
            f"edge_attribution:gradient={gradient},direction={direction}{more[gradient]}",
            f"Share of the {asked.measure} difference that a head carries over all paths from it ({direction}), to "
            "first order; 1 is all",
            "share of the difference", "Syed et al. 2024 (arXiv:2310.10348)", BIBTEX,
        )  # fmt: skip
        nodes = found.nodes
        answer = told.answer(nodes.map, nodes.by_prompt, {"edges": found.array, "mlps": found.mlps})
        settings = {
            "method": "edges",
            "gradient": gradient,
            "direction": direction,
            "rules": "+".join(chosen),
        }
        return make_report(case, [answer], settings)


@dataclass(frozen=True)
class Edges:
    """Scores per pair from every sender to every receiver, NaN where there is no path."""

    senders: Senders
    receivers: tuple[str, ...]
    scores: Float[Tensor, "sender receiver pair"]

    @property
    def array(self) -> xr.DataArray:
        """The mean over pairs: axes (sender, receiver)."""
        return labelled(self.scores.mean(-1), sender=self.senders.names, receiver=list(self.receivers))

    @property
    def sums(self) -> Float[Tensor, "sender pair"]:
        """Every sender's sum over receivers."""
        return self.scores.nansum(1)

    @property
    def nodes(self) -> Effects:
        """Heads by their sums."""
        layers = sorted({one.layer for one in self.senders.members if one is not None and one.node == "z"})
        return Effects("z", {layer: self._of("z", layer)[:, None] for layer in layers})

    @property
    def mlps(self) -> xr.DataArray:
        """MLPs by their sums: axis (layer,)."""
        layers = [one.layer for one in self.senders.members if one is not None and one.node == "mlp_out"]
        sums = [float(self._of("mlp_out", layer).mean()) for layer in layers]
        return labelled(np.array(sums), layer=layers)

    def _of(self, node: str, layer: int) -> Float[Tensor, "unit pair"]:
        members = self.senders.members
        own = [
            n for n, one in enumerate(members) if one is not None and (one.node, one.layer) == (node, layer)
        ]
        return self.sums[own]


def trace_edges(
    case: Study, direction: Direction, steps: int, how: Backward, most: int = MOST_NUMBERS
) -> Edges:
    """Every edge's score, of pairs that are studied already.

    Args:
        case: The studied pairs.
        direction: Of patching.
        steps: Runs between the two prompts whose gradients are averaged; 0 = the gradient of the patched run.
        how: The backward pass; its graph must be kept.
        most: Numbers of what senders add that are held at a time (one layer's for one pair, where that is more).
    """
    source, into = sides(direction)
    anatomy, case = case.engine.taps.anatomy, bounded(case, most)
    parts: list[Tensor] = []
    senders, receivers = Senders(()), ()  # type: tuple[Senders, tuple[str, ...]]
    for number, batch in enumerate(case.batches):
        case.options.tell(number, len(case.batches), "edge attribution")
        other = case.engine.record(batch, source, OUTPUTS)
        own, runs = _runs(case, batch, other, into, (steps, how))
        senders = Senders.of(anatomy, own)
        changes = Changes(other, own, senders, most)
        found = [_scores(anatomy, run, changes) for run in runs]
        receivers = tuple(found[0])
        parts.append(torch.stack([torch.stack(list(one.values()), dim=1) for one in found]).mean(0))
    case.options.tell(len(case.batches), len(case.batches), "edge attribution")
    gap = case.gap if into == "corrupt" else -case.gap
    return Edges(senders, receivers, case.joined(parts) / gap)


def _runs(
    case: Study, batch: Batch, other: Trace, into: Side, how: tuple[int, Backward]
) -> tuple[Trace, Iterator[GradientRun]]:
    """The run that is patched, and the runs in which gradients are taken."""
    steps, backward = how
    if not steps:
        run = gradient_run(case, batch, into, {*INPUTS, *OUTPUTS}, None, backward)
        return run.trace, iter([run])
    own = case.engine.record(batch, into, OUTPUTS)
    ways = between(other, own, steps)
    return own, (gradient_run(case, batch, into, INPUTS, way, backward) for way in ways)


def _scores(anatomy: Anatomy, run: GradientRun, changes: Changes) -> dict[str, Float[Tensor, "sender pair"]]:
    """What each sender's change does through each receiver; NaN for those that write behind it."""
    found: dict[str, Tensor] = {}
    for chunk in changes.chunks:
        moved, start = changes.of(chunk), chunk.senders.start
        for to in inputs_of(anatomy, run, changes.senders, beyond=start):
            if to.name not in found:  # never behind the first chunk: every receiver reads the embedding
                shape = (len(changes.senders.members), len(moved))
                found[to.name] = torch.full(shape, torch.nan, dtype=torch.float64)
            before = moved[:, : to.senders - start].flatten(2) @ to.gradient.flatten(1)[..., None].to(moved)
            found[to.name][start : start + before.shape[1]] = before[..., 0].T.double().cpu()
    return found
