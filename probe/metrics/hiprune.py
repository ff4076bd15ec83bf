"""HiPrune: which tokens of an encoder a fixed budget keeps, and how much of the attention they receive."""

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from probe_kernels.types import Attended, Want
from torch import Tensor, nn

from probe.errors import UnknownNameError, UsageError
from probe.metrics.base import Cell, FoldMetric, MetricInfo, wanted
from probe.metrics.cls_token import no_cls, vision_has_cls
from probe.metrics.patch_sets import ANCHOR, BUFFER, REGISTER, patch_sets
from probe.seam.call import AttentionCall
from probe.seam.places import places

_MOST_PREFIX = 8  # CLS and register tokens before the patches, at most, where the grid is guessed


class Hiprune(FoldMetric):
    """Share of the attention given to patches in the deep layer that the kept patches receive, in [0, 1].

    ``T = round(keep · patches)`` patches are kept: anchors, which receive most (column mean over heads and queries)
    in the middle layer, ``round(T · alpha / 5)`` of them; buffers, their neighbours on the grid; registers, which
    receive most in the deep layer, for the rest. Token map: 1 anchor, 2 buffer, 3 register, 0 dropped, undefined
    before the patches (CLS). `extra`: how many of each, and ``alike``, the share that as many patches hold on
    average.

    Liu et al. 2025, HiPrune (arXiv:2508.00553). Deviation: neighbours do not run over the ends of rows; ``wrap=true``
    lets them, as the authors' code does. Vision towers, and text encoders as a grid of one row.

    Args:
        layer: The middle layer; -1 = at 3/8 of the depth, which is LLaVA's 9 of 24.
        deep: The deep layer; negative counts from the end (-2: the one whose output LLaVA takes).
        keep: Share of patches that are kept.
        alpha: Share of these that are anchors with their buffers.
        grid: ``HIGHxWIDE`` in patches; left out, the largest square that fits.
        wrap: Neighbours as in the authors' code.

    >>> Hiprune(keep=0.5, grid="4x8").spec
    'hiprune:keep=0.5,grid=4x8'
    """

    info: ClassVar = MetricInfo(
        name="hiprune",
        summary="Share of attention to patches that HiPrune's kept patches receive in the deep layer, in [0, 1].",
        unit="share",
        better="high",
        paper="Liu et al. 2025",
        bibtex="""@misc{liu2025hiprune,
  title={{HiPrune}: Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language Models},
  author={Liu, Jizhihui and Du, Feiyi and Zhu, Guangdao and Lian, Niu and Li, Jun and Chen, Bin},
  year={2025},
  eprint={2508.00553},
  archivePrefix={arXiv}
}""",
        per_token=True,
        axis="layer",
    )
    need: ClassVar = Want(z=False, column=True)

    def __init__(
        self,
        layer: int = -1,
        deep: int = -2,
        keep: float = 1 / 3,
        alpha: float = 0.1,
        grid: str = "",
        wrap: bool = False,
    ) -> None:
        super().__init__(layer=layer, deep=deep, keep=keep, alpha=alpha, grid=grid, wrap=wrap)
        if not 0.0 < keep <= 1.0 or not 0.0 <= alpha <= 1.0:
            raise UsageError(
                f"hiprune: keep was {keep} and alpha {alpha}; allowed is 0 < keep <= 1, 0 <= alpha <= 1"
            )
        self.layer, self.deep, self.keep, self.alpha, self.wrap = layer, deep, keep, alpha, wrap
        self.grid = _grid(grid)
        self._vision = False
        self._layers: dict[str, _Layers] = {}
        self._middle: dict[tuple[int, str], Tensor] = {}  # by prompt and tower: what patches receive there

    def prepare(self, model: nn.Module) -> Callable[[], None]:
        """Settle the two layers of each encoder tower; raises `UnknownNameError` for layers that it does not have."""
        self._vision = vision_has_cls(model)
        depth: dict[str, set[int]] = {}
        for place in places(model).values():
            if place.tower in ("vision", "encoder"):
                depth.setdefault(place.tower, set()).add(place.layer)
        self._layers = {tower: _Layers.of(sorted(known), self) for tower, known in depth.items()}
        return lambda: None

    def applies(self, call: AttentionCall) -> str | None:
        """Only to encoders, and where the patches are a grid."""
        reason = super().applies(call)
        if reason is not None:
            return reason
        if call.causal or call.place.tower not in self._layers:
            return "it prunes the tokens of an encoder (a vision tower, or a text encoder)"
        n = call.size[1]
        if self._shape(call, n) is None and (call.place.tower == "vision" or self.grid is not None):
            return f"{n} tokens are no such grid of patches: give grid=HIGHxWIDE"
        return None

    def asks(self, call: AttentionCall) -> Want:
        """Column mass in the two layers."""
        return self.need if call.place.layer in self._layers[call.place.tower] else Want(z=False)

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Remember what patches receive in the middle layer; choose the sets in the deep one."""
        layers = self._layers[call.place.tower]
        if call.place.layer not in layers:
            return
        real = call.key_real.cpu()
        received = self.finite(wanted(attended.column, "column").double().mean(1), call)
        for row, flags in enumerate(real):
            key = (call.batch.prompts[row], call.place.tower)
            values = received[row][flags]
            shape = self._shape(call, len(values))
            if shape is None:
                continue
            if call.place.layer == layers.middle:
                self._middle[key] = values[shape.prefix :]
            if call.place.layer == layers.deep and key in self._middle:
                self._choose(self.cell(call, row), self._middle.pop(key), values, shape)

    def token(self, cell: Cell) -> Float[Tensor, "1 token"]:
        """The set of every token; NaN before the patches."""
        return cell["sets"][None]

    def extra(self, cell: Cell) -> dict[str, tuple[float, float]]:
        """How many patches are in each set, and the share that as many patches hold on average."""
        names = {"anchors": ANCHOR, "buffers": BUFFER, "registers": REGISTER}
        counts = {name: (float((cell["sets"] == number).sum()), 1.0) for name, number in names.items()}
        patches = cell["sets"].isfinite()
        return {**counts, "alike": (float((cell["sets"] > 0).sum()) / float(patches.sum()), 1.0)}

    def _choose(self, cell: Cell, middle: Tensor, deep: Tensor, shape: "_Shape") -> None:
        patches = deep[shape.prefix :]
        keep = max(1, round(self.keep * len(patches)))
        sets = patch_sets(middle, patches, keep, self.alpha, shape.wide, wrap=self.wrap)
        before = torch.full((shape.prefix,), torch.nan, dtype=torch.float64)
        cell["sets"] = torch.cat([before, sets.double()])
        cell["total"] = patches[sets > 0].sum()[None] / patches.sum().clamp_min(1e-300)
        cell["count"] = torch.ones(1, dtype=torch.float64)

    def _shape(self, call: AttentionCall, n: int) -> "_Shape | None":
        """How `n` tokens lie: what stands before the patches, and how wide their grid is; None where they are none."""
        if self.grid is not None:
            found = _Shape(n - math.prod(self.grid), self.grid[1])
        elif call.place.tower == "encoder":
            prefix = 0 if no_cls(call, self._vision) else 1
            found = _Shape(prefix, n - prefix)
        else:
            side = math.isqrt(n)
            found = _Shape(n - side * side, side)
        return found if 0 <= found.prefix <= _MOST_PREFIX and found.wide > 0 else None


class _Shape(NamedTuple):
    """Tokens before the patches, and patches in a row of the grid."""

    prefix: int
    wide: int


class _Layers(NamedTuple):
    """The two layers of one tower."""

    middle: int
    deep: int

    @classmethod
    def of(cls, known: list[int], asked: Hiprune) -> "_Layers":
        deep = known[max(asked.deep, -len(known))] if asked.deep < 0 else asked.deep
        middle = asked.layer
        if middle == -1:
            middle = min(known[min(round(0.375 * len(known)), len(known) - 1)], deep)
        for layer in (middle, deep):
            if layer not in known:
                raise UnknownNameError.of("layer", str(layer), {str(one) for one in known})
        if middle > deep:
            raise UsageError(
                f"hiprune: the middle layer {middle} lies behind the deep layer {deep}; turn them round"
            )
        return cls(middle, deep)


def _grid(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    high, _, wide = text.partition("x")
    if not (high.isdigit() and wide.isdigit() and int(high) and int(wide)):
        raise UsageError(f"hiprune: grid was {text!r}; write it like 24x24, rows first")
    return int(high), int(wide)
