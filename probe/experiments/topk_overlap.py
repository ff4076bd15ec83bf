"""Top-k overlap: do the positions that one layer looks at most stay the same in other layers?"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from probe.experiments.base import Ask, told
from probe.experiments.gathered import Gathered
from probe.experiments.retrieval_answer import not_applicable
from probe.experiments.seen_rows import SeenRows, cannot_read, drawn_rows, long_enough, see_rows
from probe.metrics.base import MetricInfo
from probe.metrics.making import at_least
from probe.prompts import Prompt
from probe.report.answer import Answer


class _Layer(NamedTuple):
    """What one layer and its heads select, row by row, and what it sees."""

    selected: Bool[Tensor, "row key"]
    heads: Bool[Tensor, "head row key"]
    visible: Bool[Tensor, "row key"]
    tower: str


class TopkOverlap:
    """Share of a head's top-k keys that its previous layer selects too, 0 to 1, mean over rows.

    A layer selects, in each row, the k keys with the most attention summed over its heads; a head its own top k.
    ``|S ∩ S'| / k``. Equal probabilities are taken in the order of the keys. Of `rows` rows, drawn by the seed, those
    count that see more than `margin` · k keys in every layer. The first `skip` positions are nobody's.

    `extra` holds ``layers`` (layer, layer2), the overlap of the layers' own selections; ``chance`` (layer, layer2),
    what k keys drawn blindly from those that each layer sees would give, ``|V ∩ V'| · k / (|V| · |V'|)``; and
    ``by_gap`` (gap), the mean over pairs of layers so far apart.

    Methods that select keys in some layers and reuse them in others rest on it, such as TidalDecode (Yang et al. 2024,
    arXiv:2410.05076).

    Args:
        k: positions that are selected.
        rows: how many rows are drawn.
        skip: positions at the front that are left out, where a sink would be everybody's.
        margin: how many times k keys a row must see, above 1.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="topk_overlap",
        summary="Share of a head's top-k keys that the previous layer selects too, 0 to 1, mean over rows.",
        unit="share",
        better="high",
        paper="Yang et al. 2024",
        bibtex="""@misc{yang2024tidaldecode,
  title={TidalDecode: Fast and Accurate LLM Decoding with Position Persistent Sparse Attention},
  author={Yang, Lijie and Zhang, Zhihao and Chen, Zhuofu and Li, Zikun and Jia, Zhihao},
  year={2024},
  eprint={2410.05076},
  archivePrefix={arXiv}
}""",
    )

    def __init__(self, k: int = 64, rows: int = 32, skip: int = 0, margin: int = 2) -> None:
        at_least("topk_overlap", "k", k, 1)
        at_least("topk_overlap", "rows", rows, 1)
        at_least("topk_overlap", "skip", skip, 0)
        at_least("topk_overlap", "margin", margin, 1)
        self.spec = self.info.name
        self.k, self.rows, self.skip, self.margin = k, rows, skip, margin

    def run(self, ask: Ask) -> list[Answer]:
        """One forward per prompt; those without a row that sees enough keys in every layer are left out by name."""
        prompts, notes = long_enough(ask.texts(), self._needed + 1)
        reason = cannot_read(ask.model)
        found, grids, counted, layers = (
            Gathered(),
            list[tuple[np.ndarray, np.ndarray]](),
            list[int](),
            list[int](),
        )
        for number, prompt in enumerate(() if reason else prompts):
            ask.tell(number, len(prompts), f"{self.spec}: {prompt.id}")
            chosen, lines = self._one(ask, prompt)
            notes += lines
            seen = (
                torch.stack([layer.visible for layer in chosen.values()]).sum(-1).amin(0)
                > self.margin * self.k
            )
            if not bool(seen.any()):
                notes.append(
                    f"left out: no row of {prompt.id!r} sees more than {self.margin * self.k} keys in every layer"
                )
                continue
            layers = sorted(chosen)
            self._heads(prompt.id, chosen, seen, found)
            grids.append(self._grids([chosen[layer] for layer in layers], seen))
            counted.append(int(seen.sum()))
        ask.tell(len(prompts), len(prompts), self.spec)
        if not grids:
            return [not_applicable(self.info, self.spec, ask.model, reason or "; ".join(notes))]
        overlap, chance = (_square(np.mean(values, 0), layers) for values in zip(*grids, strict=True))
        extra = {"layers": overlap, "chance": chance, "by_gap": _by_gap(overlap)}
        how = self._lines(extra, counted, ask.seed)
        return [
            Answer(
                **told(self.spec, self.info, found.tower), head_map=found.mean("overlap"),
                by_prompt=found.of("overlap"), extra=extra, notes=(*how, *dict.fromkeys(notes)),
            )
        ]  # fmt: skip

    @property
    def _needed(self) -> int:
        return self.margin * self.k + self.skip

    def _one(self, ask: Ask, prompt: Prompt) -> tuple[dict[int, _Layer], list[str]]:
        chosen: dict[int, _Layer] = {}

        def take(seen: SeenRows) -> None:
            visible = seen.visible[0].clone()
            visible[:, : self.skip] = False
            p = seen.p[0].double().masked_fill(~visible, -1.0)
            sets = selected(p.sum(0), self.k), selected(p, self.k)
            chosen[seen.layer] = _Layer(*sets, visible, seen.call.place.tower)

        rows = drawn_rows(np.arange(self._needed, len(prompt)), self.rows, ask.seed)
        return chosen, see_rows(ask.model, torch.tensor([prompt.tokens]), rows, take)

    def _heads(self, prompt: str, layers: dict[int, _Layer], rows: Tensor, found: Gathered) -> None:
        """How much of each head's selection its previous layer has; NaN in the first layer."""
        found.start(prompt)
        previous: _Layer | None = None
        for number, here in sorted(layers.items()):
            shared = here.heads if previous is None else here.heads & previous.selected
            share = shared[:, rows].sum(-1).double().mean(-1) / self.k
            found.add("overlap", number, share if previous is not None else share * torch.nan)
            found.tower, previous = here.tower, here

    def _grids(self, layers: Sequence[_Layer], rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Overlap and chance, layer by layer, mean over rows."""
        sets = torch.stack([layer.selected[rows] for layer in layers]).double()
        seen = torch.stack([layer.visible[rows] for layer in layers]).double()
        both = torch.einsum("arj,brj->abr", sets, sets) / self.k
        common = torch.einsum("arj,brj->abr", seen, seen)
        sizes = seen.sum(-1)
        chance = common * self.k / (sizes[:, None] * sizes[None])
        return both.mean(-1).cpu().numpy(), chance.mean(-1).cpu().numpy()

    def _lines(self, extra: dict[str, xr.DataArray], rows: Sequence[int], seed: int) -> list[str]:
        apart = ~np.eye(extra["layers"].shape[0], dtype=bool)
        found, chance = (extra[name].values[apart] for name in ("layers", "chance"))
        lines = [
            f"k={self.k}, {', '.join(map(str, rows))} rows that see more than {self.margin * self.k} keys, drawn with "
            f"seed {seed}; the first {self.skip} positions are left out"
        ]
        if found.size:
            lines.append(
                f"two layers share {found.mean():.3f} of their top {self.k}, by chance {chance.mean():.3f} (means over "
                "pairs of layers)"
            )
        return lines


def selected(p: Float[Tensor, "*head row key"], k: int) -> Bool[Tensor, "*head row key"]:
    """The k largest of each row as flags; of equals, the earlier key first."""
    order = torch.sort(p, dim=-1, descending=True, stable=True).indices[..., :k]
    return torch.zeros_like(p, dtype=torch.bool).scatter(-1, order, True)


def _square(values: np.ndarray, layers: Sequence[int]) -> xr.DataArray:
    at = np.array(layers, dtype=np.int64)
    return xr.DataArray(values, dims=("layer", "layer2"), coords={"layer": at, "layer2": at})


def _by_gap(square: xr.DataArray) -> xr.DataArray:
    """The mean of each diagonal, from one layer apart on."""
    size = square.shape[0]
    values = [float(np.diagonal(square.values, gap).mean()) for gap in range(1, size)]
    return xr.DataArray(np.array(values), dims=("gap",), coords={"gap": np.arange(1, size)})
