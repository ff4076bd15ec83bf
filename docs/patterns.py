"""What every sparse pattern costs the heads of SmolLM2-135M, at matched densities, and whom it costs most, as a page.

    python docs/patterns.py                                the page: 2048 and 8192 tokens
    python docs/patterns.py --tokens 512 --only sliding,pooled_topk --out DIR   a trial

A run that is stopped goes on where it was (a length and a half of the patterns at a time). Needs `smollm2-135m`,
fetched, and docs/claims/heads/smollm2-135m.jsonl, the retrieval score of every head.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "benchmarks")]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from machine import describe  # noqa: E402

import probe  # noqa: E402
from probe.experiments.retrieval_answer import RETRIEVAL_HEAD  # noqa: E402
from probe.prompts import Prompt  # noqa: E402
from probe.prompts.corpus import held_out_text  # noqa: E402
from probe.replay.files import replaced  # noqa: E402
from probe.replay.kept import Kept  # noqa: E402
from probe.report import Report  # noqa: E402
from probe.report.pattern_costs import LOST, numbers_of, pattern_specs  # noqa: E402
from probe.report.ranking import cells, head_name  # noqa: E402

SCORES = HERE / "claims" / "heads" / "smollm2-135m.jsonl"
LENGTHS = (2048, 8192)
DENSITIES = (0.25, 0.10)
DRAWS = 1000  # of as many other heads of the same layers
WORDY = 64  # letters of a spec that the page shows


def budgets(n: int, density: float, retrieval: Sequence[str]) -> dict[str, list[str]]:
    """Specs by half (static, learned) whose density is near the asked one in a text of `n` tokens.

    Windows follow from the density by counting; blocks scale with the text, so that both lengths are cut alike. What
    adapts to the text (tau, theta) was set at 2048 tokens; its density is whatever comes out.
    """
    window = round(n * (1 - (1 - density) ** 0.5))  # w·n - w²/2 pairs of n²/2
    high = density > 0.15
    block, segments = n // (64 if high else 128), 12 if high else 29
    edges = "+".join(
        f"{n * i // segments}..{n * (i + 1) // segments}>0..{n // segments}" for i in range(segments)
    )
    rows, local = n // 64, round(n * (0.07 if high else 0.02))
    static = [
        f"sliding:window={window}",
        f"sink_recent:sinks=4,recent={window - 4}",
        f"neighborhood:shape={rows}+64,window={round(rows * density**0.5) | 1}+{round(64 * density**0.5) | 1}",
        f"power_of_two:block={block},local={4 if high else 2}",
        f"segment_graph:edges={edges}",
        f"per_head:default=sink_recent:sinks=4/recent={local},{'+'.join(retrieval)}=full",
        f"random_blocks:density={density},block={n // 64}",
    ]

    def cut(at_2048: int) -> int:
        return max(1, round(at_2048 * n / 2048))

    learned = [
        f"vertical_slash:vertical={cut(216 if high else 72)},slash={cut(180 if high else 36)},"
        f"last=64,local={cut(100 if high else 32)},block={cut(64)}",
        f"pooled_topk:block={cut(32)},k={9 if high else 4}",
        f"antidiagonal:block={cut(64)},stride={cut(16)},tau={0.8 if high else 0.35}",
        f"anchor_stripe:theta={4 if high else 3},block={cut(32)},step={14 if high else 4}",
        f"permuted_block:tau={0.92 if high else 0.5},block={cut(32)},segment={cut(128)}",
        f"persistent_topk:k={cut(140 if high else 24)},block={cut(64)}",
        f"oracle_topk:k={9 if high else 4},block={cut(32)}",
    ]
    return {"static": static, "learned": learned}


def measure(loaded: Any, n: int, specs: Sequence[str], scores: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row for each pattern, and one for the control of each that looks at scores."""
    text = held_out_text()[: n * 12]
    prompt = Prompt.of(text, loaded.tokenizer, id=f"held-out text, {n} tokens").truncate(n)
    report = probe.patterns(loaded, prompt, list(specs), seed=0)
    rows = []
    for spec in pattern_specs(report):
        rows.append(_row(report, spec, scores, control=False))
        if numbers_of(report, spec, control=True):
            rows.append(_row(report, spec, scores, control=True))
    return rows


def _row(report: Report, spec: str, scores: Mapping[str, float], *, control: bool) -> dict[str, Any]:
    numbers = numbers_of(report, spec, control=control)
    by_name = {
        name: {head_name("decoder", layer, head): value for layer, head, value in cells(one.head_map)}
        for name, one in numbers.items()
    }
    mass, error = by_name["mass_kept"], by_name["output_error"]
    worst, most = min(mass, key=lambda name: mass[name]), max(error, key=lambda name: error[name])
    return {
        "spec": spec, "control": control, "density": float(np.mean(list(by_name["density"].values()))),
        "mass": float(np.mean(list(mass.values()))), "worst": [worst, mass[worst]],
        "losing": sum(value < LOST for value in mass.values()), "error": float(np.mean(list(error.values()))),
        "most": [most, error[most]], **compared({name: 1 - value for name, value in mass.items()}, scores),
    }  # fmt: skip


