"""From a metric's cells to answers: pooled head maps, values per prompt and token maps, one answer per tower."""

from collections.abc import Callable, Iterable

import numpy as np
import xarray as xr
from torch import Tensor

from probe.errors import MetricError
from probe.metrics.base import Cell, Metric
from probe.report.answer import Answer

Grid = np.ndarray  # [layer, head], NaN where a layer has fewer heads or the value is undefined


def answers(metric: Metric, *, by_prompt: bool = True, tokens: bool = True) -> list[Answer]:
    """The answers of a metric that has seen its calls, one per tower.

    Args:
        metric: A metric whose `update` has been called.
        by_prompt: Also give the values of each prompt, axes (prompt, layer, head).
        tokens: Also give the token map of each prompt, axes (layer, head, token), where the metric keeps one.

    Raises:
        MetricError: nothing was seen, or token maps are asked of rows that beams have reordered.
    """
    if not metric.cells:
        raise MetricError(
            f"{metric.spec} was asked; it saw no attention: run the model while the metric observes it"
        )
    if tokens and metric.info.per_token and reordered(metric):
        raise MetricError(
            f"{metric.spec} was asked with token maps; beams or a cropped cache reordered its tokens: "
            "ask for head maps only (tokens=False)"
        )
    return [
        _answer(metric, _Tower(metric, name), by_prompt, tokens)
        for name in _unique(k.tower for k in metric.cells)
    ]


class _Tower:
    """The cells of one tower, by prompt and layer."""

    def __init__(self, metric: Metric, name: str) -> None:
        self.name = name
        self.cells = {(k.prompt, k.layer): cell for k, cell in metric.cells.items() if k.tower == name}
        self.prompts = sorted({prompt for prompt, _ in self.cells})
        self.layers = sorted({layer for _, layer in self.cells})
        self.heads = {(p, layer): _heads(metric, cell) for (p, layer), cell in self.cells.items()}
        most = dict.fromkeys(self.layers, 0)
        for (_, layer), n in self.heads.items():
            most[layer] = max(most[layer], n)
        self.n_heads = list(most.values())
        self._filled: dict[int, list[tuple[int, Cell]]] = {prompt: [] for prompt in self.prompts}
        row_of = {layer: row for row, layer in enumerate(self.layers)}
        for (prompt, layer), cell in self.cells.items():
            if "not_applicable" not in cell:
                self._filled[prompt].append((row_of[layer], cell))

    def coords(self, axis: str) -> dict[str, object]:
        """Labels of a head map."""
        n_heads = ("layer", np.array(self.n_heads, dtype=np.int64))
        layers = np.array(self.layers, dtype=np.int64)
        if axis == "layer":
            return {"layer": layers}
        return {"layer": layers, axis: np.arange(max(self.n_heads), dtype=np.int64), "n_heads": n_heads}

    def applicable(self, prompts: Iterable[int]) -> Iterable[tuple[int, Cell]]:
        """Row of the map and cell, for every cell of these prompts that holds numbers."""
        for prompt in prompts:
            yield from self._filled[prompt]

    def sums(self, metric: Metric, prompts: Iterable[int]) -> tuple[Grid, Grid]:
        """Σ totals and Σ weights over prompts, per head."""
        total = np.zeros((len(self.layers), max(self.n_heads)))
        weight = np.zeros_like(total)
        for row, cell in self.applicable(prompts):
            one, count = (part.numpy() for part in metric.head(cell))
            total[row, : len(one)] += np.where(count > 0, one, 0.0)
            weight[row, : len(one)] += count
        return total, weight

    def pooled(self, metric: Metric, prompts: Iterable[int]) -> Grid:
        """Σ totals / Σ weights over prompts, per head, after the metric's last step.

        A metric with a method ``pool(cells) -> [head]`` answers itself from all the cells of a layer.
        """
        pool: Callable[[list[Cell]], Tensor] | None = getattr(metric, "pool", None)
        if pool is not None:
            return self._from_cells(pool, prompts)
        total, weight = self.sums(metric, prompts)
        ratio = np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)
        finish: Callable[[Grid], Grid] = getattr(metric, "finish", lambda values: values)
        return finish(ratio)

    def _from_cells(self, pool: Callable[[list[Cell]], Tensor], prompts: Iterable[int]) -> Grid:
        cells: dict[int, list[Cell]] = {}
        for row, cell in self.applicable(prompts):
            cells.setdefault(row, []).append(cell)
        grid = np.full((len(self.layers), max(self.n_heads)), np.nan)
        for row, found in cells.items():
            values = pool(found).numpy()
            grid[row, : len(values)] = values
        return grid


def _answer(metric: Metric, tower: _Tower, by_prompt: bool, tokens: bool) -> Answer:
    info, axis = metric.info, metric.info.axis
    head_map = _labelled(tower.pooled(metric, tower.prompts), axis, tower.coords(axis))
    return Answer(
        spec=metric.spec, name=info.name, summary=info.summary, unit=info.unit, better=info.better,
        paper=info.paper, bibtex=info.bibtex, tower=tower.name, head_map=head_map,
        by_prompt=_by_prompt(metric, tower) if by_prompt else None,
        token_maps=_token_maps(metric, tower) if tokens and info.per_token else {},
        extra={**_extra(metric, tower), **_maps(metric, tower)}, notes=_notes(metric, tower),
    )  # fmt: skip


