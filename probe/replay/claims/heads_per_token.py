"""Not all heads are needed at every token: those that write least can be silent."""

from typing import Any

import numpy as np

from probe.analysis.ready import ready
from probe.experiments.forwards import losses
from probe.interventions import top_heads
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import Finding, Row, Table, not_asked
from probe.replay.intervals import interval, mean, spread
from probe.replay.passages import DATA, passages
from probe.replay.work import Work

COUNT, WIDTH, SEEDS = 8, 256, 3
SHARES = (0.9, 0.75, 0.55)  # of a layer's heads that stay
FREE = 0.1  # nats per token: a smaller rise of the loss is next to nothing


def measure(work: Work) -> Finding:
    """Loss with the heads that write least silent at every token of every layer, against as many drawn at random."""
    heads = int(work.model.model.config.get_text_config().num_attention_heads)  # type: ignore[union-attr, operator]
    keeps = kept(heads)
    if not keeps:
        return not_asked(f"a layer has {heads} heads, too few to leave some out")
    prompts = work.few(passages(work.model, COUNT, WIDTH))
    rows = np.asarray([work.keep(one.id, _losses, work.model, one, keeps) for one in prompts])
    base, width = rows[:, 0], 1 + SEEDS
    cost = {k: rows[:, 1 + at * width : 1 + (at + 1) * width].T - base for at, k in enumerate(keeps)}
    near = next((k for k in keeps if k <= round(SHARES[1] * heads)), keeps[-1])
    free = bool(interval(cost[near][0])[1] < FREE)
    best = all((cost[k][0].mean() < cost[k][1:].mean(1)).all() for k in keeps)
    return Finding(
        holds=free and best,
        brief="; ".join(
            f"{k} of {heads} heads +{cost[k][0].mean():.2f} nats (at random {spread(cost[k][1:])})"
            for k in keeps
        ),
        rows=(
            Row(f"loss, nats per token, all {heads} heads", mean(base, digits=3)),
            *(
                Row(
                    f"rise of the loss, {k} of {heads} heads at every token",
                    mean(cost[k][0], digits=3),
                    "none: 75 % of the heads do as well or better, after training for it"
                    if k == near
                    else "–",
                    spread(cost[k][1:], 3),
                )
                for k in keeps
            ),
        ),
        found=(
            f"With {near} of {heads} heads the loss rises by {cost[near][0].mean():.3f} nats, "
            f"{'less' if free else 'no less'} than {FREE:g}; choosing by what heads write "
            f"{'is better' if best else 'is not always better'} than every random choice of as many.",
        ),
        tables=(_table(cost, base, heads),),
    )


def kept(heads: int) -> list[int]:
    """How many heads stay, from most to fewest, each less than all."""
    numbers = {min(heads - 1, round(share * heads)) for share in SHARES}
    return sorted((n for n in numbers if n >= 1), reverse=True)


def _losses(loaded: LoadedModel, prompt: Prompt, keeps: list[int]) -> list[float]:
    """Loss without an edit; for each number by what heads write, then by random choice."""
    made: list[Any] = []
    for k in keeps:
        one = top_heads(k, by="write_norm")
        made += [one, *(one.control(seed) for seed in range(SEEDS))]
    edits = [[], *(list(ready([one], loaded, [prompt])) for one in made)]
    return [float(losses(loaded, prompt, one)[1:].mean()) for one in edits]


def _table(cost: dict[int, np.ndarray], base: np.ndarray, heads: int) -> Table:
    return Table(
        "Rise of the loss by text, nats per token, heads chosen by what they write (at random)",
        ("heads", *("story", "haystack")),
        tuple(
            (
                f"{k} of {heads}",
                *(
                    f"{part[0].mean():.3f} ({part[1:].mean():.3f})"
                    for part in np.array_split(cost[k], 2, axis=1)
                ),
            )
            for k in cost
        ),
    )


CLAIM = Claim(
    claimed="not every head is needed at every token: a router that keeps 50 to 90 % of the heads per token loses "
    "nothing; MoH-LLaMA3-8B is 2.4 % better with 75 % of its heads. (The paper trains the router and tunes the model; "
    "here heads are silenced in a model that was never told.)",
    data=f"{COUNT} passages of {WIDTH} tokens, {DATA}.",
    measure=measure,
    how=(
        "`top_heads` by `write_norm`: at every token of every layer the heads with the largest ‖W_O z‖ stay, the "
        "others give zero. The norm needs z, so nothing is saved: this asks what is needed, not what is fast.",
        f"Control: as many heads that stay, drawn anew for every layer and token, {SEEDS} draws.",
        f"The claim holds where three quarters of the heads cost less than {FREE:g} nats per token (upper end of the "
        "interval over passages), and the choice by "
        "norm costs less than every draw at every number. Nothing was measured before these were set.",
    ),
    settings={"count": COUNT, "width": WIDTH, "seeds": SEEDS, "shares": SHARES},
)
