"""What a long context is worth lies on the tokens that it has told before (or not)."""

from collections.abc import Mapping

import numpy as np

from probe.experiments.base import Ask
from probe.experiments.context_gain import ContextGain
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import NONE, Estimate, Finding, Row, Table
from probe.replay.intervals import mean, spread, statistic
from probe.replay.passages import DATA, passages
from probe.replay.work import Work

PASSAGES, LONG, SHORT, LAST, SEEDS = 16, 512, 64, 64, 5
MOST = 0.5  # share of the gain
KINDS = {
    "far": "completes a bigram of the long context alone",
    "near": "completes a bigram of the short context",
    "seen": "stands in the long context, after another token",
    "new": "does not stand in the long context",
}


def measure(work: Work) -> Finding:
    """Gain per token and kind of token, by passage, and its share on recalled tokens."""
    width = LONG + LAST + 1
    rows = [
        work.keep(str(one.id), _of_passage, work.model, one)
        for one in work.few(passages(work.model, PASSAGES, width), 4)
    ]
    gain = np.asarray([row["gain"] for row in rows], np.float64)
    kind = np.asarray([row["kind"] for row in rows])
    both = np.stack([gain, kind == "far"], axis=-1)  # [passage, token, (gain, recalled)]
    share, of_tokens = statistic(both, _share_of_gain), statistic(both, lambda one: float(one[..., 1].mean()))
    more = statistic(np.stack([gain, kind == "far", kind != "far"], axis=-1), _ahead, 3)
    control = [
        _share_of_gain(np.stack([gain, _drawn(kind == "far", work.seed + s)], axis=-1)) for s in range(SEEDS)
    ]
    each = {name: statistic(np.stack([gain, kind == name], axis=-1), _mean_gain, 3) for name in KINDS}
    ahead = statistic(np.stack([gain, kind == "far", kind == "seen"], axis=-1), _ahead, 3)
    held = share.value > MOST and all((one.low or 0.0) > 0 for one in (more, ahead))
    return Finding(
        holds=bool(held),
        brief=f"{share} of the gain from {LONG} instead of {SHORT} tokens lies on the {of_tokens} of tokens that are "
        "recalled from the long context alone",
        rows=(
            Row("gain from the long context, nats per token", mean(gain.mean(1), digits=3)),
            Row(
                "share of the gain on recalled tokens",
                share,
                "most",
                spread([[one] for one in control]),
            ),
            Row("share of tokens that are recalled", of_tokens, NONE, NONE),
            Row("gain on recalled tokens minus all others, nats", more),
            Row("gain on recalled tokens minus tokens seen after another one, nats", ahead),
        ),
        tables=(_table(each, kind),),
        found=(
            f"A recalled token gains {each['far']} nats, one that the long context holds after another token "
            f"{each['seen']}, one that it does not hold {each['new']}.",
            f"The claim {'holds' if held else 'does not hold'} here.",
        ),
    )


def _of_passage(loaded: LoadedModel, passage: Prompt) -> Mapping[str, list[float] | list[str]]:
    """Gain and kind of each of a passage's last tokens."""
    spec = ContextGain(long=LONG, short=SHORT, last=LAST, windows=1)
    (answer,) = spec.run(Ask(loaded, (passage,)))
    gain = answer.extra["gain"]
    start = int(passage.bos)
    window = passage.tokens[start : start + LONG + LAST]
    seen = [token in window[: LONG + n] for n, token in enumerate(window[LONG:])]
    slices = gain.coords["slice"].values[0]
    kind = [
        str(one) if one != "other" else ("seen" if known else "new")
        for one, known in zip(slices, seen, strict=True)
    ]
    return {"gain": gain.values[0].tolist(), "kind": kind}


def _share_of_gain(both: np.ndarray) -> float:
    """Σ of gain on flagged tokens over Σ of gain."""
    return float((both[..., 0] * both[..., 1]).sum() / both[..., 0].sum())


def _mean_gain(both: np.ndarray) -> float:
    count = both[..., 1].sum()
    return float((both[..., 0] * both[..., 1]).sum() / count) if count else float("nan")


def _ahead(three: np.ndarray) -> float:
    return _mean_gain(three[..., [0, 1]]) - _mean_gain(three[..., [0, 2]])


def _drawn(flags: np.ndarray, seed: int) -> np.ndarray:
    """As many other flags in every passage, drawn at random."""
    random = np.random.default_rng(seed)
    return np.stack([random.permutation(row) for row in flags])


def _table(each: Mapping[str, Estimate], kind: np.ndarray) -> Table:
    return Table(
        "Gain by kind of token, nats per token: mean [95 % interval over passages]",
        ("a token that", "tokens", "share", "gain"),
        tuple(
            (said, str(int((kind == name).sum())), f"{(kind == name).mean():.2f}", str(each[name]))
            for name, said in KINDS.items()
        ),
    )


CLAIM = Claim(
    claimed="most of what a model gains from attention over a long context is associative recall: tokens that "
    "complete a bigram which the context held before (82 % of the perplexity gap to gated convolutions).",
    data=f"{PASSAGES} passages of {LONG + LAST + 1} tokens, {DATA}.",
    measure=measure,
    how=(
        f"`context_gain`: the loss of the last {LAST} tokens of a passage after {SHORT} tokens, less that after "
        f"{LONG}. The paper compares models; here it is one model with less of its context.",
        "A token is recalled where it completes a bigram that stands in the long context and not in the short one. "
        "No bigram is left out for being frequent in training, as the paper does.",
        f"The control flags as many tokens of each passage at random, with {SEEDS} seeds. Tokens that the long "
        "context holds after another token are as familiar as recalled ones, and not told by their bigram.",
        f"The claim holds where recalled tokens have more than {MOST:g} of the gain, and more gain each than all "
        "others and than tokens that were seen after another one (intervals over passages).",
    ),
    settings={"passages": PASSAGES, "long": LONG, "short": SHORT, "last": LAST},
)
