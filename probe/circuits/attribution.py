"""Attribution patching: activation patching to first order, for every node at once."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.circuits.batches import Batch
from probe.circuits.gradients import Backward, gradient_run, require_gradients, require_slope
from probe.circuits.nodes import TOLD, Key, Node, node
from probe.circuits.patching import Direction, sides
from probe.circuits.reporting import Told, make_report
from probe.circuits.study import CircuitOptions, Pairs, Study, study
from probe.circuits.tables import Effects
from probe.circuits.where import Where
from probe.errors import UsageError
from probe.models import as_loaded
from probe.report import Report

BIBTEX = """@inproceedings{syed2024attribution,
  title={Attribution Patching Outperforms Automated Circuit Discovery},
  author={Syed, Aaquib and Rager, Can and Conmy, Arthur},
  booktitle={BlackboxNLP Workshop},
  year={2024}
}"""

Scored = Mapping[Key, Float[Tensor, "pair unit position"]]


def attribution_patching(
    model: object,
    pairs: Pairs = "ioi",
    nodes: str | Sequence[str] = "z",
    *,
    at: str = "all",
    direction: Direction = "denoise",
    layers: Sequence[int] | None = None,
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """What activation patching would find, to first order: two forwards and one backward for all heads and layers.

    ``score = (a_to - a_from) · dM/da / (m_to - m_from)``, the gradient taken in the run that is patched (from), the
    denominator the mean over pairs. It is on the scale of `activation_patching` (1: the whole difference) and equal to
    it where the model is linear between the two values. What `relp` and `integrated_gradients` have
    in common with it is told here.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder, not quantised.
        pairs: A task (``probe.prompts.pairs.PAIR_TASKS``), or pairs.
        nodes: One or several of ``z, q, k, v, pattern`` (by head), ``resid_pre, resid_mid, resid_post, attn_out,
            mlp_out`` (by layer); all are had from the same runs.
        at: ``all`` positions at once, a mark such as ``end``, or ``marks`` or ``tokens`` one after another.
        direction: ``denoise`` (gradient at the corrupt run) or ``noise`` (at the clean run).
        layers: Only these layers.
        options: How to look; see `CircuitOptions`.
        **changes: Single options by name (``count=32``).

    Returns:
        A report with one answer per node, ``attribution_patching:nodes=…``, of the form `activation_patching` gives.

    Raises:
        UsageError: an unknown node, place or direction; a quantised model; a measure without a gradient; a model that
            does not solve the task.
        InputError: pairs that do not fit the model, or a measure that is the same on both sides.
        CaptureError: nodes that the model does not have.
    """
    asked = CircuitOptions.of(options, changes)
    kinds = several(nodes)
    require_direction(direction)
    loaded = as_loaded(model)
    require_gradients(loaded, "attribution_patching")
    require_slope(asked, "attribution_patching", sides(direction)[1])
    with study(loaded, pairs, asked) as case:
        where = Where.of(at, case.pairs)
        effects = attribute(case, kinds, where, direction, layers)
        answers = [
            Told(
                f"attribution_patching:nodes={kind},at={at},direction={direction}",
                f"Share of the {asked.measure} difference that {TOLD[kind]} would carry when patched ({direction}), to "
                "first order; 1 is all",
                "share of the difference", "Nanda 2023; Syed et al. 2024 (arXiv:2310.10348)", BIBTEX,
            ).answer(found.map, found.by_prompt, found.extra)
            for kind, found in effects.items()
        ]  # fmt: skip
        settings = {"method": "attribution", "nodes": "+".join(kinds), "at": at, "direction": direction}
        return make_report(case, answers, settings)


def attribute(
    case: Study,
    kinds: Sequence[Node],
    where: Where,
    direction: Direction = "denoise",
    layers: Sequence[int] | None = None,
    how: Backward | None = None,
) -> dict[Node, Effects]:
    """The first-order recovery of every unit, layer and place of several nodes, of pairs that are studied already."""
    source, into = sides(direction)
    gathered = Gathered(case, where, layers)
    for number, batch in enumerate(case.batches):
        case.options.tell(number, len(case.batches), "attribution")
        other = case.engine.record(batch, source, kinds)
        run = gradient_run(case, batch, into, kinds, how=how)
        moved = {key: other.value(*key) - run.value(*key) for key in other.seen}
        gathered.add(batch, {key: (moved[key] * run.gradients[key]).double().sum(-1) for key in moved})
    case.options.tell(len(case.batches), len(case.batches), "attribution")
    return gathered.effects(kinds, case.gap if into == "corrupt" else -case.gap)


@dataclass
class Gathered:
    """Scores per position of one batch after another, summed over each place."""

    case: Study
    where: Where
    layers: Sequence[int] | None = None
    parts: dict[Key, list[Float[Tensor, "unit place pair"]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for layer in self.layers or ():
            self.case.engine.taps.anatomy.block(layer)

    def add(self, batch: Batch, scored: Scored) -> None:
        """Scores of a batch."""
        for key, score in scored.items():
            if self.layers is None or key[1] in self.layers:
                self.parts.setdefault(key, []).append(torch.stack(list(self._places(batch, score)), dim=1))

    def _places(self, batch: Batch, score: Tensor) -> Iterator[Float[Tensor, "unit pair"]]:
        for mask in self.where.masks(batch):
            yield (score.cpu() * mask[:, None]).sum(-1).T

    def effects(self, kinds: Collection[Node], gap: float) -> dict[Node, Effects]:
        """What was gathered, as shares of a difference."""
        return {
            kind: Effects(
                kind,
                {
                    layer: self.case.joined(parts) / gap
                    for (name, layer), parts in self.parts.items()
                    if name == kind
                },
                self.where.places,
            )
            for kind in kinds
        }


def several(nodes: str | Sequence[str]) -> list[Node]:
    """The nodes of several names, or of a text of them joined by ``+``.

    Raises:
        UnknownNameError: no such node.
        UsageError: none is named.
    """
    named = list(dict.fromkeys(nodes.split("+") if isinstance(nodes, str) else nodes))
    if not named:
        raise UsageError("no node was asked; name at least one, such as 'z'")
    return [node(name) for name in named]


def require_direction(direction: str) -> None:
    """Raise `UsageError` for a direction that there is not."""
    if direction not in ("denoise", "noise"):
        raise UsageError(f"direction {direction!r} was asked; it is 'denoise' or 'noise'")
