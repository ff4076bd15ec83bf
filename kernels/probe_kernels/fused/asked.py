"""From a `Want` to the kernels' functionals, and from their answers to the fields of `Attended`."""

import torch
from torch import Tensor

from probe_kernels.fused.attach import coarser
from probe_kernels.fused.launch import RowAnswers
from probe_kernels.fused.problem import Functional, as_int32, renumbered
from probe_kernels.types import Attended, Want

Name = tuple[str, object]  # field of Attended, and the key in it


def of_rows(want: Want) -> dict[Name, Functional]:
    """Statistics of rows that are linear in p; raises `ValueError` where a label exceeds 32 bits."""
    made: dict[Name, Functional] = {}
    if want.distance:
        made["distance", None] = Functional("distance")
    for n in want.first:
        made["first", n] = Functional("first", (n,))
    for o in want.offsets:
        made["offsets", o] = Functional("offset", (o,))
    for name, match in want.matches.items():
        made["matches", name] = Functional("match", (0,), *renumbered(match.query_ids, match.key_ids))
    for name, labels in want.key_groups.items():
        ids = as_int32(labels)
        for g in range(count(labels)):
            made["key_groups", (name, g)] = Functional("key_group", (g,), None, ids)
    return made


def of_columns(want: Want) -> dict[Name, Functional]:
    """Sums over queries; raises `ValueError` where a label exceeds 32 bits."""
    made: dict[Name, Functional] = {}
    if want.column:
        made["column", None] = Functional("whole")
    for lo, hi in want.bands:
        made["bands", (lo, hi)] = Functional("band", (lo, hi))
    for name, labels in want.query_groups.items():
        ids = as_int32(labels)
        for g in range(count(labels)):
            made["query_groups", (name, g)] = Functional("query_group", (g,), ids, None)
    return made


def count(labels: Tensor) -> int:
    """Number of groups of a labelling: -1 is none."""
    return max(int(labels.max()) + 1, 0) if labels.numel() else 0


def take_rows(out: Attended, answers: RowAnswers, names: tuple[Name, ...], want: Want) -> None:
    """Put one launch's answers, its splits joined, into `out`."""
    if answers.z is not None:
        out.z = answers.z[0]
    for name in ("entropy", "square", "top_p"):
        found = getattr(answers, name)
        if found is not None:
            setattr(out, name, found[0])
    if answers.top is not None:
        out.top_index = answers.top[0].long()
    if answers.table is not None:
        out.table = coarser(answers.table, want.table // answers.table_keys)
    if answers.masses is not None:
        for asked, mass in zip(names, answers.masses[:, 0], strict=True):
            _take_mass(out, asked, mass, want)


def _take_mass(out: Attended, name: Name, mass: Tensor, want: Want) -> None:
    field, key = name
    if field == "distance":
        out.distance = mass
    elif isinstance(key, tuple):
        labels, g = key
        if labels not in out.key_groups:
            out.key_groups[labels] = mass.new_zeros((*mass.shape, count(want.key_groups[labels])))
        out.key_groups[labels][..., g] = mass
    else:
        getattr(out, field)[key] = mass


def take_columns(out: Attended, sums: dict[Name, Tensor], want: Want, size: tuple[int, int, int]) -> None:
    """Put sums over queries, ``[B, H, K]`` each, into `out`; size is (B, H, K)."""
    batch, heads, n_key = size
    for name, labels in want.query_groups.items():
        groups = [sums["query_groups", (name, g)] for g in range(count(labels))]
        empty = torch.zeros((batch, heads, 0, n_key), device=labels.device)
        out.query_groups[name] = torch.stack(groups, dim=2) if groups else empty
    out.column = sums.get(("column", None))
    out.bands = {band: sums["bands", band] for band in want.bands}
