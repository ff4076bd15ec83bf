"""Sinks, drained values and residual peaks come together at the first token, and where heads rest differs by domain."""

from typing import Any

import numpy as np
from scipy.stats import spearmanr

from probe.experiments.folding import fold
from probe.metrics.answering import answers
from probe.metrics.making import make
from probe.models import LoadedModel
from probe.prompts import Prompt
from probe.prompts.domains import domain_texts
from probe.replay.claim import Claim
from probe.replay.finding import NONE, Finding, Row, Table
from probe.replay.intervals import interval, mean
from probe.replay.work import Work

WIDTH, SINK, SHUFFLES = 64, 0.3, 200
PARTS = ("mass", "drain", "peak")


def measure(work: Work) -> Finding:
    """Mass on the first token, its value norm and its residual norm, beside those of a random token of each text."""
    prompts = texts(work)
    found = [work.keep(str(one.id), _by_text, work.model, one) for one in prompts]
    first, other = ([_arrays(one[at]) for one in found] for at in (0, 1))
    share, other_share = (np.array([(one["mass"] > SINK).mean() for one in each]) for each in (first, other))
    drain, other_drain = (
        np.array([np.nanmean(each["drain"][one["mass"] > SINK]) for each, one in zip(of, first, strict=True)])
        for of in (first, other)
    )
    rest = np.array([np.nanmean(one["drain"][one["mass"] <= SINK]) for one in first])
    peak, other_peak = (np.array([np.nanmax(one["peak"]) for one in each]) for each in (first, other))
    joint = np.array([_rho(one["mass"], one["drain"]) for one in first])
    layers = np.array([_rho(one["mass"].mean(1), one["peak"]) for one in first])
    checks = {
        "sink": share - other_share, "drain": other_drain - drain, "drain in sink heads": rest - drain,
        "peak": peak - other_peak, "correlation": -joint,
    }  # fmt: skip
    failed = [name for name, gap in checks.items() if not interval(gap)[0] > 0]
    domains, shuffled, table = _by_domain(prompts, [one["mass"] for one in first], work.seed)
    differs = domains > np.quantile(shuffled, 0.95)
    return Finding(
        holds=not failed,
        brief=f"sink heads {mean(share)} (another token {mean(other_share)}); in them ‖v_0‖ is {mean(drain)} of the "
        f"others' ({mean(rest)} in other heads); residual peak {mean(peak, digits=1)} (another token "
        f"{mean(other_peak, digits=1)}); over domains a head's sink mass ranges by {domains:.3f}, shuffled "
        f"{shuffled.mean():.3f}",
        rows=(
            Row(f"share of heads with over {SINK} of their mass on the token", mean(share), NONE, mean(other_share)),
            Row("its value norm over the others', in sink heads", mean(drain), NONE, mean(other_drain)),
            Row("the same, in other heads", mean(rest)),
            Row("its residual norm over the others', largest layer", mean(peak, digits=1), NONE, mean(other_peak)),
            Row("rank correlation over heads: sink mass and value norm", mean(joint)),
            Row("rank correlation over layers: mean sink mass and residual peak", mean(layers)),
        ),
        found=(
            f"Domains: the sink mass of a head ranges by {domains:.3f} over prose, code, JSON and lists, mean over "
            "heads; "
            f"with texts dealt to domains at random by {shuffled.mean():.3f}, 95 % of the deals below "
            f"{np.quantile(shuffled, 0.95):.3f}: it {'differs' if differs else 'does not differ'} by domain.",
        ),
        but=_but(failed, differs=differs),
        tables=(table,),
    )  # fmt: skip


def texts(work: Work) -> list[Prompt]:
    """Eight texts of each domain, their first `WIDTH` tokens; span ``other`` is one random token, not the first."""
    draw, tokenizer = np.random.default_rng(work.seed), work.model.tokenizer
    made = []
    for domain, some in domain_texts().items():
        for number, text in enumerate(work.few(some)):
            ids = Prompt.of(text, tokenizer).truncate(WIDTH).tokens
            at = int(draw.integers(1, len(ids) - 8))
            spans = {"other": (at, at + 1)}
            made.append(Prompt.of_tokens(ids, tokenizer, spans=spans, id=f"{domain}:{number}"))
    return made


def _by_text(loaded: LoadedModel, prompt: Prompt) -> list[dict[str, Any]]:
    """For the first token and the other one: mass and value norm [layer, head], residual norm [layer]."""
    at = int(np.flatnonzero(prompt.spans["other"])[0])
    specs = [(0, ""), (at, ":span=other")]
    metrics = [
        tuple(make(spec) for spec in (f"key_mass:key={key}", f"value_drain{span}", f"residual_peak{span}"))
        for key, span in specs
    ]  # fmt: skip
    fold(loaded, [prompt], [one for three in metrics for one in three])
    return [
        {
            name: answers(one)[0].head_map.values.round(5).tolist()
            for name, one in zip(PARTS, three, strict=True)
        }
        for three in metrics
    ]


def _arrays(found: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(values, np.float64) for name, values in found.items()}


def _rho(one: np.ndarray, other: np.ndarray) -> float:
    return float(spearmanr(one.ravel(), other.ravel(), nan_policy="omit").statistic)


def _by_domain(prompts: list[Prompt], mass: list[np.ndarray], seed: int) -> tuple[float, np.ndarray, Table]:
    """Range over domains of a head's mean sink mass, mean over heads: as the texts are, and dealt at random."""
    label, values = np.array([str(one.id).split(":")[0] for one in prompts]), np.array(mass)
    names = list(dict.fromkeys(label))

    def spread(of: np.ndarray) -> float:
        return float(np.ptp([values[of == name].mean(0) for name in names], axis=0).mean())

    draw = np.random.default_rng(seed)
    shuffled = np.array([spread(draw.permutation(label)) for _ in range(SHUFFLES)])
    rows = [(str(name), str(mean(values[label == name].mean((1, 2)), digits=3))) for name in names]
    title = "Mass on the first token, mean over heads, by domain: mean [95 % interval over texts]"
    return spread(label), shuffled, Table(title, ("domain", "mass"), tuple(rows))


def _but(failed: list[str], *, differs: bool) -> str:
    parts = [f"not shown: {', '.join(failed)}"] if failed else []
    return "; ".join(["", *parts, "it differs by domain" if differs else "no difference by domain"])


CLAIM = Claim(
    claimed="attention sinks, drained value states and residual-state peaks occur together at the first token (or the "
    "first delimiter); whether a head rests there depends on the domain of the text (Llama-2-7B L16.H25: dormant on "
    "Wikipedia, active on code).",
    data="eight texts each of four domains: the shipped story, and code, JSON and lists of `datasets/domains.jsonl`; "
    f"the first {WIDTH} tokens, as in the paper. Nothing is chosen or tuned on them.",
    measure=measure,
    how=(
        "`key_mass`, `value_drain` and `residual_peak` at the first token; the control is one random other token of "
        "each "
        "text, the same heads and layers.",
        f"A sink head of a text has more than {SINK} of its mass on its first token (mean over the rows that see it). "
        "The "
        "mass of a random key falls with the rows that see many keys, that of a uniform row would be 1 / (i + 1): the "
        "control holds the same dilution.",
        "The claim holds where each of these has an interval over texts beyond 0: more sink heads than for the control "
        "token, shorter values in them than the control token's and than in heads that are no sinks, a higher residual "
        "peak, and a negative rank correlation of mass and value norm over heads. Domains are told beside the verdict.",
    ),
    settings={"width": WIDTH, "sink": SINK},
)
