"""A GPT-2 whose weights are the indirect-object circuit of Wang et al. 2023, every head by hand, and pairs for it.

L0.H0 looks one back, L0.H1 finds the same name earlier, L1.H0 what followed it (induction), L2.H0 tells the last token
which position the second name was said at before (S-inhibition), L3.H0 copies a name from elsewhere (name mover).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from silent import silent_gpt2
from torch import Tensor

from probe.models import LoadedModel, ModelSource
from probe.prompts import Prompt
from probe.prompts.pairs import Pair

BOS, END = 0, 1
FILLERS, NAMES = range(2, 6), range(6, 12)
S2 = 7  # where the second name is said again
VOCAB, POSITIONS = 12, 11
LAYERS, HEADS, WIDTH = 4, 4, 88
D_HEAD = WIDTH // HEADS
SHARP, SOFT = 6.0, 0.25
SIZE = (WIDTH / 2) ** 0.5  # of a token's axis behind a norm, and so of what heads move

#: Axes of the stream.
TOKEN = range(VOCAB)
PLACE = range(12, 23)
BEFORE = range(23, 29)  # which name the token before was
SEEN = range(29, 40)  # at which position this name was said before
AVOID = range(40, 51)  # positions whose name is not to be said
OWN = range(51, 57)  # which name stands here, as told by a head that looks at its own token
SHUN = range(57, 63)  # names that are not to be said
SAID = range(63, 69)
NAMED = TOKEN[NAMES.start : NAMES.stop]

Form = Mapping[int, float]  # a number read off the stream: weights of its axes


@dataclass(frozen=True, eq=False)
class Wire:
    """A head: it looks where the forms of query and key both are large, and moves values from axes to axes."""

    layer: int
    head: int
    looks: Sequence[tuple[Form, Form]]
    moves: Sequence[tuple[int, int, float]] = ()
    rest: float = SHARP  # how much of it looks at the first token where it finds nothing


def alike(query: Sequence[int], key: Sequence[int], strength: float) -> list[tuple[Form, Form]]:
    """One form for each two axes: a query looks at keys whose axis is the one that stands for its own."""
    size = abs(strength) ** 0.5
    return [({q: size if strength > 0 else -size}, {k: size}) for q, k in zip(query, key, strict=True)]


def moves(source: Sequence[int], target: Sequence[int], times: float = 1.0) -> list[tuple[int, int, float]]:
    """Each axis to its own target."""
    return [(one, other, times) for one, other in zip(source, target, strict=True)]


HARD = SHARP**2
PREVIOUS = Wire(0, 0, alike(PLACE[1:], PLACE[:-1], HARD), moves(NAMED, BEFORE))
#: Looks at the same token, but not at itself.
_SAME = [*alike(NAMED, NAMED, HARD), *alike(PLACE, PLACE, -2 * HARD)]
DUPLICATE = Wire(0, 1, _SAME, moves(PLACE, SEEN))
_BEHIND = alike(NAMED, BEFORE, HARD)
INDUCTION = Wire(1, 0, _BEHIND, moves(PLACE[1:], SEEN[:-1]))
#: Where END asks, the name that has been said before answers.
_REPEATED: list[tuple[Form, Form]] = [({TOKEN[END]: SHARP}, dict.fromkeys(SEEN[1:], SHARP))]
INHIBITION = Wire(2, 0, _REPEATED, [*moves(SEEN[1:], AVOID[1:]), *moves(OWN, SHUN)])
_NAMES: Form = {**dict.fromkeys(NAMED, SHARP), **dict.fromkeys(SEEN[1:], -SHARP)}
MOVER = Wire(
    3,
    0,
    [({TOKEN[END]: 3 * SHARP}, _NAMES), *alike(AVOID[1:], PLACE[1:], -SOFT), *alike(SHUN, NAMED, -SOFT)],
    moves(NAMED, SAID),
    rest=0.0,
)
CIRCUIT = (PREVIOUS, DUPLICATE, INDUCTION, INHIBITION, MOVER)

#: Heads that look where a role's heads look and write nothing.
IDLE = (Wire(0, 2, _SAME), Wire(1, 1, _BEHIND), Wire(2, 1, _REPEATED))
#: A head whose values reach S-inhibition from the second mention, but which looks at itself.
OWN_TOKEN = Wire(0, 3, alike(PLACE, PLACE, HARD), moves(NAMED, OWN))
#: A head that tells the last token which name to shun, but looks at the token before, not at the second mention.
ELSEWHERE = Wire(2, 2, [({TOKEN[END]: SHARP}, {PLACE[S2 + 1]: SHARP})], moves(BEFORE, SHUN, 0.5))
DECOYS = (*IDLE, OWN_TOKEN, ELSEWHERE)


def name_circuit(wires: Sequence[Wire]) -> LoadedModel:
    """The model of some wires; heads that are not wired, and all MLPs, add nothing."""
    model = silent_gpt2(VOCAB, POSITIONS, WIDTH, (LAYERS, HEADS), BOS)
    with torch.no_grad():
        body = model.transformer
        body.wte.weight[:, TOKEN] = SIZE * torch.eye(VOCAB)
        body.wpe.weight[:, PLACE] = SIZE * torch.eye(POSITIONS)
        model.lm_head.weight[list(NAMES), list(SAID)] = 4.0
        for one in wires:
            _wire(body.h[one.layer].attn, one)
    return LoadedModel(model, None, "name circuit", ModelSource("given"))


def _wire(attention: torch.nn.Module, wire: Wire) -> None:
    inner: Tensor = attention.c_attn.weight
    query = wire.head * D_HEAD
    key, value = WIDTH + query, 2 * WIDTH + query
    for n, (asked, told) in enumerate(wire.looks):
        for axis, weight in asked.items():
            inner[axis, query + n] = weight
        for axis, weight in told.items():
            inner[axis, key + n] = weight
    rest = D_HEAD - 1
    attention.c_attn.bias[query + rest] = wire.rest
    inner[PLACE[0], key + rest] = SHARP / 2
    for n, (source, target, times) in enumerate(wire.moves):
        inner[source, value + n] = 1.0
        attention.c_proj.weight[query + n, target] = times


def name_pairs(count: int = 12, seed: int = 0) -> list[Pair]:
    """``BOS . . A . B . B . END`` → A, the two names in either order; the corrupt prompt repeats A."""
    drawn = np.random.default_rng(seed)
    made = []
    for number in range(count):
        io, s1 = (3, 5) if number % 2 else (5, 3)
        a, b = (int(one) for one in drawn.choice(list(NAMES), 2, replace=False))
        clean = [BOS, *drawn.choice(list(FILLERS), S2 + 1).tolist(), END]
        clean[io], clean[s1], clean[S2] = a, b, b
        corrupt = [*clean[:S2], a, *clean[S2 + 1 :]]
        prompts = [Prompt.of_tokens(ids, id=f"{number}:{i}") for i, ids in enumerate((clean, corrupt))]
        made.append(Pair(str(number), prompts[0], prompts[1], (a,), (b,), {"io": io, "s1": s1, "s2": S2}))
    return made
