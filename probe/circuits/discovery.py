"""Automatic circuit discovery: the fewest heads and MLPs that do a task, and how well they do it beside random ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr

from probe.circuits.curves import Curves, curves, sizes_to
from probe.circuits.faithfulness import Faithfulness
from probe.circuits.gradients import require_gradients, require_slope
from probe.circuits.greedy import pick
from probe.circuits.members import Member, Parts, names
from probe.circuits.node_scores import BY_GRADIENT, node_scores
from probe.circuits.patching import Direction, sides
from probe.circuits.pruning import prune
from probe.circuits.reporting import Told, labelled, make_report
from probe.circuits.study import CircuitOptions, Pairs, Study, study
from probe.errors import UsageError
from probe.models import as_loaded
from probe.report import Report

Ranking = Literal["attribution", "integrated", "relp", "edges", "pruning", "greedy"]
SEEDS = 5  # random circuits of every size
MOST_TRIED = 64  # members whose absence is tried one by one

BIBTEX = """@inproceedings{conmy2023towards,
  title={Towards Automated Circuit Discovery for Mechanistic Interpretability},
  author={Conmy, Arthur and Mavor-Parker, Augustine N. and Lynch, Aengus and Heimersheim, Stefan and
          Garriga-Alonso, Adri{\\`a}},
  booktitle={Advances in Neural Information Processing Systems},
  year={2023}
}"""


def discover(
    model: object,
    pairs: Pairs = "ioi",
    ranking: Ranking = "relp",
    *,
    parts: Parts = "heads+mlps",
    direction: Direction = "denoise",
    goal: float = 0.8,
    most: int | None = None,
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """The fewest heads and MLPs, in an order that a ranking gives, that keep a task when all others are corrupt.

    Nodes are ranked (by the absolute value of a score, or by being taken one at a time), and ever larger circuits of
    the first ones are judged. Faithfulness is ``(m - m_corrupt) / (m_clean - m_corrupt)`` with every head and MLP
    outside the circuit at its values on the corrupt prompt: 1 is the whole difference. Completeness is the same with
    the circuit itself corrupt and the rest kept: near 0 where nothing else does the task. Minimality of a member
    is what faithfulness loses without it. The circuit is the smallest one judged whose faithfulness reaches `goal`.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder.
        pairs: A task (``probe.prompts.pairs.PAIR_TASKS``), or pairs.
        ranking: ``relp``, ``attribution``, ``integrated`` or ``edges`` (see the methods of these names); ``pruning``:
            from the last layer to the first, what the task loses with the node beside those it could spare; or
            ``greedy``: the node whose patch recovers most beside those that are taken, again and again (values that
            already hold what other nodes computed come first, and those nodes may never come).
        parts: ``heads``, ``mlps`` or both; what is not part is computed on what reaches it.
        direction: ``denoise`` (scores from putting clean values into the corrupt run) or ``noise``; pruning has none.
        goal: The faithfulness to reach, above 0 and at most 1.
        most: The largest circuit that is judged, besides the whole model; by default all (16 for ``greedy``).
        options: How to look; see `CircuitOptions`.
        **changes: Single options by name (``count=32``).

    Returns:
        A report with one answer, ``discover:ranking=…``; its map is 1 for the heads in the circuit and 0 for the others
        (MLPs by layer where only these are asked). ``extra``: ``curve`` (size, kind), ``interval`` (size, bound) of
        faithfulness over pairs, ``random`` (size, seed): faithfulness of circuits with as many random heads in every
        layer and as many random MLPs, ``members`` (member): minimality, ``scores`` (node) in the order of the ranking,
        ``mlps`` (layer): 1 for those in the circuit.

    Raises:
        UsageError: an unknown ranking, parts or direction, a goal or size out of range; gradients of a quantised model;
            a model that does not solve the task.
        InputError: pairs that do not fit the model, or a measure that is the same on both sides.
        CaptureError: MLPs of a model where none can be told apart, or relevance rules without a place.
    """
    asked = CircuitOptions.of(options, changes)
    require_asked(ranking, parts, direction, goal, most)
    loaded = as_loaded(model)
    if ranking in BY_GRADIENT:
        require_gradients(loaded, f"discover by {ranking}")
        require_slope(
            asked, f"discover by {ranking}", None if ranking == "integrated" else sides(direction)[1]
        )
    with study(loaded, pairs, asked) as case:
        ranked = rank(case, ranking, parts, direction, (most, goal))
        found = judge(case, list(ranked), parts, goal, most)
        told = Told(
            f"discover:ranking={ranking},parts={parts},direction={direction},goal={goal:g}",
            f"1 for the heads of the smallest circuit by {ranking} whose faithfulness ({asked.measure}) reaches "
            f"{goal:g}, else 0",
            "in the circuit", "Conmy et al. 2023 (arXiv:2304.14997); Hanna et al. 2024 (arXiv:2403.17806)", BIBTEX,
        )  # fmt: skip
        extra = {**found.extra, "scores": labelled(np.array(list(ranked.values())), node=names(ranked))}
        answer = told.answer(found.map(parts), None, extra, found.notes)
        settings = {
            "method": "discover",
            "ranking": ranking,
            "parts": parts,
            "direction": direction,
            "goal": goal,
        }
        return make_report(case, [answer], settings)


def require_asked(ranking: str, parts: str, direction: str, goal: float, most: int | None) -> None:
    """Raise `UsageError` for what there is not."""
    for name, value, known in (
        ("ranking", ranking, (*BY_GRADIENT, "pruning", "greedy")),
        ("parts", parts, ("heads", "mlps", "heads+mlps")),
        ("direction", direction, ("denoise", "noise")),
    ):
        if value not in known:
            raise UsageError(f"{name} {value!r} was asked; it is one of {', '.join(known)}")
    if not 0 < goal <= 1:
        raise UsageError(f"goal={goal} was asked; faithfulness to reach is above 0 and at most 1")
    if most is not None and most < 1:
        raise UsageError(f"most={most} was asked; a circuit has at least 1 node")


def rank(
    case: Study, ranking: Ranking, parts: Parts, direction: Direction, stop: tuple[int | None, float]
) -> Mapping[Member, float]:
    """Nodes in the order in which circuits take them, with what they were ranked by."""
    if ranking != "greedy":
        pruned = ranking == "pruning"
        scores = prune(case, parts) if pruned else node_scores(case, ranking, parts, direction)
        return dict(sorted(scores.items(), key=lambda one: -abs(one[1])))
    most, goal = stop
    return {one.member: one.recovery for one in pick(case, parts, direction, most or 16, goal)}


@dataclass(frozen=True)
class Found:
    """A circuit, the whole model's nodes, and how circuits of the order that it comes from were judged."""

    circuit: tuple[Member, ...]
    everything: tuple[Member, ...]
    extra: Mapping[str, xr.DataArray]
    notes: tuple[str, ...]

    def map(self, parts: Parts) -> xr.DataArray:
        """1 for heads in the circuit; for MLPs where heads are no part."""
        if parts == "mlps":
            return self.extra["mlps"]
        heads = [one for one in self.everything if one.node == "z"]
        layers = sorted({one.layer for one in heads})
        counts = [sum(one.layer == layer for one in heads) for layer in layers]
        grid = np.full((len(layers), max(counts)), np.nan)
        for one in heads:
            grid[layers.index(one.layer), one.unit] = one in self.circuit
        coords = {"layer": layers, "head": list(range(max(counts))), "n_heads": ("layer", counts)}
        return xr.DataArray(grid, coords, ("layer", "head"))


def judge(case: Study, order: Sequence[Member], parts: Parts, goal: float, most: int | None) -> Found:
    """Circuits of the first nodes of an order, and the smallest that reaches a goal."""
    judging = Faithfulness(case, parts)
    total = len(judging.everything)
    rest = [one for one in judging.everything if one not in set(order)]
    sizes = sizes_to(total, min(most or total, len(order)))
    found = curves(judging, [*order, *rest], sizes, SEEDS)
    # The whole model keeps everything, up to rounding.
    place = len(sizes) - 1 if (reached := found.smallest(goal)) is None else reached
    circuit = tuple([*order, *rest][: sizes[place]])
    tried = circuit[:MOST_TRIED]
    lost = (
        judging.without_each(tried).mean(-1)
        if len(circuit) == len(tried)
        else torch.full((len(tried),), torch.nan)
    )
    extra = found.arrays(case.options.seed) | {"members": labelled(lost, member=names(tried))}
    mlps = [one for one in judging.everything if one.node == "mlp_out"]
    if mlps:
        inside = np.array([float(one in circuit) for one in mlps])
        extra["mlps"] = labelled(inside, layer=[one.layer for one in mlps])
    return Found(circuit, judging.everything, extra, tuple(_notes(found, place, goal, len(circuit), total)))


def _notes(found: Curves, place: int, goal: float, size: int, total: int) -> list[str]:
    random, kept, left = (
        found.random[place],
        float(found.kept[place].mean()),
        float(found.removed[place].mean()),
    )
    said = [
        f"circuit of {size} of {total} nodes: faithfulness {kept:.3f}, completeness {left:.3f}; {len(random)} random "
        f"circuits of equal size: {float(random.mean()):.3f} ({float(random.min()):.3f} to {float(random.max()):.3f})",
        "sizes 0, 1, 2, 4 and so on were judged: the smallest circuit that reaches the goal may lie between two sizes",
    ]
    if size == total:
        said.append(f"no circuit that was judged but the whole model reaches faithfulness {goal:g}")
    if size > MOST_TRIED:
        said.append(f"minimality was not measured: the circuit has more than {MOST_TRIED} nodes")
    return said
