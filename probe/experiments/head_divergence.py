"""Head divergence: how far each head's output moves when a span (image, document, system prompt) is taken out."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import xarray as xr
from torch import Tensor

from probe.errors import InputError, UsageError
from probe.experiments.base import Ask, told
from probe.experiments.gathered import Gathered, mean_over
from probe.experiments.head_outputs import Outputs, last_outputs
from probe.experiments.head_pairs import Pair, pair_of_inputs, pair_of_prompt
from probe.experiments.retrieval_answer import not_applicable
from probe.experiments.seen_rows import cannot_read
from probe.interventions.divergence import head_divergence, without_outliers
from probe.metrics.base import MetricInfo
from probe.metrics.making import at_least, one_of
from probe.models import LoadedModel, as_loaded
from probe.report.answer import Answer

At = Literal["last", "after"]
Positions = Literal["shift", "keep"]


class HeadDivergence:
    """Distance ``VHD = ‖z(with) - z(without)‖₂`` of a head's outputs (before W_O) with and without a span, 0 or more.

    Compared at the prompt's last token, where the next one is predicted (the paper's); ``at=after`` takes every token
    after the span, keeps a token map, and averages over them. In each row and layer a head whose VHD and text
    activation ``TA = ‖z(without)‖₂²`` both lie above mean + standard deviation over the layer's heads counts as 0
    (``outliers=keep``: as it is). Prompts count alike. The rule is that of the intervention `reinforce`, which makes
    layers louder as it goes; here no layer is changed.

    Without the span, later tokens lie closer to what came before it: ``positions=shift`` closes the gap (their rotary
    or learned positions shift), ``positions=keep`` gives each token the position that it had. The paper does not say.

    `extra` holds ``t_vhd`` (prompt): Σ over layers of the sum of a layer's `k` largest VHD; ``t_vhd_by_layer``; and
    head maps ``raw`` (outliers kept), ``text_activation``, and ``relative``, raw / √TA, since VHD is not normalised
    and heads of large outputs win.

    He et al. 2025, Cracking the Code of Hallucination in LVLMs with Vision-aware Head Divergence (arXiv:2412.13949).

    Args:
        span: the span's name, or several joined by ``+``, all taken out together; they must not overlap.
        at: ``last`` or ``after``.
        positions: ``shift`` or ``keep``.
        k: heads of a layer that T-VHD adds up (the paper does not state it); 0 = half of them.
        outliers: ``zero`` (the paper's) or ``keep``.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="head_divergence",
        summary="Distance of a head's outputs with and without a span of the prompt, 0 or more.",
        unit="activation",
        better="high",
        paper="He et al. 2025",
        bibtex="""@inproceedings{he2025cracking,
  title={Cracking the Code of Hallucination in {LVLM}s with Vision-aware Head Divergence},
  author={He, Jinghan and Zhu, Kuan and Guo, Haiyun and Fang, Junfeng and Hua, Zhenglin and Jia, Yuheng and
          Tang, Ming and Chua, Tat-Seng and Wang, Jinqiao},
  booktitle={Annual Meeting of the Association for Computational Linguistics},
  year={2025}
}""",
        causal_only=True,
        per_token=True,
    )

    def __init__(
        self,
        span: str,
        at: At = "last",
        positions: Positions = "shift",
        k: int = 0,
        outliers: Literal["zero", "keep"] = "zero",
    ) -> None:
        one_of("head_divergence", "at", at, get_args(At))
        one_of("head_divergence", "positions", positions, get_args(Positions))
        one_of("head_divergence", "outliers", outliers, ("zero", "keep"))
        at_least("head_divergence", "k", k, 0)
        self.names = tuple(span.split("+"))
        if not all(self.names) or len(set(self.names)) < len(self.names):
            raise UsageError(
                f"head_divergence: span was {span!r}; give a span's name, or different ones joined by +"
            )
        self.spec = f"{self.info.name}:span={span}"
        self.at, self.positions, self.k, self.outliers = at, positions, k, outliers

    def run(self, ask: Ask) -> list[Answer]:
        """Two forwards per prompt, with the span and without it.

        Raises:
            InputError: a prompt without the span, with spans that overlap or are empty, with nothing left, or with
                nothing after them.
            UsageError: ``positions=keep`` on a model that makes its positions itself.
        """
        if not ask.prompts:
            raise InputError(
                f"{self.spec} was asked; the shipped text has no spans: give prompts with the span {self.names[0]!r}"
            )
        keep = self.positions == "keep"
        pairs = [pair_of_prompt(ask.model, one, self.names, self.spec, keep=keep) for one in ask.prompts]
        return self._answers(ask.model, pairs, ask)

    def run_pair(
        self, model: object, with_inputs: Mapping[str, Any], without_inputs: Mapping[str, Any]
    ) -> list[Answer]:
        """The same on ready-made inputs of one sequence each, pixels included, that end in the same tokens.

        What comes after the span is what both have at the end. The span's own name says nothing here.

        Raises:
            InterventionError: inputs that are not one sequence.
            InputError: sequences that do not end in the same token, or that are the same; with ``positions=keep``,
                a second one that is not the first without one stretch.
        """
        loaded = as_loaded(model)
        pair = pair_of_inputs(loaded, with_inputs, without_inputs, self.spec, keep=self.positions == "keep")
        return self._answers(loaded, [pair], None)

    def _answers(self, loaded: LoadedModel, pairs: Sequence[Pair], ask: Ask | None) -> list[Answer]:
        reason = cannot_read(loaded)
        found, maps, notes = Gathered(), dict[int, xr.DataArray](), dict[str, None]()
        for number, pair in enumerate(() if reason else pairs):
            if ask is not None:
                ask.tell(number, len(pairs), f"{self.spec}: {pair.id}")
            count = 1 if self.at == "last" else pair.after
            whole, lines = last_outputs(loaded, pair.whole, count)
            cut, more = last_outputs(loaded, pair.cut, count)
            notes |= dict.fromkeys((*lines, *more))
            if not whole:
                reason = "the model has no decoder whose head outputs can be seen"
                break
            by_row = self._compare(pair, whole, cut, found)
            if self.at == "after":
                maps[number] = _token_map(found.of("vhd"), by_row, pair)
        if reason:
            return [not_applicable(self.info, self.spec, loaded, reason)]
        vhd = found.of("vhd")
        extra = {name: found.mean(name) for name in ("raw", "text_activation", "relative")}
        by_layer = found.of("t_vhd").isel(head=0, drop=True).drop_vars("n_heads")
        extra |= {"t_vhd": by_layer.sum("layer"), "t_vhd_by_layer": by_layer}
        return [
            Answer(
                **told(self.spec, self.info), head_map=mean_over(vhd, "prompt"), by_prompt=vhd, token_maps=maps,
                extra=extra, notes=(*self._lines(pairs, extra["t_vhd"]), *notes),
            )
        ]  # fmt: skip

    def _compare(self, pair: Pair, whole: Outputs, cut: Outputs, found: Gathered) -> dict[int, Tensor]:
        """Gather one prompt's numbers; VHD by row of every layer."""
        found.start(pair.id)
        by_row = {}
        for layer, z in whole.items():
            raw, activation = head_divergence(z.double(), cut[layer].double())
            vhd = without_outliers(raw, activation) if self.outliers == "zero" else raw
            k = self.k or max(1, len(vhd) // 2)
            largest = vhd.sort(0, descending=True).values[:k].sum(0)
            relative = raw / activation.sqrt()
            for name, values in (
                ("vhd", vhd),
                ("raw", raw),
                ("text_activation", activation),
                ("relative", relative),
            ):
                found.add(name, layer, values.mean(-1))
            found.add("t_vhd", layer, largest.mean()[None])
            by_row[layer] = vhd
        return by_row

    def _lines(self, pairs: Sequence[Pair], t_vhd: xr.DataArray) -> list[str]:
        where = (
            "at the last token"
            if self.at == "last"
            else "at the tokens after it, " + _counts(p.after for p in pairs)
        )
        how = (
            "the gap is closed, so later positions shift"
            if self.positions == "shift"
            else "tokens keep their positions"
        )
        largest = f"the {self.k} largest" if self.k else "the larger half of the"
        return [
            f"taken out: {_counts(p.removed for p in pairs)} of {_counts(p.length for p in pairs)} tokens; {how} "
            f"(positions={self.positions}); compared {where}; outliers={self.outliers}",
            f"T-VHD, over {largest} heads of every layer, is {float(t_vhd.mean()):.4g} (mean over prompts; the paper "
            "does not state how many)",
        ]


def _token_map(shape: xr.DataArray, by_row: Mapping[int, Tensor], pair: Pair) -> xr.DataArray:
    """VHD by token, NaN before the span ends."""
    like = shape.isel(prompt=-1, drop=True)
    grid = np.full((*like.shape, pair.length), np.nan, dtype=np.float32)
    for row, layer in enumerate(like.coords["layer"].values):
        values = by_row.get(int(layer))
        if values is not None:
            grid[row, : len(values), pair.length - values.shape[1] :] = values.cpu().numpy()
    coords = {**like.coords, "token": np.arange(pair.length, dtype=np.int64)}
    return xr.DataArray(grid, dims=("layer", "head", "token"), coords=coords)


def _counts(numbers: Any) -> str:
    """Numbers of several prompts, in words."""
    found = [int(number) for number in numbers]
    return str(found[0]) if len(set(found)) == 1 else f"{min(found)} to {max(found)}"
