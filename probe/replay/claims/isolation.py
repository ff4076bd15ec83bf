"""Tokens of a context need little attention among themselves: a short window each is enough to find the answer."""

from collections.abc import Sequence

import numpy as np

from probe.interventions import isolate
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import Finding, Row, Table, not_asked
from probe.replay.intervals import interval, mean
from probe.replay.needles import held_out, needle_of
from probe.replay.reading import Reading
from probe.replay.work import Work

NEEDLES, LENGTH = 8, 512
WINDOWS, FIRST = (8, 32, 128), 32
KEPT = 0.9  # share of the unedited recall above which it is kept
NONE, NO_SINK, ASKED = (
    "nothing cut",
    "window 32, position 0 out of sight too",
    "window 32 for the question as well",
)


def measure(work: Work) -> Finding:
    """Recall and loss of a hidden answer with the context cut into windows, and with the question cut too."""
    prompts = work.few(held_out(work.model, NEEDLES, work.seed, (LENGTH,)), 2)
    names = [NONE, *(f"window {window}" for window in WINDOWS), NO_SINK, ASKED]
    rows = [work.keep(str(prompt.id), _by_run, work.model, prompt) for prompt in prompts]
    values = np.asarray(rows, np.float64)  # [prompt, run, recall or loss]
    needles = [needle_of(prompt) for prompt in prompts]
    recall, loss = ({name: values[:, at, kind] for at, name in enumerate(names)} for kind in (0, 1))
    first = f"window {FIRST}"
    base, cut, asked = recall[NONE].mean(), recall[first].mean(), recall[ASKED].mean()
    if not base:
        return not_asked("the model recalls nothing with everything in sight, so that nothing can be lost")
    more = interval(recall[first] - recall[ASKED], needles)[0] > 0
    held = bool(cut >= KEPT * base and more)
    return Finding(
        holds=held,
        brief=f"recall {base:.2f} uncut; context in windows of {FIRST} tokens {cut:.2f}; the question cut as well "
        f"{asked:.2f}",
        rows=(
            Row("recall of the answer, nothing cut", mean(recall[NONE], needles), "100 %"),
            *(
                Row(
                    f"recall, each context token sees {window} of them and position 0",
                    mean(recall[f"window {window}"], needles),
                    "97 to 100 % of the uncut" if window == FIRST else "–",
                    mean(recall[ASKED], needles) if window == FIRST else "–",
                )
                for window in WINDOWS
            ),
            Row(f"recall, window {FIRST}, position 0 out of sight too", mean(recall[NO_SINK], needles)),
        ),
        found=(
            f"With windows of {FIRST} tokens the context keeps {cut / base:.0%} of the recall: the attention that is "
            f"cut is {'redundant' if cut >= KEPT * base else 'needed'}. Cut for the question too, "
            f"recall is {asked:.2f}.",
            f"Loss of the answer's tokens: {mean(loss[first] - loss[NONE], needles)} nats more with windows of "
            f"{FIRST}; where position 0, a sink, is out of sight as well, {mean(loss[NO_SINK] - loss[NONE], needles)}.",
        ),
        tables=(_table(names, recall, loss, needles),),
    )


def _by_run(loaded: LoadedModel, prompt: Prompt) -> list[list[float]]:
    """Recall and loss of the answer: uncut, by window, without position 0, and with the question cut."""
    reading, wanted, end = Reading(loaded, prompt.tokens), str(prompt.answer), context_of(prompt)
    runs = [
        (),
        *((isolate((1, end), window),) for window in WINDOWS),
        (isolate((0, end), FIRST),),
        (isolate((1, 10**6), FIRST),),
    ]
    found = [reading.answer(wanted, edits, rows=1 if edits else None) for edits in runs]
    return [[one.recall, one.loss] for one in found]


def context_of(prompt: Prompt) -> int:
    """Where the context ends: behind the last line break before the line that asks."""
    return max(at for at, token in enumerate(prompt.str_tokens) if "\n" in token) + 1


def _table(
    names: Sequence[str], recall: dict[str, np.ndarray], loss: dict[str, np.ndarray], needles: Sequence[str]
) -> Table:
    return Table(
        f"{len(needles)} prompts of {LENGTH} tokens, one needle each: mean [95 % interval over needles]",
        ("context tokens", "recall", "loss of the answer, nats per token"),
        tuple((name, str(mean(recall[name], needles)), str(mean(loss[name], needles))) for name in names),
    )


CLAIM = Claim(
    claimed="context tokens need not see one another: encoded in blocks, with the first block in sight of all, and "
    "read by the question in full, a context gives 97 to 100 % of the accuracy (blocks of thousands of tokens, models "
    "of 8 billion weights and more).",
    data=f"needles 5 to {4 + NEEDLES} of `datasets/needles.jsonl` at {LENGTH} tokens, all of the held-out part; "
    "nothing is chosen or tuned.",
    measure=measure,
    how=(
        "`isolate`: a token of the context sees of the context only itself and those right before it, a sliding window "
        "where the paper has blocks; in all heads and layers. Position 0 is outside the context, in every token's "
        "sight, unless it is said to be cut too.",
        f"The question, behind the context, sees all of it. The control cuts the question's and the answer's rows to "
        f"{FIRST} tokens as well: as short a window, where it should matter.",
        f"The claim holds where windows of {FIRST} tokens keep {KEPT:g} of the uncut recall, and more than the control "
        "(interval of the difference over needles). The other windows stand beside it.",
    ),
    settings={"needles": NEEDLES, "length": LENGTH, "windows": WINDOWS},
)
