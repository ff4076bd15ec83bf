"""Reinforcing the heads that read a document makes answers follow it, more than reinforcing others does (or not)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from finished import Finished
from heads import Controls, by_head, highest, retrieval_scores, subject
from intervals import interval, shown, spread
from reading import under

import probe
from probe.interventions import reinforce, scale
from probe.prompts import Prompt
from probe.prompts.data import rows
from probe.prompts.spans import Chars

TOP, SEEDS, ALPHAS, FIRST = 10, 5, (1.5, 2.0), 2.0
SETTINGS = (TOP, SEEDS)  # what else measured numbers depend on
LATE = range(16, 30)  # the paper's choice of layers: the last 14
ATTENDING, RETRIEVING = "heads that attend to the document", "retrieval heads"
POINTING = "heads that attend to the document's answer"
DIVERGING = "heads that diverge most without it (VHR), layers 16–29"


@dataclass(frozen=True)
class Item:
    """A prompt, and the first tokens of what its document says and of what the world says."""

    prompt: Prompt
    answer: int
    memory: int


@dataclass(frozen=True)
class Said:
    """By prompt: nats between the two answers, and whether the document's is the next token."""

    margin: np.ndarray
    follows: np.ndarray


@dataclass(frozen=True)
class Tried:
    """One choice of heads made louder by `alpha`, beside its controls (by seed and prompt)."""

    name: str
    alpha: float
    edited: Said
    controls: Said


def measure(finished: Finished, small: bool = False) -> dict[str, Any]:
    """How often, and by how much, the document's answer beats the world's under reinforcement."""
    items = [item for row in rows("counterfactual.jsonl") if (item := _item(row))]
    chosen, held = items[::2], items[1 :: 8 if small else 2]
    prompts = [item.prompt for item in chosen]
    choices = {
        ATTENDING: highest(_attention_to("document", prompts), TOP),
        POINTING: highest(_attention_to("answer", prompts), TOP),
        RETRIEVING: highest(retrieval_scores(), TOP),
    }
    base = _said(held, [()] * len(held))
    tried = []
    for name in (*choices, DIVERGING):
        for alpha in ALPHAS:
            runs = finished.of(f"{name}, alpha {alpha:g}", partial(_try, choices.get(name), alpha, held))
            tried.append(
                Tried(name, alpha, Said(*np.asarray(runs[0])), Said(*np.asarray(runs[1:]).transpose(1, 0, 2)))
            )
    return {
        "title": "Reinforcing heads that read the document makes answers follow it",
        "claimed": "Heads whose output depends most on the evidence can be reinforced so that the answer follows the "
        "evidence (VHR, He et al. 2025, arXiv:2412.13949, for images; here for a text that contradicts what the model "
        "knows).",
        "heads": choices,
        "tables": [_table(base, tried)],
        **_verdicts(base, tried),
        "how": _how(choices, len(items) - len(chosen)),
    }


def _item(row: Mapping[str, str]) -> Item | None:
    tokenizer = subject().tokenizer
    first = [
        tokenizer(f" {row[key]}", add_special_tokens=False)["input_ids"][0] for key in ("answer", "memory")
    ]
    if first[0] == first[1]:
        return None
    at = row["context"].index(f" {row['answer']}") + 1
    spans = {"document": Chars((0, len(row["context"]))), "answer": Chars((at, at + len(row["answer"])))}
    prompt = Prompt.of(f"{row['context']} {row['opening']}", tokenizer, spans=spans, id=row["id"])
    return Item(prompt, *first)


def _attention_to(span: str, prompts: Sequence[Prompt]) -> dict[str, float]:
    """The mass from the last token to a span, by head, summed over prompts."""
    total: dict[str, float] = {}
    for prompt in prompts:
        at = np.flatnonzero(prompt.spans[span])
        # Position 0 is where heads without anything to read look: it is no evidence.
        inside = slice(max(1, int(at[0])), int(at[-1]) + 1)
        seen = probe.capture(subject(), [prompt], what=["pattern"], queries=[len(prompt.tokens) - 1])[
            "pattern"
        ]
        mass = seen.isel(key_pos=inside).sum("key_pos").squeeze()
        for name, value in by_head(mass).items():
            total[name] = total.get(name, 0.0) + value
    return total


