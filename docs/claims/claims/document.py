"""Reinforcing the heads that read a document makes answers follow it, more than reinforcing others does "
"(or not)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recall import interval, retrieval_heads, shown

import probe
from probe.interventions import scale
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.prompts.data import rows
from probe.prompts.spans import Chars

TOP, PER_LAYER, SEEDS, ALPHAS = 10, 4, 5, (2.0, 3.0)


@dataclass(frozen=True)
class _Item:
    prompt: Prompt
    answer: int  # first token of the document's answer
    memory: int  # first token of the world's


def measure() -> dict[str, Any]:
    """How often, and by how much, the document's answer beats the world's under reinforcement."""
    loaded = probe.load("smollm2-135m", dtype="float32")
    loaded.model.eval()
    items = [item for item in (_item(loaded, row) for row in rows("counterfactual.jsonl")) if item]
    chosen, held = items[::2], items[1::2]
    base = _margins(loaded, held, [])
    table, found = [["none", "–", _share(base), shown(base), "–"]], []
    for name, heads in _selections(loaded, [item.prompt for item in chosen]).items():
        for alpha in ALPHAS:
            one = scale(heads, alpha, queries="last")
            edited = _margins(loaded, held, [one])
            controls = np.stack([_margins(loaded, held, [one.control(seed)]) for seed in range(SEEDS)])
            table.append([name, f"{alpha:g}", _share(edited), shown(edited), shown(edited - base)])
            table.append(["as many others of the same layers", f"{alpha:g}", *_spread(controls, base)])
            found.append(_verdict(f"{name}, alpha {alpha:g}", edited, controls, base))
        found.append(f"- The heads of this choice: {', '.join(heads)}.")
    return {
        "title": "Reinforcing heads that read the document makes answers follow it",
        "claimed": "Heads whose output depends most on the evidence can be reinforced so that the answer follows "
        "the evidence (VHR, He et al. 2025, for images; here for a text that contradicts what the model knows).",
        "tables": [
            {
                "title": f"{len(held)} held-out prompts (mean [95 % interval over prompts]; controls: mean over "
                f"{SEEDS} seeds, lowest – highest)",
                "columns": [
                    "reinforced",
                    "alpha",
                    "document's answer wins",
                    "margin, nats",
                    "change of margin",
                ],
                "rows": table,
            }
        ],
        "found": found,
        "how": [
            "- Prompts: `datasets/counterfactual.jsonl`, a document that says otherwise than the world, then the "
            "sentence to complete. Items whose two answers begin with the same token are left out.",
            f"- Heads that attend to the document: the {TOP} with the most attention from the last token to it (its "
            f"first token, a sink, left out), on every other prompt, at most {PER_LAYER} per layer. Retrieval heads: "
            f"the top {TOP} of `probe analyze --metric retrieval`.",
            "- Margin: log p(first token of the document's answer) − log p(first token of the world's), at the last "
            "token. The claim holds where the margin rises, its interval leaves out 0, and no control does as well.",
            "- Reinforced: z of the last row alone, times alpha. A control takes as many other heads of the same "
            "layers.",
        ],
    }


def _selections(loaded: LoadedModel, prompts: list[Prompt]) -> dict[str, list[str]]:
    return {
        "heads that attend to the document": _readers(loaded, prompts),
        "retrieval heads": retrieval_heads(loaded, TOP),
    }


def _share(margins: np.ndarray) -> str:
    return shown((margins > 0).astype(float))


def _spread(controls: np.ndarray, base: np.ndarray) -> list[str]:
    made = []
    for each in ((controls > 0).mean(1), controls.mean(1), (controls - base).mean(1)):
        made.append(f"{each.mean():.2f} ({each.min():.2f} – {each.max():.2f})")
    return made


def _verdict(name: str, edited: np.ndarray, controls: np.ndarray, base: np.ndarray) -> str:
    change, others = edited - base, (controls - base).mean(1)
    holds = interval(change)[0] > 0 and change.mean() > others.max()
    return (
        f"- {name}: the margin changes by {shown(change)} nats, with the controls by {others.mean():.2f}, "
        f"{others.max():.2f} at most. The claim {'holds' if holds else 'does not hold'} here."
    )


def _item(loaded: LoadedModel, row: dict[str, str]) -> _Item | None:
    text = f"{row['context']} {row['opening']}"
    spans = {"document": Chars((0, len(row["context"])))}
    first = [
        loaded.tokenizer(f" {row[key]}", add_special_tokens=False)["input_ids"][0]
        for key in ("answer", "memory")
    ]
    if first[0] == first[1]:
        return None
    return _Item(Prompt.of(text, loaded.tokenizer, spans=spans, id=row["id"]), *first)


def _readers(loaded: LoadedModel, prompts: list[Prompt]) -> list[str]:
    """The heads with the most mass from the last token to the document, mean over prompts."""
    total: dict[tuple[int, int], float] = {}
    for prompt in prompts:
        at = np.flatnonzero(prompt.spans["document"])
        # Position 0 is where heads without anything to read look: it is no evidence.
        inside = slice(max(1, int(at[0])), int(at[-1]) + 1)
        seen = probe.capture(loaded, [prompt], what=["pattern"], queries=[len(prompt.tokens) - 1])["pattern"]
        mass = seen.isel(key_pos=inside).sum("key_pos").squeeze()
        for layer in mass.coords["layer"].values:
            for head in mass.coords["head"].values:
                key = int(layer), int(head)
                total[key] = total.get(key, 0.0) + float(mass.sel(layer=layer, head=head))
    best: list[tuple[int, int]] = []
    for key in sorted(total, key=lambda key: -total[key]):
        if sum(layer == key[0] for layer, _ in best) < PER_LAYER:  # so that a control has as many others left
            best.append(key)
    return [f"L{layer}.H{head}" for layer, head in best[:TOP]]


def _margins(loaded: LoadedModel, items: list[_Item], edits: list[Any]) -> np.ndarray:
    return np.asarray([_margin(loaded, item, edits) for item in items])


def _margin(loaded: LoadedModel, item: _Item, edits: list[Any]) -> float:
    ids = torch.tensor([item.prompt.tokens])

    def last() -> torch.Tensor:
        with torch.no_grad():
            return loaded.model(ids, logits_to_keep=1).logits[0, -1].log_softmax(-1)

    if edits:
        with probe.edit(loaded, edits, prompts=[item.prompt]):
            told = last()
    else:
        told = last()
    return float(told[item.answer] - told[item.memory])
