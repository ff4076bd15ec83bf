"""Eager attention with returned maps and the same metrics computed from them ÷ ours."""

import maps
from subject import SMALL, forward, load, tokens
from timing import compare, interleave

import probe
from probe.terms import DEFAULT_METRICS

BUDGET = {1024: 3.5, 2048: 5.0}


def measure(rounds: int) -> dict[str, object]:
    """Two copies of the model, one eager and one observed; the answers must agree."""
    ours, eager = load(SMALL), load(SMALL, "eager")
    lines, notes = [], []
    for length, budget in BUDGET.items():
        ids = tokens(ours, length)
        answers: dict[str, object] = {}

        def from_maps(ids: object = ids, answers: dict[str, object] = answers) -> None:
            seen = forward(eager, ids, output_attentions=True).attentions
            answers["maps"] = [maps.default_metrics(pattern) for pattern in seen]

        def observed(ids: object = ids, answers: dict[str, object] = answers) -> None:
            with probe.observe(ours, metrics=list(DEFAULT_METRICS), mode="fused") as run:
                forward(ours, ids)
            answers["report"] = run.report()

        def native(ids: object = ids) -> None:
            forward(ours, ids)

        timed = interleave({"eager": from_maps, "ours": observed, "native": native}, rounds)
        line = compare(timed, "eager", "ours")
        lines.append({"what": "eager maps ÷ fused", "n": length, "budget": budget, "better": "high", **line})
        notes.append(f"n = {length}: {maps.agreement(answers['maps'], answers['report'])}")
        most = compare(timed, "eager", "native")["cpu_ratio"]
        notes.append(
            f"n = {length}: eager maps ÷ native sdpa (statistics at no cost would reach it): {most:.2f}"
        )
    title = "Eager `output_attentions` and the same metrics from its maps ÷ ours (SmolLM2-135M)"
    return {"title": title, "lines": lines, "notes": notes}
