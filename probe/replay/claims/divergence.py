"""The answer depends on the heads whose output diverges under a document, more than on others (or not)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from probe.experiments.base import Ask
from probe.experiments.head_divergence import HeadDivergence
from probe.interventions import zero
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.claims.document import Item, counterfactuals
from probe.replay.finding import NONE, Finding, Row
from probe.replay.heads import Controls, by_head, highest
from probe.replay.intervals import interval, mean, spread
from probe.replay.reading import under
from probe.replay.work import Work

TOP, SEEDS = 10, 5
CHOICES = {"diverging heads": "vhd", "diverging heads, relative to their own norm": "relative"}


def measure(work: Work) -> Finding:
    """How far the document's answer falls behind the world's when diverging heads are silent."""
    items = counterfactuals(work.model)
    train, held = items[::2], work.few(items[1::2], 5)
    scores = work.keep("divergence", _scores, work.model, [item.prompt for item in train])
    base = np.asarray(work.keep("none", _margins, work.model, held, [()]), np.float64)[0]
    alone = np.asarray(work.keep("no document", _alone, work.model, held), np.float64)
    rows, held_up, lines, how = [], {}, [], []
    for name, key in CHOICES.items():
        heads = highest(scores[key], TOP)
        found = np.asarray(work.keep(name, _silenced, work, heads, held), np.float64)
        gap, controls = found[0] - found[1:].mean(0), found[1:]
        falls = interval(found[0] - base)[1] < 0 and interval(gap)[1] < 0
        held_up[name] = bool(falls and found[0].mean() < controls.mean(1).min())
        rows.append(
            Row(
                f"change of the margin, nats: {name} silent",
                mean(found[0] - base),
                NONE,
                spread(controls - base),
            )
        )
        lines.append(
            f"{name[0].upper()}{name[1:]} silent: margin {mean(found[0])} nats, controls {spread(controls)}; edit "
            f"minus controls, prompt by prompt: {mean(gap)}. The document's answer is ahead in "
            f"{np.mean(found[0] > 0):.2f} of the prompts (unedited {np.mean(base > 0):.2f}, controls "
            f"{np.mean(controls > 0):.2f})."
        )
        how.append(f"{name[0].upper()}{name[1:]}: {', '.join(heads)}.")
    first = next(iter(CHOICES))
    return Finding(
        holds=held_up[first],
        brief=f"{first} silent: margin {rows[0].ours} nats, controls {rows[0].control}",
        rows=(
            Row("margin of the document's answer, nats, unedited", mean(base)),
            Row("the same without the document", mean(alone)),
            *rows,
        ),
        found=(
            *lines,
            *(
                f"With {name} the claim {'holds' if yes else 'does not hold'}."
                for name, yes in held_up.items()
            ),
        ),
        how=tuple(how),
        heads=tuple(highest(scores["vhd"], TOP)),
    )


def _scores(loaded: LoadedModel, prompts: Sequence[Prompt]) -> Mapping[str, Mapping[str, float]]:
    answer = HeadDivergence("document").run(Ask(loaded, tuple(prompts)))[0]
    return {"vhd": by_head(answer.head_map), "relative": by_head(answer.extra["relative"])}


def _silenced(work: Work, heads: Sequence[str], items: Sequence[Item]) -> list[list[float]]:
    """Margins by prompt: the heads silent, then each control."""
    one = zero(heads)
    drawn = Controls.of(one, heads, SEEDS, work.model, work.seed).heads
    return _margins(work.model, items, [(zero(some),) for some in (heads, *drawn)])


def _margins(loaded: LoadedModel, items: Sequence[Item], edits: Sequence[Sequence[Any]]) -> list[list[float]]:
    return [[_margin(loaded, item, item.prompt.tokens, some) for item in items] for some in edits]


def _alone(loaded: LoadedModel, items: Sequence[Item]) -> list[float]:
    """Margins where the document is left out of the prompt."""
    return [
        _margin(loaded, item, np.asarray(item.prompt.tokens)[~item.prompt.spans["document"]].tolist())
        for item in items
    ]


def _margin(loaded: LoadedModel, item: Item, tokens: Sequence[int], edits: Sequence[Any] = ()) -> float:
    with under(loaded, edits):
        ids = torch.tensor([list(tokens)], device=loaded.device)
        told = loaded.model(ids, logits_to_keep=1).logits[0, -1].log_softmax(-1)
    return float(told[item.answer] - told[item.memory])


CLAIM = Claim(
    claimed="heads whose output diverges most when the evidence is taken out of the prompt are those that tie the "
    "answer to the evidence (Vision-aware Head Divergence, for images; no number of the paper is of a text).",
    data="`datasets/counterfactual.jsonl`: a document that says otherwise than the world, then the sentence to "
    "complete. Heads are chosen on every other prompt (the train part); the others are held out. Items whose two "
    "answers begin with the same token are left out.",
    measure=measure,
    how=(
        f"Diverging: the {TOP} heads with the highest `head_divergence:span=document` (last token, gap closed, "
        "outliers at 0) on the train part, at most half of a layer's heads. Silent: z = 0 in all rows (`zero`).",
        "Margin: log p(first token of the document's answer) − log p(first token of the world's), at the last token.",
        f"A control silences as many other heads of the same layers, drawn with {SEEDS} seeds.",
        "The claim holds where the margin falls (its interval below 0), more than with the controls (the interval of "
        "the difference below 0), and no control falls as far. The verdict is on the divergence as the paper has it; "
        "that relative to the head's own norm stands beside it, since VHD prefers heads with large outputs.",
    ),
    settings={"top": TOP, "seeds": SEEDS},
)
