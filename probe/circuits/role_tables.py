"""Numbers and roles of heads as tables, and what the heads of a role carry together beside random ones."""

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from probe.circuits.controls import Chosen, matched, nodes, size, together
from probe.circuits.receivers import Heads
from probe.circuits.reporting import labelled
from probe.circuits.study import Study

RANDOM_SETS = 5


def measure_table(means: Mapping[str, Mapping[int, Tensor]], names: list[str], heads: Heads) -> xr.DataArray:
    """Numbers by name, ``{layer: [head]}``, with axes (measure, layer, head); NaN where not measured."""
    table = np.stack([_grid(means.get(name, {}), heads) for name in names])
    return labelled(table, measure=names, **_axes(heads))


def role_table(roles: Mapping[str, Chosen], heads: Heads) -> xr.DataArray:
    """1 where a head has a role, else 0, with axes (role, layer, head)."""
    table = []
    for chosen in roles.values():
        flags = {layer: torch.zeros(count) for layer, count in heads.query.items()}
        for layer, some in chosen.items():
            flags[layer][list(some)] = 1
        table.append(_grid(flags, heads))
    return labelled(np.stack(table), role=list(roles), **_axes(heads))


def role_effects(case: Study, heads: Heads, roles: Mapping[str, Chosen]) -> dict[str, xr.DataArray]:
    """``role_effect`` (role) and ``random_effect`` (role, draw): the share of the difference that heads carry together.

    The corrupt run's z go into the clean one at all positions; random heads are as many others in the same layers. NaN
    for roles that no head has.
    """
    found = {name: chosen for name, chosen in roles.items() if size(chosen)}
    effect, control = np.full(len(roles), np.nan), np.full((len(roles), RANDOM_SETS), np.nan)
    if found:
        drawn = np.random.default_rng(case.options.seed)
        sets = [
            nodes(one)
            for chosen in found.values()
            for one in (chosen, *(matched(chosen, heads.query, drawn) for _ in range(RANDOM_SETS)))
        ]
        values = together(case, sets).mean(-1).numpy().reshape(len(found), 1 + RANDOM_SETS)
        rows = [list(roles).index(name) for name in found]
        effect[rows], control[rows] = values[:, 0], values[:, 1:]
    return {
        "role_effect": labelled(effect, role=list(roles)),
        "random_effect": labelled(control, role=list(roles), draw=list(range(RANDOM_SETS))),
    }


def named_roles(roles: Mapping[str, Chosen]) -> list[str]:
    """One line per role with its heads."""
    lines = []
    for name, chosen in roles.items():
        listed = [f"L{layer}.H{head}" for layer, some in chosen.items() for head in some]
        lines.append(f"{name}: {', '.join(listed) or 'none'}")
    return lines


def _axes(heads: Heads) -> dict[str, list[int]]:
    return {"layer": sorted(heads.query), "head": list(range(max(heads.query.values())))}


def _grid(values: Mapping[int, Tensor], heads: Heads) -> np.ndarray:
    layers = sorted(heads.query)
    whole = np.full((len(layers), max(heads.query.values())), np.nan)
    for row, layer in enumerate(layers):
        if layer in values:
            whole[row, : len(values[layer])] = values[layer].numpy()
    return whole
