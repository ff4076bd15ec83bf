"""A pattern put into the model, in prefill and decode: what its predictions, and its answers, are worth then."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from probe_kernels.select import Pattern

from probe.analysis.ablation import Ablation, ablate
from probe.analysis.ablation.measures import WEIGHTS, RunScores, pooled
from probe.analysis.continuation import answer_tokens
from probe.experiments.rouge import rouge1_recall
from probe.interventions import pattern as put
from probe.models import LoadedModel
from probe.prompts import Prompt

_BEYOND = 4  # tokens that the model may write more than the answer has
FOUND = 0.5  # ROUGE-1 recall of the answer above which it counts as retrieved, as in the retrieval experiment


def applied(loaded: LoadedModel, prompts: Sequence[Prompt], pattern: Pattern, seed: int) -> xr.DataArray:
    """Measures with axes (run, measure), run ``base`` or ``edited``; undefined ones are NaN.

    `loss` (nats per token), `perplexity`, `kl_to_base` (nats per position) and `top_changes` of the prompts;
    `answer_loss` (nats per token), `answer_recall` (ROUGE-1 of what the model writes greedily after the prompt) and
    `retrieved` (share of prompts whose recall is above 0.5) where prompts have answers.
    """
    answers = [one for one in prompts if one.answer is not None]
    longest = max((len(answer_tokens(one, loaded.tokenizer)) for one in answers), default=0)
    found = ablate(
        loaded,
        list(prompts),
        [put(pattern)],
        controls=0,
        seed=seed,
        new_tokens=longest + _BEYOND if answers else 0,
    )
    runs = {"base": found.base, "edited": found.edited}
    table = {run: _measures(found, run, scores, prompts) for run, scores in runs.items()}
    measures = list(table["base"])
    values = np.array([[table[run][name] for name in measures] for run in runs])
    return xr.DataArray(values, {"run": list(runs), "measure": measures}, ("run", "measure"))


def _measures(found: Ablation, run: str, scores: RunScores, prompts: Sequence[Prompt]) -> dict[str, float]:
    totals = {name: found.total(run, name) for name in WEIGHTS}
    with np.errstate(over="ignore"):
        totals["perplexity"] = float(np.exp(totals["loss"]))
    recall = recalls(scores, prompts)
    totals["answer_recall"] = pooled(recall, np.ones_like(recall))
    hits = np.where(np.isfinite(recall), recall > FOUND, np.nan)
    totals["retrieved"] = pooled(hits, np.ones_like(hits))
    return totals


def recalls(scores: RunScores, prompts: Sequence[Prompt]) -> np.ndarray:
    """ROUGE-1 recall of each prompt's answer in what was written after it; NaN without an answer, or room for one."""
    pairs = zip(prompts, scores.prompts, strict=True)
    return np.array(
        [
            np.nan
            if prompt.answer is None or one.continuation is None
            else rouge1_recall(prompt.answer, one.continuation.text)
            for prompt, one in pairs
        ]
    )