def _labelled(values: np.ndarray, axis: str, coords: dict[str, object]) -> xr.DataArray:
    """A head map; the axis of one value is dropped where a layer has one."""
    if axis == "layer":
        return xr.DataArray(values[:, 0], dims=("layer",), coords=coords)
    return xr.DataArray(values, dims=("layer", axis), coords=coords)


def _by_prompt(metric: Metric, tower: _Tower) -> xr.DataArray:
    axis = metric.info.axis
    values = np.stack([tower.pooled(metric, [prompt]) for prompt in tower.prompts])
    # What each prompt counts for in the head map, so that intervals over prompts pool as the head map does.
    weights = np.stack([tower.sums(metric, [prompt])[1] for prompt in tower.prompts])
    dims: tuple[str, ...] = ("prompt", "layer", axis)
    if axis == "layer":
        dims, values, weights = ("prompt", "layer"), values[..., 0], weights[..., 0]
    each = weights.reshape(len(weights), -1)
    alike = bool((each == each[:, :1]).all())
    weight = ("prompt", each[:, 0]) if alike else (dims, weights)
    coords = {"prompt": np.array(tower.prompts, dtype=np.int64), **tower.coords(axis), "weight": weight}
    return xr.DataArray(values, dims=dims, coords=coords)


def _token_maps(metric: Metric, tower: _Tower) -> dict[int, xr.DataArray]:
    maps: dict[int, xr.DataArray] = {}
    for prompt in tower.prompts:
        rows = [(row, metric.token(cell)) for row, cell in tower.applicable([prompt])]
        found = [(row, values.numpy()) for row, values in rows if values is not None]
        if not found:
            continue
        length = max(values.shape[1] for _, values in found)
        grid = np.full((len(tower.layers), max(tower.n_heads), length), np.nan, dtype=np.float32)
        for row, values in found:
            grid[row, : values.shape[0], : values.shape[1]] = values
        coords = {**tower.coords(metric.info.axis), "token": np.arange(length, dtype=np.int64)}
        if metric.info.axis == "layer":
            maps[prompt] = xr.DataArray(grid[:, 0], dims=("layer", "token"), coords=coords)
        else:
            maps[prompt] = xr.DataArray(grid, dims=("layer", metric.info.axis, "token"), coords=coords)
    return maps


def _extra(metric: Metric, tower: _Tower) -> dict[str, xr.DataArray]:
    extra: Callable[[Cell], dict[str, tuple[float, float]]] = getattr(metric, "extra", lambda _: {})
    sums: dict[str, np.ndarray] = {}
    for row, cell in tower.applicable(tower.prompts):
        for name, (total, weight) in extra(cell).items():
            sums.setdefault(name, np.zeros((2, len(tower.layers))))[:, row] += total, weight
    layers = np.array(tower.layers, dtype=np.int64)
    with np.errstate(invalid="ignore"):
        return {
            n: xr.DataArray(t / w, dims=("layer",), coords={"layer": layers}) for n, (t, w) in sums.items()
        }


def _maps(metric: Metric, tower: _Tower) -> dict[str, xr.DataArray]:
    """Further head maps: those of a metric with a method ``maps(cell) -> {name: (total, weight)}``."""
    maps: Callable[[Cell], dict[str, tuple[Tensor, Tensor]]] = getattr(metric, "maps", lambda _: {})
    sums: dict[str, np.ndarray] = {}
    for row, cell in tower.applicable(tower.prompts):
        for name, parts in maps(cell).items():
            both = sums.setdefault(name, np.zeros((2, len(tower.layers), max(tower.n_heads))))
            total, weight = (part.numpy() for part in parts)
            both[0, row, : len(total)] += np.where(weight > 0, total, 0.0)
            both[1, row, : len(total)] += weight
    coords = tower.coords(metric.info.axis)
    with np.errstate(invalid="ignore"):
        return {name: _labelled(t / w, metric.info.axis, coords) for name, (t, w) in sums.items()}


def _notes(metric: Metric, tower: _Tower) -> tuple[str, ...]:
    silent: dict[str, list[int]] = {}
    for (_, layer), cell in tower.cells.items():
        if "not_applicable" in cell:
            reason = bytes(cell["not_applicable"].tolist()).decode()
            silent.setdefault(reason, []).append(layer)
    lines = []
    for reason, layers in silent.items():
        some = sorted(set(layers))
        where = "" if some == tower.layers else f", layers {', '.join(map(str, some))}"
        lines.append(f"{metric.spec} is not applicable to the {tower.name} tower{where}: {reason}")
    for name, values in _extra(metric, tower).items():
        lines.append(f"{metric.spec}: {name} is {float(values.mean()):.3f} (mean over layers)")
    return tuple(lines)


def _heads(metric: Metric, cell: Cell) -> int:
    return int(cell["n_heads"]) if "not_applicable" in cell else len(metric.head(cell)[0])


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))


def reordered(metric: Metric) -> bool:
    """Whether beams or a cropped cache reordered tokens, so that token maps of this metric are refused."""
    return any("reordered" in cell for cell in metric.cells.values())
