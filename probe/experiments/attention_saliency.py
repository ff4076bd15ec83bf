"""Attention against saliency: how well a head's attention tells which tokens the answer depends on."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from probe_kernels import score_block
from scipy.stats import rankdata

from probe.experiments.base import Ask, told
from probe.experiments.explained import Explained, Layer, cannot_recompute, explain
from probe.experiments.gradients import gradients_allowed
from probe.experiments.head_grid import head_grid
from probe.experiments.model_answer import cannot_predict
from probe.experiments.retrieval_answer import not_applicable
from probe.experiments.seen_rows import cannot_read, long_enough
from probe.metrics.base import MetricInfo
from probe.metrics.making import at_least, one_of
from probe.prompts import Prompt
from probe.report.answer import Answer

_LEAST = 4  # tokens over which a correlation says something
NAMES = ("pearson", "spearman", "pearson_without_first", "spearman_without_first")

PerHead = Float[np.ndarray, "head"]


class AttentionSaliency:
    """Correlation over tokens of a head's attention at the answering row with the answer's saliency, -1 to 1.

    Saliency of token j: ``‖∂y/∂e_j‖`` (``saliency=gradient``) or ``|e_j · ∂y/∂e_j|`` (``input_x_gradient``), y the
    logit of the most likely next token, e_j the input embedding. Attention: the last row of each head, over the keys
    that it sees. Mean over prompts; `extra` has Pearson's and Spearman's correlation, each also without the first
    token (a sink that attention and gradient share would make them agree), and ``averaged``, the correlation of the
    mean over heads and layers, per prompt, with the number of tokens.

    Papi et al. 2025, Cross-Attention is Half Explanation in Speech-to-Text Models (arXiv:2509.18010): there
    cross-attention, averaged, against perturbation saliency, by Pearson's correlation.

    Args:
        correlation: which one is the head's number.
        saliency: what the answer's dependence is measured by.
        of: ``logit`` of the answer, or its ``log_prob``.
        tokens: the shipped text is cut to so many tokens.
    """

    info: ClassVar[MetricInfo] = MetricInfo(
        name="attention_saliency",
        summary="Correlation over tokens of a head's attention at the last row with the answer's saliency, -1 to 1.",
        unit="correlation",
        better="high",
        paper="Papi et al. 2025",
        bibtex="""@misc{papi2025cross,
  title={Cross-Attention is Half Explanation in Speech-to-Text Models},
  author={Papi, Sara and Fucci, Dennis and Gaido, Marco and Negri, Matteo and Bentivogli, Luisa},
  year={2025},
  eprint={2509.18010},
  archivePrefix={arXiv}
}""",
        slow=True,
    )

    def __init__(
        self,
        correlation: Literal["pearson", "spearman"] = "pearson",
        saliency: Literal["gradient", "input_x_gradient"] = "gradient",
        of: Literal["logit", "log_prob"] = "logit",
        tokens: int = 256,
    ) -> None:
        self.spec = self.info.name
        one_of(self.spec, "correlation", correlation, ("pearson", "spearman"))
        one_of(self.spec, "saliency", saliency, ("gradient", "input_x_gradient"))
        one_of(self.spec, "of", of, ("logit", "log_prob"))
        at_least(self.spec, "tokens", tokens, _LEAST + 1)
        self.correlation, self.saliency, self.tokens = correlation, saliency, tokens
        self.of: Literal["logit", "log_prob"] = of

    def run(self, ask: Ask) -> list[Answer]:
        """A forward and a backward per prompt; `UsageError` where gradients cannot pass."""
        gradients_allowed(ask.model, self.spec)
        prompts, notes = long_enough(ask.texts(self.tokens), _LEAST + 1)
        reason = (
            cannot_read(ask.model)
            or cannot_predict(ask.model)
            or cannot_recompute(ask.model)
            or ("" if prompts else "; ".join(notes))
        )
        if reason:
            return [not_applicable(self.info, self.spec, ask.model, reason)]
        found = []
        for number, prompt in enumerate(prompts):
            ask.tell(number, len(prompts), f"{self.spec}: {prompt.id}")
            found.append(self._one(ask, prompt))
        ask.tell(len(prompts), len(prompts), self.spec)
        return [self._answer(prompts, found, notes)]

    def _one(self, ask: Ask, prompt: Prompt) -> dict[str, dict[int, PerHead]]:
        explained = explain(ask.model, prompt, self.of)
        saliency = saliency_of(explained, self.saliency)
        found: dict[str, dict[int, PerHead]] = {name: {} for name in (*NAMES, "averaged")}
        means = []
        for layer in explained.layers:
            row, seen = last_row(layer)
            means.append(row.mean(0))
            for name in NAMES:
                counted = seen.copy()
                counted[0] &= not name.endswith("without_first")
                ranked = name.startswith("spearman")
                found[name][layer.number] = correlations(row[:, counted], saliency[counted], ranked=ranked)
        mean = np.mean(means, axis=0)[None]
        found["averaged"][0] = correlations(mean, saliency, ranked=self.correlation == "spearman")
        return found

    def _answer(
        self, prompts: Sequence[Prompt], found: Sequence[dict[str, dict[int, PerHead]]], notes: Sequence[str]
    ) -> Answer:
        each = {name: [head_grid(one[name]) for one in found] for name in NAMES}
        names = xr.DataArray([one.id for one in prompts], dims=("prompt",), name="prompt")
        stacked = {name: xr.concat(maps, names) for name, maps in each.items()}
        averaged = np.array([float(one["averaged"][0][0]) for one in found])
        extra = {name: one.mean("prompt") for name, one in stacked.items()}
        extra["averaged"] = xr.DataArray(averaged, dims=("prompt",), coords={"prompt": names.values})
        line = (
            f"correlation={self.correlation}, saliency={self.saliency}, of={self.of}: mean over heads "
            f"{float(extra[self.correlation].mean()):.3f}, without the first token "
            f"{float(extra[f'{self.correlation}_without_first'].mean()):.3f}; attention averaged over heads and layers "
            f"{averaged.mean():.3f}"
        )
        return Answer(
            **told(self.spec, self.info),
            head_map=extra[self.correlation],
            by_prompt=stacked[self.correlation],
            extra=extra,
            notes=(line, *notes),
        )


def saliency_of(explained: Explained, kind: str) -> Float[np.ndarray, "token"]:
    """How much the answer depends on each input embedding."""
    if kind == "gradient":
        found = torch.linalg.vector_norm(explained.gradient.double(), dim=-1)
    else:
        found = (explained.gradient.double() * explained.embedding.double()).sum(-1).abs()
    saliency: np.ndarray = found.cpu().numpy()
    return saliency


def last_row(layer: Layer) -> tuple[Float[np.ndarray, "head token"], Bool[np.ndarray, "token"]]:
    """Every head's attention at the last row, and which keys that row sees."""
    length = layer.scores.query.shape[2]
    row = torch.tensor([length - 1])
    scores = score_block(layer.scores, layer.layout, slice(length - 1, length), slice(0, length))
    seen = (scores[0, :, 0] > -torch.inf).any(0)
    return layer.rows(row)[:, 0].double().cpu().numpy(), seen.cpu().numpy()


def correlations(
    rows: Float[np.ndarray, "head token"], with_: Float[np.ndarray, "token"], *, ranked: bool
) -> PerHead:
    """Pearson's correlation of each row with `with_`, Spearman's if `ranked`; NaN where either does not vary."""
    if len(with_) < _LEAST:
        return np.full(len(rows), np.nan)
    both = np.vstack([rows, with_[None]])
    both = rankdata(both, axis=-1) if ranked else both
    both = both - both.mean(-1, keepdims=True)
    norms = np.linalg.norm(both, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = both[:-1] @ both[-1] / (norms[:-1] * norms[-1])
    return found
