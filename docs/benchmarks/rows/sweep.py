"""Every head of SmolLM2 zeroed, one after another ÷ as many native forwards over the same prompt."""

import statistics
import time
from dataclasses import dataclass, field

import torch
from subject import SMALL, load

import probe
from probe.models import LoadedModel
from probe.prompts import Prompt, default_text

LENGTH = 257  # tokens of text, of which 256 predict the next
TAIL = 32  # rows whose logits are needed, where only what a model would generate is edited
EVERY = 18  # heads between two native forwards
WAYS: dict[str, tuple[dict[str, str], float]] = {
    "every query edited": ({}, 0.60),
    "phase=decode": ({"phase": "decode"}, 1 / 3),
    "queries=last": ({"queries": "last"}, 1 / 3),
}


def measure(rounds: int) -> dict[str, object]:
    """Whole sweeps, trials and base included; native forwards are taken all along, so that load hits both."""
    del rounds  # one sweep holds as many forwards as the rounds of other rows
    loaded = load(SMALL)
    prompt = Prompt.of(default_text(), loaded.tokenizer, id="text").truncate(LENGTH)
    lines = []
    for way, (asked, budget) in WAYS.items():
        rows = TAIL if asked else LENGTH - 1
        _native(loaded, prompt, rows)
        beside = _Beside(loaded, prompt, rows)
        start = _now()
        probe.sweep(loaded, "zero", "heads", f"loss:tail={TAIL}", prompt, progress=beside, **asked)
        cpu, wall = (after - before for after, before in zip(_now(), start, strict=True))
        line = _ratio(beside, cpu - sum(beside.cpu), wall - sum(beside.wall))
        what = f"{way}: {beside.heads} heads ÷ {beside.heads} native forwards"
        lines.append({"what": what, "n": LENGTH - 1, "budget": round(budget, 2), "better": "low", **line})
    notes = (
        f"native: one sdpa forward and the loss of the rows that the sweep scores ({LENGTH - 1}, else {TAIL}), one "
        f"after every {EVERY} heads; the ratio is to their median, its range to the slowest and the fastest",
    )
    title = "SmolLM2-135M, a sweep over all heads ÷ as many native forwards"
    return {"title": title, "lines": lines, "notes": notes}


@dataclass
class _Beside:
    """Progress of a sweep, at which a native forward is timed now and then."""

    loaded: LoadedModel
    prompt: Prompt
    rows: int
    heads: int = 0
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def __call__(self, done: int, total: int, what: str) -> None:
        """After every few heads, the same work natively."""
        self.heads = total
        if done % EVERY == 0:
            before = _now()
            _native(self.loaded, self.prompt, self.rows)
            after = _now()
            self.cpu.append(after[0] - before[0])
            self.wall.append(after[1] - before[1])


def _now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def _native(loaded: LoadedModel, prompt: Prompt, rows: int) -> float:
    ids = torch.tensor([prompt.tokens])
    with torch.inference_mode():
        logits = loaded.model(ids[:, :-1], use_cache=False, logits_to_keep=rows).logits[0]
        return float(torch.nn.functional.cross_entropy(logits, ids[0, -rows:]))


def _ratio(beside: _Beside, cpu: float, wall: float) -> dict[str, float | int]:
    return {
        "cpu_ratio": cpu / (beside.heads * statistics.median(beside.cpu)),
        "wall_ratio": wall / (beside.heads * statistics.median(beside.wall)),
        "lowest": cpu / (beside.heads * max(beside.cpu)),
        "highest": cpu / (beside.heads * min(beside.cpu)),
        "over_s": wall,
        "under_s": statistics.median(beside.wall),
        "rounds": 1,
    }
