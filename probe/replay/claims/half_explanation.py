"""Attention is half an explanation: it agrees with what the answer depends on, in part."""

import numpy as np

from probe.experiments.attention_saliency import correlations, last_row, saliency_of
from probe.experiments.explained import explain
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.replay.claim import Claim
from probe.replay.finding import Finding, Row, Table
from probe.replay.intervals import interval, mean
from probe.replay.passages import DATA, passages
from probe.replay.work import Work

COUNT, WIDTH = 16, 128
LOW, HIGH = 0.2, 0.8  # a correlation between them is neither none nor whole
NAMES = ("gradient", "input × gradient")


def measure(work: Work) -> Finding:
    """Correlation over tokens of attention at the last row with the saliency of the next token, per passage."""
    prompts = work.few(passages(work.model, COUNT, WIDTH), 3)
    read = [work.keep(one.id, _read, work.model, one) for one in prompts]
    attention = np.asarray([one["attention"] for one in read])  # [passage, token], mean over heads and layers
    saliency = {name: np.asarray([one[name] for one in read]) for name in NAMES}
    heads = np.asarray(
        [one["heads"] for one in read], np.float64
    )  # [passage, head]: Spearman, first token left out
    ranked = _each(attention, saliency[NAMES[0]], ranked=True)
    without = _each(attention[:, 1:], saliency[NAMES[0]][:, 1:], ranked=True)
    other = _each(attention[:, 1:], np.roll(saliency[NAMES[0]], 1, 0)[:, 1:], ranked=True)
    place = np.broadcast_to(np.arange(1.0, WIDTH), (len(attention), WIDTH - 1))
    near = _each(place, saliency[NAMES[0]][:, 1:], ranked=True)
    low, high = interval(without)
    half, above = bool(low > LOW and high < HIGH), bool(interval(without - other)[0] > 0)
    per_head = np.nanmean(heads, 0)
    return Finding(
        holds=half and above,
        brief=f"Spearman {mean(without)} without the first token ({mean(ranked)} with it); another passage's saliency "
        f"{other.mean():.2f}, nearness alone {near.mean():.2f}; best head {np.nanmax(per_head):.2f}",
        rows=(
            Row("Spearman's correlation, attention averaged over heads and layers", mean(ranked), "–"),
            Row("the same without the first token", mean(without), "about half", mean(other)),
            Row(
                "Pearson's correlation, without the first token",
                mean(_each(attention[:, 1:], saliency[NAMES[0]][:, 1:], ranked=False)),
                "0.58 at best (cross-attention of speech models)",
            ),
            Row(
                "Spearman's with input × gradient, without the first token",
                mean(_each(attention[:, 1:], saliency[NAMES[1]][:, 1:], ranked=True)),
            ),
            Row("nearness to the last token alone, Spearman's", mean(near)),
        ),
        found=(
            f"Attention explains {'a part of' if half else 'not about half of'} the order of tokens by saliency, "
            f"{'more' if above else 'no more'} than the saliency of another passage at the same positions does; "
            f"nearness alone reaches {near.mean():.2f}, attention beyond it {mean(without - near)}.",
        ),
        tables=(_table(per_head),),
    )


def _read(loaded: LoadedModel, prompt: Prompt) -> dict[str, list[float]]:
    explained = explain(loaded, prompt, "logit")
    first, second = (saliency_of(explained, kind) for kind in ("gradient", "input_x_gradient"))
    rows = [last_row(layer)[0] for layer in explained.layers]
    heads = [correlations(row[:, 1:], first[1:], ranked=True) for row in rows]
    return {
        "attention": np.mean([row.mean(0) for row in rows], axis=0).tolist(),
        NAMES[0]: first.tolist(),
        NAMES[1]: second.tolist(),
        "heads": np.concatenate(heads).tolist(),
    }


def _each(attention: np.ndarray, saliency: np.ndarray, *, ranked: bool) -> np.ndarray:
    """The correlation of each passage."""
    return np.asarray(
        [correlations(a[None], s, ranked=ranked)[0] for a, s in zip(attention, saliency, strict=True)]
    )


def _table(per_head: np.ndarray) -> Table:
    known = per_head[np.isfinite(per_head)]
    marks = {"highest": 1.0, "95th percentile": 0.95, "median": 0.5, "5th percentile": 0.05, "lowest": 0.0}
    return Table(
        f"Spearman's correlation of single heads ({len(known)}), mean over passages, without the first token",
        ("head", "correlation"),
        tuple((name, f"{np.quantile(known, share):.2f}") for name, share in marks.items()),
    )


CLAIM = Claim(
    claimed="attention is half an explanation: averaged over heads and layers it correlates with saliency (Pearson's "
    "up to 0.58), and covers about half of what the input explains. (There: cross-attention of speech-to-text models "
    "and a perturbation's saliency; here: a language model's self-attention and gradients.)",
    data=f"{COUNT} passages of {WIDTH} tokens, {DATA}.",
    measure=measure,
    how=(
        "Saliency of a token: norm of the gradient of the most likely next token's logit by its input embedding "
        "(`attention_saliency`). Attention: the last row, averaged over heads and layers. The first token, a sink with "
        "large attention whatever it says, is left out unless said.",
        "Control: the saliency of another passage at the same positions, which shares only what position makes of "
        "both. Nearness alone ranks tokens by position.",
        f"The claim holds where Spearman's correlation lies between {LOW:g} and {HIGH:g} with its whole interval over "
        "passages, and above the control (interval of the difference). Nothing was measured before these were set.",
    ),
    settings={"count": COUNT, "width": WIDTH},
)
