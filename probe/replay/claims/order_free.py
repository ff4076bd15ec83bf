"""Order-free by construction: segments in any order give the suffix the same logits; a plain model tells them apart."""

from contextlib import nullcontext
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probe.analysis.edit import edit
from probe.interventions import bidirectional_segments, position_by_importance, set_based
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import Finding, Row
from probe.replay.intervals import mean
from probe.replay.passages import DATA, passages
from probe.replay.work import Work

SEGMENTS, WIDTH, TAIL, COUNT, LIMIT = 3, 32, 24, 6, 5e-3
KINDS = ("plain", "set_based", "PINE")


def measure(work: Work) -> Finding:
    """Largest difference of the suffix's logits between orders of the segments, for each kind."""
    prompts = work.few(passages(work.model, COUNT, TAIL + (SEGMENTS + 1) * WIDTH))
    found = np.asarray([work.keep(str(one.id), _by_kind, work.model, one) for one in prompts], np.float64)
    largest, changed, cost = (found[:, :, at] for at in range(3))
    law = float(largest[:, 1:].max())
    tells = float(largest[:, 0].min())
    rows = [
        Row(f"largest difference of a logit between orders, {kind}", mean(largest[:, at], digits=5 if at else 2))
        for at, kind in enumerate(KINDS)
    ] + [
        Row(f"share of suffix positions whose top token depends on the order, {kind}", mean(changed[:, at]))
        for at, kind in enumerate(KINDS)
    ] + [
        Row(f"loss of the suffix, nats per token, {kind}", mean(cost[:, at])) for at, kind in enumerate(KINDS)
    ]  # fmt: skip
    return Finding(
        holds=law <= LIMIT < tells,
        brief=f"logits of the suffix over all {len(list(permutations(range(SEGMENTS))))} orders: plain differ by "
        f"{mean(largest[:, 0])}, set_based by at most {largest[:, 1].max():.1e}, PINE by at most "
        f"{largest[:, 2].max():.1e}",
        rows=tuple(rows),
        found=(
            f"The plain model's logits differ by {tells:.2f} or more in every passage, so that the law could fail. "
            "Being "
            f"free of order costs {mean(cost[:, 1] - cost[:, 0])} nats of the suffix's loss with set_based, "
            f"{mean(cost[:, 2] - cost[:, 0])} with PINE: the segments are pieces of one running text here, whose order "
            "means something.",
        ),
    )


def _by_kind(loaded: LoadedModel, prompt: Prompt) -> list[list[float]]:
    """For each kind: largest difference from the first order, share of changed top tokens, loss of the suffix."""
    kinds: list[list[Any]] = [
        [],
        [set_based(["doc"])],
        [bidirectional_segments(["doc"]), position_by_importance(["doc"])],
    ]
    return [
        _one(loaded, [_order(prompt, order) for order in permutations(range(SEGMENTS))], kind)
        for kind in kinds
    ]


def _one(loaded: LoadedModel, prompts: list[Prompt], edits: list[Any]) -> list[float]:
    logits = [_suffix(loaded, one, edits) for one in prompts]
    first = logits[0]
    largest = max(float((one - first).abs().max()) for one in logits[1:])
    changed = np.mean([float((one.argmax(-1) != first.argmax(-1)).double().mean()) for one in logits[1:]])
    told = torch.tensor(prompts[0].tokens[-TAIL + 1 :], device=first.device)
    loss = np.mean([float(torch.nn.functional.cross_entropy(one[:-1], told)) for one in logits])
    return [largest, float(changed), float(loss)]


def _order(prompt: Prompt, order: tuple[int, ...]) -> Prompt:
    """The passage with its middle segments in this order."""
    front = len(prompt) - TAIL - SEGMENTS * WIDTH
    parts = [prompt.tokens[front + WIDTH * n : front + WIDTH * (n + 1)] for n in range(SEGMENTS)]
    ids = [*prompt.tokens[:front], *(token for n in order for token in parts[n]), *prompt.tokens[-TAIL:]]
    spans = {f"doc:{n}": (front + WIDTH * n, front + WIDTH * (n + 1)) for n in range(SEGMENTS)}
    return Prompt.of_tokens(ids, spans=spans, id=prompt.id)


def _suffix(loaded: LoadedModel, prompt: Prompt, edits: list[Any]) -> Tensor:
    """Logits of the suffix, ``[token, vocab]``."""
    ids = torch.tensor([prompt.tokens], device=loaded.device)
    with edit(loaded, edits, prompts=[prompt]) if edits else nullcontext(), torch.no_grad():
        logits: Tensor = loaded.model(input_ids=ids, logits_to_keep=TAIL, use_cache=False).logits[0]
    return logits


CLAIM = Claim(
    claimed="with documents in parallel (set-based prompting), or seeing one another both ways and placed by "
    "importance "
    "(PINE), a model's continuation is exactly the same for any order of them (a law); a plain model's is not.",
    data=f"{COUNT} passages, {DATA}.",
    measure=measure,
    how=(
        f"A passage is a prefix of {WIDTH} tokens, {SEGMENTS} segments of {WIDTH}, in all their orders, and a suffix "
        "of "
        f"{TAIL}. Compared are the suffix's logits, with those of the first order.",
        f"The claim holds where both differ by at most {LIMIT:g} in any logit of any passage, which is rounding in "
        "float32 "
        "(a mask and positions change no number exactly; sums run in another order), and the plain model by more.",
    ),
    settings={"segments": SEGMENTS, "width": WIDTH, "tail": TAIL, "count": COUNT},
)
