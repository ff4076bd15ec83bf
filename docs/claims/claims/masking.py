"""Retrieval heads are causal: masking them loses the needle, masking as many others does not."""

from typing import Any

import numpy as np
from recall import LENGTHS, held_out, recalls, retrieval_heads, shown

import probe
from probe.interventions import uniform_cached, zero

TOP, SEEDS, NEEDLES = 10, 5, 6


def measure() -> dict[str, Any]:
    """Recall of held-out needles and loss on ordinary text, with the top heads and with controls masked."""
    loaded = probe.load("smollm2-135m", dtype="float32")
    loaded.model.eval()
    top = retrieval_heads(loaded, TOP)
    prompts = held_out(loaded, NEEDLES, seed=0)
    base = recalls(loaded, prompts, lambda _: [])
    rows = [["none", "–", shown(base), *_by_length(prompts, base)]]
    kinds = {"zero": zero(top), "uniform_cached, decode only (the paper's)": uniform_cached(top)}
    gaps: dict[str, tuple[float, float]] = {}
    for name, one in kinds.items():
        edited = recalls(loaded, prompts, lambda _, one=one: [one])
        rows.append([name, f"top {TOP}", shown(edited), *_by_length(prompts, edited)])
        controls = np.stack(
            [recalls(loaded, prompts, lambda _, one=one, s=s: [one.control(s)]) for s in range(SEEDS)]
        )
        means = controls.mean(1)
        spread = f"{means.mean():.2f} ({means.min():.2f} – {means.max():.2f})"
        rows.append(
            [
                name,
                f"{TOP} others of the same layers, {SEEDS} seeds",
                spread,
                *_by_length(prompts, controls.mean(0)),
            ]
        )
        gaps[name] = float(edited.mean()), float(means.min())
    losses, loss_found = _losses(loaded, top)
    held = all(low < least for low, least in gaps.values())
    worst = "; ".join(f"{name}: {low:.2f} against {least:.2f} or more" for name, (low, least) in gaps.items())
    return {
        "title": "Masking retrieval heads loses the needle",
        "claimed": "Wu et al. 2024 (arXiv:2404.15574): masking the heads with the highest retrieval "
        "score makes a model miss "
        "needles in a haystack; masking random heads does not.",
        "heads": top,
        "tables": [
            {
                "title": f"Recall of the answer (ROUGE-1, mean [95 % interval over {len(prompts)} "
                "prompts]; controls: mean over "
                "seeds, lowest – highest)",
                "columns": ["masking", "heads", "recall", *(f"{length} tokens" for length in LENGTHS)],
                "rows": rows,
            },
            losses,
        ],
        "found": [
            f"The claim {'holds' if held else 'does not hold'} for recall on SmolLM2-135M ({worst}, the "
            "lowest of the controls).",
            loss_found,
        ],
        "how": [
            f"- Heads: the top {TOP} of `probe analyze --metric retrieval` with its defaults (needles "
            f"1–4): {', '.join(top)}.",
            f"- Needles 5–{4 + NEEDLES} are held out: they, and the part of the haystack, were not used "
            "to find the heads.",
            "- `zero` sets the head's output to zero everywhere; the paper's masking makes its pattern "
            "uniform over all cached keys, in "
            "decode steps alone, of which the last prompt token is the first.",
            "- A control edits as many other heads of the same layers, drawn with the seed.",
        ],
    }


def _by_length(prompts: list[probe.Prompt], values: np.ndarray) -> list[str]:
    of = np.asarray([int(prompt.id.split(":n")[1].split(":")[0]) for prompt in prompts])
    return [f"{values[of == length].mean():.2f}" for length in LENGTHS]


def _losses(loaded: probe.LoadedModel, top: list[str]) -> tuple[dict[str, Any], str]:
    from probe.prompts.data import default_text

    words = default_text().split("\n\n")
    texts = ["\n\n".join(words[i::4]) for i in range(4)]
    found = probe.ablate(loaded, texts, [zero(top)], controls=SEEDS, seed=0, new_tokens=0)
    told = found.to_json()["runs"]
    rows = [
        [name, f"{told[name]['loss']:.3f}", f"{told[name]['perplexity']:.1f}"]
        for name in ("base", "edited", "control")
    ]
    table = {
        "title": "Loss on ordinary text (nats per token, four parts of a story; `zero`, controls: mean "
        f"over {SEEDS} seeds)",
        "columns": ["run", "loss", "perplexity"],
        "rows": rows,
    }
    rise, other = (
        told["edited"]["loss"] - told["base"]["loss"],
        told["control"]["loss"] - told["base"]["loss"],
    )
    return (
        table,
        f"Loss on ordinary text rises by {rise:.3f} nats with the top heads and by {other:.3f} with the "
        "controls.",
    )
