"""Roles on a task with the marks ``io``, ``s1``, ``s2``, ``end``: numbers of every head, and rules that name roles.

After Wang et al. 2023, §3, with their knock-outs and paths measured on minimal pairs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce

import torch
from torch import Tensor

from probe.circuits.controls import Chosen, masked_writes, nodes
from probe.circuits.copies import copying
from probe.circuits.logit_split import READS, split_difference
from probe.circuits.looks import ByLayer, attention
from probe.circuits.nodes import Node
from probe.circuits.paths import JOINT, Paths, path_effects
from probe.circuits.receivers import Heads, Receiver
from probe.circuits.study import Study
from probe.circuits.tables import Effects
from probe.circuits.trace import Trace
from probe.circuits.where import Where

MARKS = ("io", "s1", "s2")

#: The numbers of every head, and what each says.
MEASURED: Mapping[str, str] = {
    "direct_effect": "share of the difference that goes from the head at the end to the logits",
    "to_io": "attention from the end to the indirect object",
    "to_s1": "attention from the end to the subject's first mention",
    "to_s2": "attention from the end to the subject's second mention",
    "copying": "share of names that the head would raise most if it looked at them alone",
    "negative_copying": "share of names that the head would lower most if it looked at them alone",
    "backup": "what the head adds more by itself once name movers are at their mean, as a share of the difference",
    "name_mover_queries": "share of the difference that goes from the head at the end to name movers' queries",
    "s2_to_s1": "attention from the subject's second mention to its first",
    "s2_behind_s1": "attention from the subject's second mention to the token behind its first",
    "inhibition_values": "share of the difference that goes from the head at the second mention to inhibition's values",
    "behind_s1_to_s1": "attention from the token behind the subject's first mention to that mention",
}


@dataclass(frozen=True)
class Least:
    """Thresholds: of effects (shares of the difference), of attention, and of the share of names copied."""

    effect: float
    attention: float
    copying: float


Rule = Callable[[Least], Mapping[str, float]]  # the least of each number; a negative one is the most

#: Roles in the order in which they are found, each with the numbers that must reach a threshold.
ROLES: Mapping[str, Rule] = {
    "name_mover": lambda t: {"direct_effect": t.effect, "to_io": t.attention, "copying": t.copying},
    "negative_name_mover": lambda t: {"direct_effect": -t.effect, "negative_copying": t.copying},
    "backup_name_mover": lambda t: {"backup": t.effect},
    "s_inhibition": lambda t: {"name_mover_queries": t.effect, "to_s2": t.attention},
    "duplicate_token": lambda t: {"inhibition_values": t.effect, "s2_to_s1": t.attention},
    "induction": lambda t: {"inhibition_values": t.effect, "s2_behind_s1": t.attention},
    "previous_token": lambda t: {"behind_s1_to_s1": t.attention},
}


@dataclass
class Measured:
    """Numbers by name, ``{layer: [head]}``; what was not measured is absent and meets no threshold."""

    heads: Heads
    least: Least
    means: dict[str, dict[int, Tensor]] = field(default_factory=dict)

    def add(self, name: str, values: Mapping[int, Tensor]) -> None:
        """Keep the mean over the last axis, the pairs."""
        self.means[name] = {layer: one.mean(-1) for layer, one in values.items()}

    def flags(self, name: str, threshold: float) -> dict[int, Tensor]:
        """Which heads reach a threshold of one number."""
        found = self.means.get(name, {})
        made = {}
        for layer, count in self.heads.query.items():
            value = found.get(layer, torch.full((count,), torch.nan))
            made[layer] = value <= threshold if threshold < 0 else value >= threshold
        return made

    def role(self, name: str) -> dict[int, tuple[int, ...]]:
        """The heads of a role, by layer."""
        flags = [self.flags(*one) for one in ROLES[name](self.least).items()]
        taken = self.role("name_mover") if name == "backup_name_mover" else {}
        found = {}
        for layer in self.heads.query:
            both = reduce(torch.logical_and, [one[layer] for one in flags])
            heads = tuple(head for head in both.nonzero()[:, 0].tolist() if head not in taken.get(layer, ()))
            if heads:
                found[layer] = heads
        return found

    def expected(self, name: str) -> float:
        """How many heads would have a role if its numbers had nothing to do with one another."""
        shares = [
            sum(int(one.sum()) for one in self.flags(*rule).values()) / self.heads.total
            for rule in ROLES[name](self.least).items()
        ]
        return self.heads.total * float(torch.tensor(shares).prod())


def measure_roles(case: Study, heads: Heads, least: Least) -> tuple[Measured, Effects]:
    """Every number of `MEASURED`, roles found on the way where later numbers need them; and the direct effects."""
    made = Measured(heads, least)
    direct = direct_effects(case, heads)
    made.add("direct_effect", _by_pair(direct))
    _attention(case, made)
    _copying(case, made)
    movers = made.role("name_mover")
    if movers:
        made.add("backup", backup(case, movers))
        queries = [
            Receiver(f"L{layer}.H{h}.q", "q", layer, h) for layer, some in movers.items() for h in some
        ]
        made.add("name_mover_queries", _by_pair(_paths(case, heads, queries, "end")))
    inhibition = made.role("s_inhibition")
    if inhibition:
        made.add("inhibition_values", _by_pair(_paths(case, heads, values_of(inhibition, heads), "s2")))
    return made, direct


def direct_effects(case: Study, heads: Heads) -> Effects:
    """What goes from every head at the last position straight to the logits, through MLPs at most."""
    logits = Receiver("logits", "logits")
    return path_effects(case, Paths((logits,), heads.all(), Where.of("end", case.pairs), "free"))[logits.name]


def values_of(chosen: Chosen, heads: Heads) -> list[Receiver]:
    """The values of the key/value heads that serve heads, each once."""
    found = {}
    for layer, some in chosen.items():
        group = heads.query[layer] // heads.key[layer]
        for head in some:
            found[layer, head // group] = Receiver(f"L{layer}.H{head}.v", "v", layer, head // group)
    return list(found.values())


def _paths(case: Study, heads: Heads, receivers: Sequence[Receiver], at: str) -> Effects | None:
    paths = Paths(tuple(receivers), heads.all(), Where.of(at, case.pairs), "free")
    if not paths.upstream:
        return None
    found = path_effects(case, paths)
    return found[JOINT] if len(receivers) > 1 else found[receivers[0].name]


def _by_pair(effects: Effects | None) -> dict[int, Tensor]:
    return {} if effects is None else {layer: one[:, 0] for layer, one in effects.scores.items()}


def _attention(case: Study, made: Measured) -> None:
    found: dict[str, list[ByLayer]] = {}
    for batch in case.batches:
        trace = case.engine.record(batch, "clean", ["pattern"])
        io, s1, s2, end = (batch.at(mark) for mark in (*MARKS, "end"))
        looked = {
            "to_io": (end, io), "to_s1": (end, s1), "to_s2": (end, s2), "s2_to_s1": (s2, s1),
            "s2_behind_s1": (s2, s1 + 1), "behind_s1_to_s1": (s1 + 1, s1),
        }  # fmt: skip
        for name, (queries, keys) in looked.items():
            found.setdefault(name, []).append(attention(trace, queries, keys))
    for name, parts in found.items():
        made.add(name, joined(case, parts))


def _copying(case: Study, made: Measured) -> None:
    """Copying of both names, of the layers in which some head has a direct effect."""
    effect = made.least.effect
    strong = {n: some.abs() >= effect for n, some in made.means["direct_effect"].items()}
    layers = [layer for layer, some in strong.items() if bool(some.any())]
    raised, lowered = [], []
    for batch in case.batches:
        both = [copying(case, batch, mark, layers) for mark in ("io", "s1")]
        raised.append({layer: (both[0][0][layer] + both[1][0][layer]) / 2 for layer in layers})
        lowered.append({layer: (both[0][1][layer] + both[1][1][layer]) / 2 for layer in layers})
    made.add("copying", joined(case, raised))
    made.add("negative_copying", joined(case, lowered))


def backup(case: Study, movers: Chosen) -> dict[int, Tensor]:
    """What heads add more by themselves, as a share of the difference, with name movers at the mean of both runs."""
    parts = []
    for batch in case.batches:
        clean = case.engine.record(batch, "clean", READS)
        corrupt = case.engine.record(batch, "corrupt", ["z"])
        means = masked_writes(partial(_mean, clean, corrupt), [nodes(movers)], batch.positions("end"))
        held = split_difference(case.engine.record(batch, "clean", READS, means), batch, False).heads
        before = split_difference(clean, batch, False).heads
        parts.append({layer: (held[layer] - before[layer]).cpu() / case.gap for layer in held})
    return joined(case, parts)


def _mean(one: Trace, other: Trace, node: Node, layer: int) -> Tensor:
    return (one.value(node, layer) + other.value(node, layer)) / 2


def joined(case: Study, parts: Sequence[Mapping[int, Tensor]]) -> dict[int, Tensor]:
    """Values by layer of the batches, ``[head, pair]``, back in the order of the pairs."""
    layers = parts[0].keys() if parts else []
    return {layer: case.joined([one[layer] for one in parts]) for layer in layers}
