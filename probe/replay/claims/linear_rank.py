"""Linear attention is low-rank: on the same q, k and v its output uses fewer directions than softmax's (or not)."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from probe_kernels.types import Attended, Want
from torch import Tensor

from probe.experiments.forwards import watch
from probe.metrics.effective_rank import effective_rank, spectrum
from probe.metrics.linear_attention import LinearRank, linear_attention
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import NONE, Estimate, Finding, Row, Table
from probe.replay.intervals import interval, mean, statistic
from probe.replay.passages import DATA, passages
from probe.replay.work import Work
from probe.seam.call import AttentionCall

PASSAGES, WIDTH = 8, 384
KINDS = ("softmax", "linear", "uniform", "values")
PAIRS = {
    "": ("softmax", "linear"),
    ", first token left out": ("softmax without first", "linear without first"),
}
NAMES = (*KINDS, "softmax without first", "linear without first")


def measure(work: Work) -> Finding:
    """Effective rank of every head's output under both attentions, by passage."""
    rows = [
        work.keep(str(one.id), _of_passage, work.model, one)
        for one in work.few(passages(work.model, PASSAGES, WIDTH))
    ]
    found = {name: np.asarray([row[name] for row in rows], np.float64) for name in NAMES}
    held = {said: _held(found[one], found[two]) for said, (one, two) in PAIRS.items()}
    softmax, linear = (mean(found[name].mean(1), digits=1) for name in KINDS[:2])
    return Finding(
        holds=all(held.values()),
        brief=f"effective rank {softmax} with softmax, {linear} with linear attention; softmax higher in "
        f"{_share(found['softmax'], found['linear'])} of heads",
        rows=(
            *(
                Row(
                    f"effective rank, {name}{said}",
                    mean(found[pair].mean(1), digits=1),
                    NONE,
                    _uniform(found, said),
                )
                for said, both in PAIRS.items()
                for name, pair in zip(KINDS, both, strict=False)
            ),
            Row("effective rank of the values themselves", mean(found["values"].mean(1), digits=1)),
            *(
                Row(f"share of heads with softmax higher{said}", _share(found[one], found[two]))
                for said, (one, two) in PAIRS.items()
            ),
        ),
        tables=(_table(found),),
        found=tuple(
            f"Softmax minus linear{said}: {mean((found[one] - found[two]).mean(1), digits=1)} directions. The claim "
            f"{'holds' if held[said] else 'does not hold'} so."
            for said, (one, two) in PAIRS.items()
        ),
    )


def _held(softmax: np.ndarray, linear: np.ndarray) -> bool:
    higher = interval((softmax - linear).mean(1))[0] > 0
    return bool(higher and (_share(softmax, linear).low or 0.0) > 0.5)


def _share(one: np.ndarray, two: np.ndarray) -> Estimate:
    """Share of heads where the first is higher, on average over passages."""
    return statistic(one - two, lambda some: float((some.mean(0) > 0).mean()))


def _uniform(found: dict[str, np.ndarray], said: str) -> Estimate | str:
    return NONE if said else mean(found["uniform"].mean(1), digits=1)


def _table(found: dict[str, np.ndarray]) -> Table:
    def line(name: str) -> tuple[str, ...]:
        return (name, *(str(mean(part.mean(1), digits=1)) for part in np.array_split(found[name], 3, axis=1)))

    return Table(
        "Effective rank by depth, heads in order of their layers: mean [95 % interval over passages]",
        ("output of", "first third", "second third", "last third"),
        tuple(line(name) for name in NAMES),
    )


def _of_passage(loaded: LoadedModel, passage: Prompt) -> dict[str, list[float]]:
    ranks = _Ranks()
    watch(loaded, passage, [ranks])
    return ranks.found


class _Ranks:
    """Effective ranks of every head, layer by layer, under each attention."""

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = {name: [] for name in NAMES}

    def want(self, call: AttentionCall) -> Want:
        """z, and what of it comes from keys behind the first."""
        groups = (torch.arange(call.size[2]) > 0).to(torch.int16)[None].to(call.layout.key_pos.device)
        return Want(z=True, key_groups={"first": groups}, parts=frozenset({"first"}))

    def update(self, call: AttentionCall, attended: Attended) -> None:
        """Ranks of one layer, where no window hides a key."""
        scores = call.scores
        if LinearRank().applies(call) or scores is None or scores.value is None or attended.z is None:
            return
        q, k, v = scores.query, scores.key, scores.value
        mass = attended.key_groups["first"][0, :, 1:, 1]
        rest = attended.parts["first"][0, :, 1:, 1] / mass.clamp_min(1e-6)[..., None]
        after: Callable[[Tensor], Tensor] = lambda x: x[:, :, 1:]  # noqa: E731 -- one line, used three times below
        made = {
            "softmax": attended.z[0],
            "linear": linear_attention(q, k, v)[0],
            "uniform": linear_attention(0 * q, 0 * k, v)[0],
            "values": v[0].repeat_interleave(call.n_heads // call.n_kv_heads, 0),
            "softmax without first": rest,
            "linear without first": linear_attention(*map(after, (q, k, v)))[0],
        }
        for name, z in made.items():
            self.found[name] += _rank(z).tolist()


def _rank(z: Float[Tensor, "head token d"]) -> Float[Tensor, "head"]:
    exact = z.double().cpu()
    return effective_rank(spectrum(exact.transpose(1, 2) @ exact))


CLAIM = Claim(
    claimed="the output of linear attention is of low rank where that of softmax attention on as many tokens is not, "
    "and that is why it falls behind. (The paper counts ranks in vision models; its figure has no number for "
    "language.)",
    data=f"{PASSAGES} passages of {WIDTH} tokens, {DATA}.",
    measure=measure,
    how=(
        "Effective rank (Roy & Vetterli 2007) of a head's output [token, d_head] over one passage: exp of the "
        "entropy of its singular values. Softmax: the model's own. Linear: ELU(x) + 1 as feature map, on the same q, "
        "k and v, causal.",
        "The control is uniform attention, the running mean of the values: the lowest that mixing alone gives. The "
        "values themselves are the highest that can be expected.",
        "Left out: the first key, the sink, of every row, what is left scaled to sum 1; for linear attention the "
        "first token is taken away.",
        "The claim holds where softmax has the higher rank on average over heads (interval over passages) and in "
        "more than half of all heads, with the first token and without.",
    ),
    settings={"passages": PASSAGES, "width": WIDTH},
)