def compared(lost: Mapping[str, float], scores: Mapping[str, float]) -> dict[str, Any]:
    """Mass lost beside retrieval scores: rank correlation over all heads, and retrieval heads beside others.

    The control draws, in each layer, as many heads that are no retrieval heads: its mean and the middle 95 % of its
    draws. `spearman` is None where all heads lose alike.
    """
    table = pd.DataFrame({"lost": lost, "score": scores}).dropna()
    ranks = table.rank()
    varies = table["lost"].nunique() > 1
    chosen = table.index[table["score"] >= RETRIEVAL_HEAD]
    layer = table.index.str.partition(".").get_level_values(0)
    draw, others = np.random.default_rng(0), []
    pools = []
    for _, here in table.groupby(layer):
        is_one = here["score"] >= RETRIEVAL_HEAD
        pools.append((here["lost"][~is_one].to_numpy(), min(int(is_one.sum()), int((~is_one).sum()))))
    for _ in range(DRAWS):
        drawn = [draw.choice(rest, count, replace=False) for rest, count in pools if count]
        others.append(float(np.concatenate(drawn).mean()))
    return {
        "spearman": float(ranks["lost"].corr(ranks["score"])) if varies else None,
        "retrieval": float(table.loc[chosen, "lost"].mean()),
        "others": [float(np.mean(others)), *np.percentile(others, [2.5, 97.5]).tolist()],
        "above": float(np.mean([one >= table.loc[chosen, "lost"].mean() for one in others])),
    }


def page(found: Mapping[str, list[dict[str, Any]]], scores: Mapping[str, float], command: str) -> str:
    """The page: per length and budget what patterns cost, then whom they cost."""
    machine = describe()
    heads = sum(score >= RETRIEVAL_HEAD for score in scores.values())
    lines = [(HERE / "patterns.head.md").read_text(encoding="utf-8").rstrip(), ""]
    for title, rows in found.items():
        lines += [f"## {title}", "", *_costs(rows, len(scores)), ""]
        lines += [
            f"Mass lost by the {heads} retrieval heads (score at least {RETRIEVAL_HEAD:g}), by as many other heads of "
            f"the same layers ({DRAWS} draws, middle 95 %), and its rank correlation with the score over all heads:",
            "", *_whom(rows), "",
        ]  # fmt: skip
    versions = f"torch {machine['torch']}, transformers {machine['transformers']}"
    lines += [
        f"Written by `{command}` on {machine['day']} ({machine['processor']}, {versions}, float32).",
        "",
    ]
    return "\n".join(lines)


def _costs(rows: Sequence[dict[str, Any]], heads: int) -> list[str]:
    columns = [
        "pattern",
        "density",
        "mass kept",
        "worst head",
        f"heads < {LOST:g} of {heads}",
        "error",
        "worst error",
    ]
    made = []
    for row in rows:
        worst, most = row["worst"], row["most"]
        made.append(
            [
                _name(row), f"{row['density']:.3f}", f"{row['mass']:.3f}", f"{worst[0]} {worst[1]:.3f}", row["losing"],
                f"{row['error']:.3f}", f"{most[0]} {most[1]:.2f}",
            ]
        )  # fmt: skip
    return _table(columns, made)


def _whom(rows: Sequence[dict[str, Any]]) -> list[str]:
    made = []
    for row in rows:
        mean, low, high = row["others"]
        rank = "–" if row["spearman"] is None else f"{row['spearman']:+.2f}"
        beside = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
        made.append([_name(row), f"{row['retrieval']:.3f}", beside, f"{100 * row['above']:.1f} %", rank])
    columns = ["pattern", "retrieval heads", "other heads", "draws that lose as much", "Spearman"]
    return _table(columns, made)


def _name(row: Mapping[str, Any]) -> str:
    spec = row["spec"]
    shown = spec if len(spec) <= WORDY else f"{spec[: WORDY - 1]}…"
    return f"random blocks, as dense as `{shown.partition(':')[0]}`" if row["control"] else f"`{shown}`"


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    made = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return made + [f"| {' | '.join(map(str, row))} |" for row in rows]


def main() -> int:
    """Measure what is missing, and write the page."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--tokens", type=int, action="append", help="only this length; may be repeated")
    parser.add_argument("--only", help="only these patterns, by name, joined by commas")
    parser.add_argument("--out", type=Path, default=HERE, help="where the page goes")
    asked = parser.parse_args()
    if (asked.only or asked.tokens) and asked.out == HERE:
        parser.error("--only or --tokens was asked without --out; a part must not stand for the whole page")
    kept = [json.loads(line) for line in SCORES.read_text(encoding="utf-8").splitlines()[1:]]
    scores: dict[str, float] = dict(kept)["retrieval seed 0"]
    retrieval = [name for name, score in scores.items() if score >= RETRIEVAL_HEAD]
    lengths, only = asked.tokens or LENGTHS, set(asked.only.split(",")) if asked.only else None
    plan = {
        (n, density): budgets(n, density, retrieval)
        for n in lengths
        for density in (DENSITIES if n <= LENGTHS[0] else DENSITIES[1:])
    }
    about = [list(map(str, plan)), [*plan.values()], asked.only, Path(__file__).read_text(encoding="utf-8")]
    finished = Kept(asked.out / "patterns.unfinished.jsonl", about)
    loaded = probe.load("smollm2-135m", dtype="float32")
    loaded.model.eval()
    found: dict[str, list[dict[str, Any]]] = {}
    for (n, density), halves in plan.items():
        rows = found.setdefault(f"{n} tokens, density near {density:g}", [])
        for half, specs in halves.items():
            chosen = [spec for spec in specs if only is None or spec.partition(":")[0] in only]
            if chosen:
                key = f"{n} tokens, {density:g}, {half}"
                rows += finished.of(key, lambda n=n, chosen=chosen: measure(loaded, n, chosen, scores))
    replaced(asked.out / "patterns.md", page(found, scores, "python docs/patterns.py"))
    finished.drop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
