"""Attention over random parts of the keys gives members of an ensemble: their average is better than each of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from probe_kernels.types import Edits
from torch import Tensor

from probe.interventions.editing import edit_scores
from probe.interventions.target import Target
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import Finding, Row, Table
from probe.replay.intervals import interval, mean
from probe.replay.passages import DATA, passages
from probe.replay.reading import under
from probe.replay.work import Work
from probe.seam.call import AttentionCall

COUNT, WIDTH, MEMBERS = 8, 256, 4
RATES = (0.25, 0.5)


@dataclass(frozen=True)
class DropKeys:
    """Every layer hides `rate` of the keys from all later rows, drawn by the seed; position 0 and its own stay."""

    rate: float
    seed: int
    target: Target = Target()  # noqa: RUF009 -- frozen

    @property
    def name(self) -> str:
        """How errors name it."""
        return f"drop_keys:rate={self.rate:g},seed={self.seed}"

    def edits(self, call: AttentionCall) -> Edits:
        """Hide the drawn keys."""
        n_key = call.size[2]
        draw = torch.Generator().manual_seed(1000 * self.seed + call.place.layer)
        hidden = torch.rand(n_key, generator=draw).to(call.layout.key_pos.device) < self.rate
        hidden = hidden & (call.key_index[0] > 0)
        query, key = call.query_index, call.key_index

        def hide(scores: Tensor, rows: slice, keys: slice) -> Tensor:
            own = query[:, rows, None] == key[:, None, keys]
            return scores.masked_fill((hidden[None, None, keys] & ~own)[:, None], float("-inf"))

        return edit_scores(self.target, call, hide)


def measure(work: Work) -> Finding:
    """Loss and accuracy of the next token: whole attention, members with dropped keys, and their average."""
    prompts = work.few(passages(work.model, COUNT, WIDTH), 2)
    rows = [work.keep(str(one.id), _by_run, work.model, one, work.seed) for one in prompts]
    values = np.asarray(
        rows, np.float64
    )  # [prompt, 1 + rates · (members + ensemble + cooled), loss or right]
    base, each = values[:, 0], values[:, 1:].reshape(len(values), len(RATES), MEMBERS + 2, 2)
    held, lines, table = [], [], [("whole attention", "–", str(mean(base[:, 0])), str(mean(base[:, 1])))]
    headline = [Row("loss, nats per token, whole attention", mean(base[:, 0]))]
    for at, rate in enumerate(RATES):
        members, together, cooled = each[:, at, :MEMBERS], each[:, at, MEMBERS], each[:, at, MEMBERS + 1]
        best = members[..., 0].mean(0).argmin()
        gain = members[:, best, 0] - together[:, 0]
        smooth = cooled[:, 0] - together[:, 0]
        right = together[:, 1] - members[..., 1].mean(1)
        yes = interval(gain)[0] > 0 and interval(smooth)[0] > 0 and interval(right)[0] > 0
        held.append(bool(yes))
        said = f"{rate:.0%} of the keys dropped"
        headline.append(
            Row(f"loss, average of {MEMBERS}, {said}", mean(together[:, 0]), control=mean(cooled[:, 0]))
        )
        headline.append(Row(f"loss, its best member, {said}", mean(members[:, best, 0])))
        lines.append(
            f"{said}: the average is better than its best member by {mean(gain)} nats, than the best member flattened "
            f"for it by {mean(smooth)}, and right {mean(right, digits=3)} more often than a member. It is "
            f"{mean(together[:, 0] - base[:, 0])} nats worse than whole attention. The claim "
            f"{'holds' if yes else 'does not hold'}."
        )
        kinds = {"member": members.mean(1), "best member": members[:, best], "its best, flattened": cooled}
        for name, cells in {**kinds, "average": together}.items():
            table.append((name, f"{rate:.0%}", str(mean(cells[:, 0])), str(mean(cells[:, 1], digits=3))))
    return Finding(
        holds=all(held),
        brief=f"loss {base[:, 0].mean():.2f} whole; "
        + "; ".join(f"{rate:.0%} dropped: average {each[:, at, MEMBERS, 0].mean():.2f}, member "
                    f"{each[:, at, :MEMBERS, 0].mean():.2f}" for at, rate in enumerate(RATES)),
        rows=tuple(headline),
        found=tuple(lines),
        tables=(
            Table(
                f"{len(values)} passages of {WIDTH} tokens: mean [95 % interval over passages]",
                ("attention", "keys dropped", "loss, nats per token", "right next token"),
                tuple(table),
            ),
        ),
    )  # fmt: skip


def _by_run(loaded: LoadedModel, prompt: Prompt, seed: int) -> list[list[float]]:
    """Loss and accuracy of every run: whole; and by rate the members, their average, the best member flattened."""
    ids = torch.tensor([prompt.tokens], device=loaded.device)
    found = [_judged(_logs(loaded, ids), ids)]
    for rate in RATES:
        best = total = _logs(loaded, ids, [DropKeys(rate, seed)])
        own = [_judged(total, ids)]
        for member in range(1, MEMBERS):
            logs = _logs(loaded, ids, [DropKeys(rate, seed + member)])
            own.append(_judged(logs, ids))
            best = logs if own[-1][0] == min(own)[0] else best
            total = torch.logaddexp(total, logs)
        found += [*own, _judged(total - np.log(MEMBERS), ids), _flattened(best, ids)]
    return found


def _logs(loaded: LoadedModel, ids: Tensor, edits: Sequence[DropKeys] = ()) -> Tensor:
    with under(loaded, edits):
        logs: Tensor = loaded.model(ids).logits[0, :-1].log_softmax(-1)
        return logs


def _judged(logs: Tensor, ids: Tensor) -> list[float]:
    """Mean −log p of the next token, and how often it is the likeliest."""
    nexts = ids[0, 1:]
    return [float(-logs.gather(1, nexts[:, None]).mean()), float((logs.argmax(-1) == nexts).float().mean())]


def _flattened(logs: Tensor, ids: Tensor) -> list[float]:
    """What the same gives at the temperature, of a few from 1 to 2, that is best for this very text."""
    return min(_judged((logs / t).log_softmax(-1), ids) for t in (1.0, 1.1, 1.2, 1.35, 1.5, 2.0))


CLAIM = Claim(
    claimed="sparse sub-networks of a transformer, made by attending to a random part of the keys, form an ensemble: "
    "the average of their predictions is better than each of them, and in the paper than the dense model (which was "
    "trained with dropped keys; here it was not).",
    data=f"{COUNT} passages of {WIDTH} tokens, {DATA}.",
    measure=measure,
    how=(
        f"A member hides 25 or 50 % of the keys from all later rows, other ones in every layer, drawn by its seed; "
        f"position 0, a sink, and the row's own token stay. The ensemble is the mean of the probabilities of "
        f"{MEMBERS} members.",
        "That the average beats the mean of its members' losses is a law (Jensen); so it is set beside its best "
        "member. An average is also flatter, which alone helps a member that is too sure: the control is the passage's "
        "best member at the temperature, of a few from 1 to 2, that is best for that very passage (chosen with its "
        "answers, against the claim).",
        "The claim holds where, at both rates, the average has a lower loss than the best member and than the control, "
        "and is right more often than a member (intervals over passages). Whether it beats whole "
        "attention is told beside it.",
    ),
    settings={"count": COUNT, "width": WIDTH, "members": MEMBERS, "rates": RATES},
)