def _try(heads: Sequence[str] | None, alpha: float, items: Sequence[Item]) -> list[list[list[float]]]:
    """Margin and following, by prompt, of the edit and of each control; heads None: selected for each prompt (VHR)."""
    if heads is None:
        made = [reinforce("document", alpha, layers=LATE).prepare(subject(), [item.prompt]) for item in items]
        runs = [[(one,) for one in made]]
        runs += [[(one.control(seed),) for one in made] for seed in range(SEEDS)]
    else:
        drawn = Controls.of(scale(heads, alpha, queries="last"), heads, SEEDS).heads
        runs = [[(scale(some, alpha, queries="last"),)] * len(items) for some in (heads, *drawn)]
    said = [_said(items, edits) for edits in runs]
    return [[one.margin.tolist(), one.follows.tolist()] for one in said]


def _said(items: Sequence[Item], edits: Sequence[Sequence[Any]]) -> Said:
    margins, follows = [], []
    for item, own in zip(items, edits, strict=True):
        with under(subject(), own):
            ids = torch.tensor([item.prompt.tokens], device=subject().device)
            told = subject().model(ids, logits_to_keep=1).logits[0, -1].log_softmax(-1)
        margins.append(float(told[item.answer] - told[item.memory]))
        follows.append(float(told.argmax() == item.answer))
    return Said(np.asarray(margins), np.asarray(follows))


def _table(base: Said, tried: Sequence[Tried]) -> dict[str, Any]:
    lines = [["none", "–", shown(base.follows), shown(base.margin), "–"]]
    for one in tried:
        for name, said, told in (
            (one.name, one.edited, shown),
            ("as many others of the same layers", one.controls, spread),
        ):
            cells = [told(each) for each in (said.follows, said.margin, said.margin - base.margin)]
            lines.append([name, f"{one.alpha:g}", *cells])
    return {
        "title": f"{len(base.margin)} held-out prompts: mean [95 % interval over prompts]; controls: mean over {SEEDS} "
        "seeds (lowest – highest)",
        "columns": ["reinforced", "alpha", "document's answer is next", "margin, nats", "change of margin"],
        "rows": lines,
    }


def _verdicts(base: Said, tried: Sequence[Tried]) -> dict[str, Any]:
    found, held = [], []
    for one in tried:
        change, gap = one.edited.margin - base.margin, one.edited.margin - one.controls.margin.mean(0)
        more = one.edited.follows - base.follows
        best = float((one.controls.margin - base.margin).mean(1).max())
        holds = interval(change)[0] > 0 and interval(gap)[0] > 0 and change.mean() > best
        held.append(holds)
        found.append(
            f"- {one.name}, alpha {one.alpha:g}: the margin changes by {shown(change)} nats (the best control: "
            f"{best:.2f}); edit minus controls, prompt by prompt: {shown(gap)}; the document's answer is next more "
            f"often by {shown(more)}. The claim {'holds' if holds else 'does not hold'} here."
        )
    # The claim as it is stated; the others tell how far it carries.
    number = next(at for at, one in enumerate(tried) if (one.name, one.alpha) == (ATTENDING, FIRST))
    first = tried[number]
    gap = first.edited.margin - first.controls.margin.mean(0)
    return {
        "found": found,
        "holds": bool(held[number]),
        "brief": f"{first.name}, alpha {first.alpha:g}: margin {shown(first.edited.margin - base.margin)} nats, minus "
        f"controls {shown(gap)}; {sum(held)} of {len(held)} variants hold",
    }


def _how(choices: Mapping[str, Sequence[str]], count: int) -> list[str]:
    return [
        "- Prompts: `datasets/counterfactual.jsonl`, a document that says otherwise than the world, then the sentence "
        "to complete. Items whose two answers begin with the same token are left out.",
        f"- {ATTENDING.capitalize()}: the {TOP} with the most attention from the last token to it (position 0, a sink, "
        f"left out), found on every other prompt, at most four per layer; the other {count} prompts are held out.",
        "- The document is most of the prompt, so that this choice favours heads that look at everything but the sink. "
        f"{POINTING.capitalize()}: the same for the mass on the answer's tokens in the document.",
        f"- Retrieval heads: the top {TOP} of `probe analyze --metric retrieval`. VHR: `reinforce(span=document)`, "
        "which selects heads for each prompt.",
        "- Margin: log p(first token of the document's answer) − log p(first token of the world's), at the last token.",
        "- The claim holds where the margin rises (its interval above 0), more than with the controls (the interval of "
        "the difference above 0), and no control does as well. The line of the index is the first choice at alpha "
        f"{FIRST:g} (the default of `reinforce`), chosen before anything was measured; the choice by the answer and "
        "alpha 1.5 were added after a look at five of the prompts. No correction is made for looking at all of them.",
        "- Reinforced: z of the last row alone, times alpha. A control takes as many other heads of the same layers.",
        *(f"- {name}: {', '.join(heads)}." for name, heads in choices.items()),
    ]
