"""Copying heads: whose OV circuit raises the logit of the token that it attends to."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.circuits.anatomy import anatomy_of
from probe.circuits.lens import vocabulary_size
from probe.circuits.ov import eigenvalue_positivity, ov_logits, vocabulary_map
from probe.circuits.reporting import Told
from probe.circuits.study import CircuitOptions
from probe.circuits.tables import Effects
from probe.circuits.token_states import states_of, token_states
from probe.circuits.weights import HeadWeights, head_weights
from probe.circuits.weights_report import weights_report
from probe.errors import UsageError
from probe.models import LoadedModel, as_loaded
from probe.report import Report
from probe.report.provenance import utc_now

BIBTEX = """@inproceedings{wang2023interpretability,
  title={Interpretability in the Wild: a Circuit for Indirect Object Identification in {GPT-2} Small},
  author={Wang, Kevin and Variengien, Alexandre and Conmy, Arthur and Shlegeris, Buck and Steinhardt, Jacob},
  booktitle={International Conference on Learning Representations},
  year={2023}
}"""
_MOST_LOGITS = 2**25  # at a time


def copying_heads(
    model: object,
    *,
    sample: int = 100,
    top: int = 5,
    states: str = "stream",
    options: CircuitOptions | None = None,
    **changes: Any,
) -> Report:
    """Share of tokens whose own logit a head's OV circuit puts among the `top` of the vocabulary, 0 to 1.

    ``rank of t in W_U W_O W_V e_t ≤ top``, for a seeded sample of the vocabulary. ``e_t`` is the token by itself behind
    the first block's MLP, that block's attention left out; heads of the first block read the embedding. Weights alone:
    no prompt is run. Chance is ``top`` over the vocabulary's size.

    Args:
        model: A known name, path or hub id; a `LoadedModel`; or ``(model, tokenizer)``. A decoder.
        sample: How many tokens are drawn, special ones left out.
        top: Of the vocabulary, how many count as first.
        states: ``stream`` (embedding and MLP) or ``mlp`` (what the first MLP adds alone).
        options: Only `seed` and `progress` count.
        **changes: Single options by name (``seed=1``).

    Returns:
        A report with one answer, ``copying_heads``; its map is per head. ``extra`` has ``negative`` (the share whose
        own logit is among the lowest `top`) and ``positivity`` (-1 to 1: Σ Re λ / Σ |λ| over the eigenvalues of
        ``W_U W_O W_V W_E`` with every embedding at a scale of 1; Elhage et al. 2021).

    Raises:
        UsageError: no token or no place asked, or an unknown way to take states.
        CaptureError: weights of heads cannot be told in this model.
    """
    asked, started = CircuitOptions.of(options, changes), utc_now()
    taken = states_of(states)
    if sample < 1 or top < 1:
        raise UsageError(f"sample={sample} and top={top} were asked; both are at least 1")
    loaded = as_loaded(model)
    anatomy, weights = anatomy_of(loaded), head_weights(loaded)
    tokens = sampled(loaded, sample, asked.seed)
    read = token_states(loaded, tokens, taken)
    embedding: Any = loaded.model.get_input_embeddings()  # type: ignore[operator]
    vocabulary = vocabulary_map(anatomy, embedding.weight.detach())
    found: dict[str, dict[int, Tensor]] = {"copying": {}, "negative": {}, "positivity": {}}
    for number, (layer, heads) in enumerate(weights.items()):
        asked.tell(number, len(weights), "copying heads")
        above, below = _places(loaded, heads, read.of(layer), tokens)
        found["copying"][layer], found["negative"][layer] = (
            (one < top).double().mean(1).cpu() for one in (above, below)
        )
        if vocabulary is not None:
            found["positivity"][layer] = eigenvalue_positivity(heads, vocabulary).cpu()
    asked.tell(len(weights), len(weights), "copying heads")
    maps = {
        name: Effects("z", {layer: one[:, None, None] for layer, one in values.items()}).map
        for name, values in found.items()
        if values
    }
    params = {"sample": sample, "top": top, "states": states}
    changed = {k: v for k, v in params.items() if v != {"sample": 100, "top": 5, "states": "stream"}[k]}
    told = Told(
        "copying_heads" + (":" + ",".join(f"{k}={v}" for k, v in changed.items()) if changed else ""),
        f"Share of tokens whose own logit a head's OV circuit puts among the top {top} of the vocabulary, 0 to 1",
        "share", "Wang et al. 2023 (arXiv:2211.00593); Elhage et al. 2021", BIBTEX,
    )  # fmt: skip
    notes = [f"{len(tokens)} tokens drawn; chance is {top / vocabulary_size(anatomy):.1e}"]
    if vocabulary is None:
        notes.append("the unembedding is no plain matrix of the embedding's width: no eigenvalues")
    answer = told.answer(maps.pop("copying"), None, maps, notes)
    return weights_report(loaded, asked, answer, {"method": "copying_heads", **params}, started)


def sampled(loaded: LoadedModel, count: int, seed: int) -> Int[Tensor, " token"]:
    """Different tokens of the vocabulary, without the tokenizer's special ones, ascending."""
    size = vocabulary_size(anatomy_of(loaded))
    if loaded.tokenizer is not None:
        size = min(size, len(loaded.tokenizer))
    special = set(getattr(loaded.tokenizer, "all_special_ids", None) or ())
    known = np.array([token for token in range(size) if token not in special])
    drawn = np.random.default_rng(seed).choice(known, min(count, len(known)), replace=False)
    return torch.tensor(np.sort(drawn), device=loaded.device)


@torch.no_grad()
def _places(
    loaded: LoadedModel,
    heads: HeadWeights,
    states: Float[Tensor, "token d_model"],
    tokens: Int[Tensor, " token"],
) -> tuple[Float[Tensor, "head token"], Float[Tensor, "head token"]]:
    """How many tokens of the vocabulary have a higher, and how many a lower logit; ties count half."""
    anatomy = anatomy_of(loaded)
    size = max(1, _MOST_LOGITS // (heads.n_heads * vocabulary_size(anatomy)))
    above, below = [], []
    for few, own in zip(torch.split(states, size), torch.split(tokens, size), strict=True):
        logits = ov_logits(anatomy, heads, few)
        mine = logits.gather(-1, own[None, :, None].expand(len(logits), -1, 1))
        ties = ((logits == mine).sum(-1) - 1) / 2
        above.append((logits > mine).sum(-1) + ties)
        below.append((logits < mine).sum(-1) + ties)
    return torch.cat(above, 1), torch.cat(below, 1)
