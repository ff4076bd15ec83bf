"""The positions that a layer looks at most are those of other layers as well, far above chance, less so far apart."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from probe.experiments.seen_rows import SeenRows, drawn_rows, see_rows
from probe.experiments.topk_overlap import selected
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import NONE, Estimate, Finding, Row, Table
from probe.replay.intervals import interval, mean, statistic
from probe.replay.passages import DATA, passages
from probe.replay.work import Work

K, ROWS, WIDTH, COUNT = 64, 32, 512, 8
NEAR, FAR = 1, 0.5  # layers apart: neighbours, and half of the depth or more
FRONTS = (0, 1)  # positions left out: none, and the first, which is a sink


def measure(work: Work) -> Finding:
    """Overlap of the layers' top 64, in one text and between texts, by how far the layers lie apart."""
    prompts = work.few(passages(work.model, COUNT, WIDTH), 2)
    found = np.asarray(
        [
            work.keep(str(one.id), _grids, work.model, one, prompts[at - 1], work.seed)
            for at, one in enumerate(prompts)
        ]
    )
    grids = {
        front: found[:, at] for at, front in enumerate(FRONTS)
    }  # [text, own | other | chance, layer, layer]
    layers = grids[0].shape[2]
    gap = np.abs(np.arange(layers)[:, None] - np.arange(layers))
    near, far, apart = gap == NEAR, gap >= FAR * layers, gap > 0
    own, other = grids[0][:, 0], grids[0][:, 1]
    chance = float(grids[0][:, 2][:, apart].mean())
    above = (
        interval(own[:, apart].mean(1) - other[:, apart].mean(1))[0] > 0 and own[:, apart].mean() > 2 * chance
    )
    falls = interval(own[:, near].mean(1) - own[:, far].mean(1))[0] > 0
    rows = []
    for front in FRONTS:
        said = "" if front == 0 else ", position 0 left out"
        for name, flags in (
            ("any two layers", apart),
            ("neighbours", near),
            ("half of the depth apart or more", far),
        ):
            mine, its = (grids[front][:, kind][:, flags].mean(1) for kind in (0, 1))
            rows.append(Row(f"overlap of the top {K}, {name}{said}", mean(mine), NONE, mean(its)))
    rows.append(Row("overlap by chance (k of the keys a row sees)", Estimate(chance)))
    curve = [_at(own, gap, distance) for distance in range(1, layers)]
    return Finding(
        holds=bool(above and falls),
        brief=f"overlap {mean(own[:, apart].mean(1))}, same positions of another text {mean(other[:, apart].mean(1))}, "
        f"chance {chance:.2f}; neighbours {own[:, near].mean():.2f}, far layers {own[:, far].mean():.2f}",
        rows=tuple(rows),
        found=(
            f"Overlap is {'' if above else 'not '}above that of another text's selections and above twice chance; it "
            f"{'falls' if falls else 'does not fall'} with distance: neighbours minus far layers "
            f"{mean(own[:, near].mean(1) - own[:, far].mean(1))}.",
            f"Rank correlation of overlap and distance over pairs of layers: {statistic(own, _falls)}.",
        ),
        tables=(_table(curve),),
    )


def _grids(loaded: LoadedModel, prompt: Prompt, other: Prompt, seed: int) -> Float[np.ndarray, "front 3 a b"]:
    """Layer × layer: overlap in one text, overlap with the same rows of another text, and chance."""
    rows = drawn_rows(np.arange(2 * K + 1, WIDTH), ROWS, seed)
    mine, its = (_selections(loaded, one, rows) for one in (prompt, other))
    found = []
    for (sets, seen), (others, _) in zip(mine, its, strict=True):
        pairs = [torch.einsum("arj,brj->ab", sets, each) / (K * len(rows)) for each in (sets, others)]
        sizes, common = seen.sum(-1), torch.einsum("arj,brj->abr", seen, seen)
        chance = (common * K / (sizes[:, None] * sizes[None])).mean(-1)
        found.append(torch.stack([*pairs, chance]).cpu().numpy())
    return np.stack(found)


def _selections(loaded: LoadedModel, prompt: Prompt, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For every front, [layer, row, key]: flags of what each layer selects, and of what it sees, as numbers."""
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in FRONTS]

    def take(seen: SeenRows) -> None:
        for front, kept in zip(FRONTS, found, strict=True):
            visible = seen.visible[0].clone()
            visible[:, :front] = False
            p = seen.p[0].double().sum(0).masked_fill(~visible, -1.0)
            kept.append((selected(p, K).double(), visible.double()))

    see_rows(loaded, torch.tensor([prompt.tokens]), rows, take)
    return [(torch.stack([one for one, _ in kept]), torch.stack([one for _, one in kept])) for kept in found]


def _at(own: np.ndarray, gap: np.ndarray, distance: int) -> Estimate:
    return mean(own[:, gap == distance].mean(1))


def _falls(own: np.ndarray) -> float:
    """Spearman's correlation of distance and overlap, over pairs of layers, of the mean over texts."""
    layers = own.shape[1]
    a, b = np.triu_indices(layers, 1)
    return float(spearmanr(b - a, own.mean(0)[a, b]).statistic)


def _table(curve: Sequence[Estimate]) -> Table:
    shown = sorted({1, 2, 4, 8, len(curve) // 2, len(curve)} & set(range(1, len(curve) + 1)))
    return Table(
        "Overlap by how many layers lie between: mean [95 % interval over texts]",
        ("layers apart", "overlap"),
        tuple((str(distance), str(curve[distance - 1])) for distance in shown),
    )


CLAIM = Claim(
    claimed="the tokens that one layer selects are those of the layers that follow: selecting in a few layers is "
    "enough (TidalDecode selects in two layers of 32 and reuses the positions in the others).",
    data=f"{COUNT} passages of {WIDTH} tokens, {DATA}.",
    measure=measure,
    how=(
        f"A layer selects, in a row, the {K} keys with the most attention summed over its heads; overlap is the share "
        f"of one layer's that another has, over {ROWS} rows that see more than {2 * K} keys. The paper selects per "
        "head; the layer's own sum is what claims about layers need.",
        "The control is position alone: the selections of the other layer in the same rows of another text (a sink and "
        "the last tokens are in both). Chance is that of keys drawn blindly from those a row sees.",
        "The claim holds where overlap is above the control (interval of the difference) and more than twice chance, "
        "and neighbours overlap more than layers half of the depth apart (interval of the difference).",
    ),
    settings={"k": K, "rows": ROWS, "width": WIDTH, "count": COUNT},
)
