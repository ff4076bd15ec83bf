"""One score per head and MLP, by a method of attribution."""

from collections.abc import Sequence

from probe.circuits.attribution import attribute
from probe.circuits.edges import trace_edges
from probe.circuits.gradients import Backward
from probe.circuits.integrated import integrate
from probe.circuits.members import Member, Parts, nodes_of
from probe.circuits.nodes import Node
from probe.circuits.patching import Direction
from probe.circuits.relevance import DEFAULT, ruled
from probe.circuits.rules import require_rules
from probe.circuits.study import Study
from probe.circuits.where import Where

BY_GRADIENT = ("attribution", "integrated", "relp", "edges")
STEPS = 8  # of integrated gradients


def node_scores(case: Study, ranking: str, parts: Parts, direction: Direction) -> dict[Member, float]:
    """The share of the difference that each head and MLP carries by ``attribution``, ``integrated`` or ``relp``.

    By ``edges``: what it carries over all paths from it, each counted by its absolute value.

    Raises:
        CaptureError: relevance rules that have no place in the model.
    """
    where, nodes = Where.of("all", case.pairs), nodes_of(parts)
    if ranking == "edges":
        return _edge_scores(case, nodes, direction)
    if ranking == "integrated":
        effects = integrate(case, nodes, where, STEPS)
    elif ranking == "relp":
        require_rules(case.loaded, DEFAULT)
        effects = attribute(case, nodes, where, direction, None, ruled(case.loaded, DEFAULT))
    else:
        effects = attribute(case, nodes, where, direction)
    return {
        Member(layer, kind, unit): float(score)  # type: ignore[arg-type]
        for kind, found in effects.items()
        for layer, scores in found.scores.items()
        for unit, score in enumerate(scores.mean(-1).sum(-1))
    }


def _edge_scores(case: Study, nodes: Sequence[Node], direction: Direction) -> dict[Member, float]:
    edges = trace_edges(case, direction, 0, Backward(keep=True))
    carried = edges.scores.mean(-1).abs().nansum(-1)
    return {
        one: float(score)
        for one, score in zip(edges.senders.members, carried, strict=True)
        if one is not None and one.node in nodes
    }
