"""Entropy keeps above the bound that its scores set, in every row; heads near the maximum are early ones."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.experiments.folding import fold
from probe.metrics.answering import answers
from probe.metrics.base import MetricInfo, wanted
from probe.metrics.entropy_bound import EntropyBound
from probe.metrics.entropy_state import EntropyState
from probe.metrics.row_metric import RowMetric
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import Finding, Row, Table
from probe.replay.intervals import interval, mean
from probe.replay.passages import DATA, passages
from probe.replay.work import Work
from probe.seam.call import AttentionCall

COUNT, WIDTH, OVERLOAD = 8, 512, 0.75
FEW = 0.05  # share of heads
THIRDS = ("first third", "middle third", "last third")


class WithoutFirst(RowMetric):
    """Entropy over its maximum of what a row gives to all keys but the first that it sees, in [0, 1].

    With m the first key's share: H' = (H + m log m) / (1 - m) + log(1 - m), over log(visible - 1). Rows that see fewer
    than three keys, or give the first all but a ten-thousandth, do not count.
    """

    info: ClassVar = MetricInfo(
        "without_first", "Entropy over its maximum, first key left out.", "share", "high", "", ""
    )
    need: ClassVar = Want(z=False, entropy=True, visible=True, first=(1,))

    def rows(self, call: AttentionCall, attended: Attended) -> Tensor:
        """Rows that see three keys or more."""
        rows: Tensor = call.query_real & (wanted(attended.visible, "visible") > 2)
        return rows

    def weight(self, call: AttentionCall, attended: Attended) -> Tensor:
        """1 where something is left."""
        return (attended.first[1] < 1 - 1e-4).float()

    def score(self, call: AttentionCall, attended: Attended) -> Tensor:
        """H' over its maximum."""
        m = attended.first[1].double()
        left = (1 - m).clamp_min(1e-12)
        rest = (wanted(attended.entropy, "entropy").double() + torch.special.xlogy(m, m)) / left + left.log()
        most = (wanted(attended.visible, "visible").double() - 1).clamp_min(2).log()[:, None]
        share: Tensor = (rest / most).clamp(0, 1) * self.weight(call, attended)
        return share


def measure(work: Work) -> Finding:
    """Violations of the bound, and the share of overloaded heads in each third of the layers."""
    prompts = work.few(passages(work.model, COUNT, WIDTH))
    read = [work.keep(one.id, _read, work.model, one) for one in prompts]
    broken = sum(one["violations"] for one in read)
    margin = np.asarray([one["margin"] for one in read])
    shares = {kind: np.asarray([one[kind] for one in read]) for kind in ("overload", "without first")}
    plain = shares["overload"]  # [passage, third]
    law = broken == 0
    early = bool(interval(plain[:, 0] - plain[:, 2])[0] > 0)
    only = bool(plain[:, 1:].mean(0).max() < FEW)
    return Finding(
        holds=bool(law and early and only),
        brief=f"{broken:g} violations; overloaded heads: "
        + ", ".join(f"{name} {value:.0%}" for name, value in zip(THIRDS, plain.mean(0), strict=True)),
        rows=(
            Row("rows whose entropy is below the bound, share", f"{broken:g}", "0 (a law)"),
            Row("entropy less its bound, nats, mean over heads", mean(margin), "0 or more"),
            *(
                Row(
                    f"share of heads at or above {OVERLOAD:g} of the maximum, {name}",
                    mean(plain[:, at]),
                    "many" if at == 0 else "none",
                )
                for at, name in enumerate(THIRDS)
            ),
        ),
        found=(
            f"The bound {'is never violated' if law else 'is violated'}. Overload is "
            f"{'more frequent in the first third than in the last' if early else 'not more frequent early'}, and "
            f"{'hardly found later' if only else f'found later too (the middle or last third has {FEW:.0%} or more)'}.",
        ),
        tables=(_table(shares),),
    )


def _read(loaded: LoadedModel, prompt: Prompt) -> dict[str, object]:
    bound, state, without = EntropyBound(), EntropyState(overload=OVERLOAD), WithoutFirst()
    fold(loaded, [prompt], [bound, state, without])
    margin, flags, rest = (answers(one)[0] for one in (bound, state, without))
    return {
        "violations": float(margin.extra["violations"].sum()),
        "margin": float(margin.head_map.mean()),
        "overload": _thirds(flags.head_map.values, lambda values: values == 1),
        "without first": _thirds(rest.head_map.values, lambda values: values >= OVERLOAD),
    }


def _thirds(values: np.ndarray, is_over: Callable[[np.ndarray], np.ndarray]) -> list[float]:
    """Share of the heads of each third of the layers."""
    n = len(values) // 3
    parts = (values[:n], values[n : len(values) - n], values[len(values) - n :])
    return [float(is_over(part[np.isfinite(part)]).mean()) for part in parts]


def _table(shares: dict[str, np.ndarray]) -> Table:
    titles = {"overload": "all keys", "without first": "the first key left out"}
    return Table(
        f"Share of heads whose mean entropy is {OVERLOAD:g} of its maximum or more: mean [95 % interval over passages]",
        ("entropy over", *THIRDS),
        tuple(
            (titles[kind], *(str(mean(values[:, at])) for at in range(3))) for kind, values in shares.items()
        ),
    )


CLAIM = Claim(
    claimed="entropy is bounded from below by the scores' spread (a law, tight), and overload, many heads stuck near "
    "the maximum, is a matter of early layers.",
    data=f"{COUNT} passages of {WIDTH} tokens, {DATA}.",
    measure=measure,
    how=(
        "The bound row by row: σ is the norm of the row's centred scores, T the keys that it sees (`entropy_bound`). "
        f"Entropy is divided by its maximum for the keys a row sees, so that length does not dilute it; a head whose "
        f"mean is {OVERLOAD:g} or more counts as overloaded (`entropy_state`).",
        "With a sink at the first position a head that looks everywhere else alike seems focused: the table has the "
        "shares with the first key left out as well. A control has no part: nothing is chosen or edited.",
        "The claim holds where no row violates the bound, the first third has a larger share of overloaded heads than "
        f"the last (interval of the difference over passages), and the other thirds have less than {FEW:.0%}. Nothing "
        "was measured before these were set.",
    ),
    settings={"count": COUNT, "width": WIDTH, "overload": OVERLOAD},
)
