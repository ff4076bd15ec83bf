"""Source share: does a head look at what it was given, or at what has been written since?"""

from typing import ClassVar, Literal, get_args

import torch
from probe_kernels.types import Attended, Want
from torch import Tensor
from torch.nn.functional import pad

from probe.metrics.base import Cell, MetricInfo
from probe.metrics.in_span import InSpan
from probe.metrics.making import one_of
from probe.metrics.sight import uniform_share
from probe.metrics.token_metric import TokenMetric, TokenSums
from probe.seam.call import AttentionCall
from probe.shapes import RowStat

Form = Literal["share", "excess", "lookback"]

_SOURCE, _FIRST, _OTHER = 0, 1, 2  # groups of keys; the very first token is one by itself


class SourceShare(TokenMetric):
    """Mean probability on the tokens of `source`, in [0, 1], over the rows outside it that come after it began.

    By default the prompt against the response: M_i = Σ_{j in source} p_ij; the token map is M by row, all rows. Plain
    dilution makes M fall as the response grows: the map ``uniform`` is u_i, the share of a row's visible keys that are
    the source's, which a head has that looks at all of them alike. ``form=excess`` is M - u, from -1 to 1.
    ``form=lookback`` is the lookback ratio of Chuang et al. 2024 (arXiv:2407.07071), (M / u) / (M / u + R / (1 - u))
    with R the mass on other keys, 0.5 for a uniform head, undefined for rows that see only one of the two; a row's own
    token counts among the other keys here. The map ``without_first`` is Σ M / Σ (M + R) with the first token, a sink
    of many heads, left out of both. Coverage is the share of rows that count; without any (an empty response) the value
    is undefined (null).

    >>> import torch
    >>> from probe.testing import on_pattern
    >>> spans = {"prompt": [True, True, False, False]}
    >>> on_pattern(SourceShare(), torch.ones(1, 4, 4), spans=spans).round(4)  # mean of 2/3 and 2/4
    array([0.5833])
    >>> on_pattern(SourceShare(form="excess"), torch.ones(1, 4, 4), spans=spans).round(4) + 0.0
    array([0.])
    """

    info: ClassVar = MetricInfo(
        name="source_share",
        summary="Mean probability on the prompt's tokens, in [0, 1], over the rows of the response.",
        unit="probability",
        better="high",
        paper="Chuang et al. 2024",
        bibtex="""@inproceedings{chuang2024lookback,
  title={Lookback Lens: Detecting and Mitigating Contextual Hallucinations in Large Language Models Using Only
         Attention Maps},
  author={Chuang, Yung-Sung and Qiu, Linlu and Hsieh, Cheng-Yu and Krishna, Ranjay and Kim, Yoon and Glass, James},
  booktitle={Conference on Empirical Methods in Natural Language Processing},
  year={2024}
}""",
        needs=frozenset({"tokens"}),
        per_token=True,
    )

    def __init__(self, source: str = "prompt", form: Form = "share") -> None:
        super().__init__(source=source, form=form)
        one_of("source_share", "form", form, get_args(Form))
        self.source, self.form = source, form
        self._inside = InSpan(source)

    def applies(self, call: AttentionCall) -> str | None:
        """Only where the spans of the sequences are known."""
        return super().applies(call) or self._inside.reason(call)

    def asks(self, call: AttentionCall) -> Want:
        """Mass on the source, on the first token, and on the rest."""
        groups = torch.where(self._inside.keys(call), _SOURCE, _OTHER)
        groups = torch.where(call.key_index == 0, _FIRST, groups)
        groups = groups.masked_fill(call.key_index < 0, -1)
        return Want(z=False, key_groups={self.own: groups.to(torch.int16)})

    def tokens(self, call: AttentionCall, attended: Attended) -> TokenSums:
        """The value of each row, all rows where it is defined."""
        value, defined = self._values(call, attended)
        return TokenSums(value, defined, call.query_index)

    def take(self, call: AttentionCall, attended: Attended) -> None:
        """Add this call's rows, and what the further maps need of them."""
        super().take(call, attended)
        uniform = uniform_share(call, self._inside.keys(call)).cpu()
        counts = (self._counting(call) & self._values(call, attended)[1]).cpu()
        index, masses = call.query_index.cpu(), self.finite(self._masses(attended), call)
        for row in range(len(counts)):
            cell, real = self.cell(call, row), index[row] >= 0
            _keep(cell, "uniform", uniform[row][real], index[row][real])
            _keep(cell, "counts", counts[row][real], index[row][real])
            chosen = masses[row][:, counts[row]].sum(1)
            cell["on_source"] = cell.get("on_source", 0.0) + chosen[:, _SOURCE]
            cell["on_other"] = cell.get("on_other", 0.0) + chosen[:, _OTHER]

    def head(self, cell: Cell) -> tuple[Tensor, Tensor]:
        """Sum over the rows that count of the token map, and how many there are."""
        counts = cell["counts"]
        return self.token(cell).nan_to_num(0.0) @ counts, counts.sum().expand(len(cell["token_total"]))

    def maps(self, cell: Cell) -> dict[str, tuple[Tensor, Tensor]]:
        """The baseline, the same for every head, and the share with the first token left out."""
        counts, heads = cell["counts"], len(cell["token_total"])
        return {
            "uniform": ((cell["uniform"] @ counts).expand(heads), counts.sum().expand(heads)),
            "without_first": (cell["on_source"], cell["on_source"] + cell["on_other"]),
        }

    def extra(self, cell: Cell) -> dict[str, tuple[float, float]]:
        """Coverage: rows outside the source, out of all."""
        return {"coverage": (float(cell["counts"].sum()), float(len(cell["counts"])))}

    def _values(self, call: AttentionCall, attended: Attended) -> tuple[RowStat, Tensor]:
        """The value of each row, and where it is defined."""
        masses = self._masses(attended).double()
        opening = self._inside.tokens(call)[:, :1].to(
            masses.device
        )  # whether the first token is the source's
        mass = masses[..., _SOURCE] + masses[..., _FIRST] * opening[:, None]
        if self.form == "share":
            return mass, call.query_real
        uniform = uniform_share(call, self._inside.keys(call))
        if self.form == "excess":
            return mass - uniform[:, None], call.query_real
        defined = call.query_real & (uniform > 0) & (uniform < 1)
        u = torch.where(defined, uniform, 0.5)[:, None]
        near, far = mass / u, (masses.sum(-1) - mass).clamp_min(0.0) / (1 - u)
        ratio = near / (near + far).clamp_min(1e-300)
        return ratio.masked_fill(~defined[:, None], 0.0), defined

    def _masses(self, attended: Attended) -> Tensor:
        groups = attended.key_groups[self.own]
        return pad(groups, (0, _OTHER + 1 - groups.shape[-1]))

    def _counting(self, call: AttentionCall) -> Tensor:
        inside = self._inside.tokens(call)
        far = torch.iinfo(torch.int64).max
        begins = torch.where(inside, torch.arange(inside.shape[1]), far).amin(-1, keepdim=True)
        later = call.query_index.cpu() > begins
        return call.query_real & later.to(call.query_real.device) & ~self._inside.queries(call)


def _keep(cell: Cell, name: str, values: Tensor, at: Tensor) -> None:
    kept = cell.get(name, torch.zeros(0, dtype=torch.float64))
    kept = pad(kept, (0, max(0, (int(at.max()) + 1 if at.numel() else 0) - len(kept))))
    kept[at] = values.double()
    cell[name] = kept
