"""TransformerLens `run_with_cache`, pattern hooks only, and the same metrics ÷ ours."""

import maps
from subject import SMALL, forward, load, tokens
from timing import compare, interleave

import probe
from probe.terms import DEFAULT_METRICS

LENGTHS = (1024,)


def measure(rounds: int) -> dict[str, object]:
    """The bridge wraps its own copy of the same weights; the answers must agree."""
    from transformer_lens.model_bridge import TransformerBridge

    ours, theirs = load(SMALL), load(SMALL, "eager")
    bridge = TransformerBridge.boot_transformers(ours.name, hf_model=theirs.model, tokenizer=theirs.tokenizer)
    lines, notes = [], []
    for length in LENGTHS:
        ids = tokens(ours, length)
        answers: dict[str, object] = {}

        def cached(ids: object = ids, answers: dict[str, object] = answers) -> None:
            answers["maps"] = maps.from_bridge(bridge, ids)

        def observed(ids: object = ids, answers: dict[str, object] = answers) -> None:
            with probe.observe(ours, metrics=list(DEFAULT_METRICS), mode="fused") as run:
                forward(ours, ids)
            answers["report"] = run.report()

        timed = interleave({"lens": cached, "ours": observed}, rounds)
        line = compare(timed, "lens", "ours")
        lines.append(
            {"what": "run_with_cache ÷ fused", "n": length, "budget": None, "better": "high", **line}
        )
        notes.append(f"n = {length}: {maps.agreement(answers['maps'], answers['report'])}")
    title = "TransformerLens `run_with_cache` (patterns only) and the same metrics ÷ ours (SmolLM2-135M)"
    return {"title": title, "lines": lines, "notes": notes}
