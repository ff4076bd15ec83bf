"""Every head of SmolLM2 zeroed, one after another ÷ as many native forwards over the same prompt."""

import statistics
import time
from dataclasses import dataclass, field

import torch
from subject import SMALL, load

import probe
from probe.analysis.sweeping.cases import Case
from probe.analysis.sweeping.tasks import make_task
from probe.models import LoadedModel

TAIL = 32  # rows whose logits are needed, where only what a model would generate is edited
EVERY = 18  # heads between two native forwards
LOSS = f"loss:tokens=257,tail={TAIL}"  # 256 tokens predict the next


@dataclass(frozen=True)
class Way:
    """One sweep: its task, what is asked besides, and the budget."""

    what: str
    task: str
    budget: float
    asked: dict[str, str] = field(default_factory=dict)


WAYS = (
    Way("every query edited, task needle", "needle:needles=1", 0.60),
    Way("every query edited, task loss (every row's logits)", LOSS, 0.60),
    Way("phase=decode, task loss", LOSS, 1 / 3, {"phase": "decode"}),
    Way("queries=last, task loss", LOSS, 1 / 3, {"queries": "last"}),
)


def measure(rounds: int) -> dict[str, object]:
    """Whole sweeps, trials and base included; native forwards are taken all along, so that load hits both."""
    del rounds  # one sweep holds as many forwards as the rounds of other rows
    loaded = load(SMALL)
    lines = []
    for way in WAYS:
        (case,) = make_task(way.task).cases(loaded, None, 0, bool(way.asked))
        _native(loaded, case)
        beside = _Beside(loaded, case)
        start = _now()
        probe.sweep(loaded, "zero", "heads", way.task, progress=beside, **way.asked)
        cpu, wall = (after - before for after, before in zip(_now(), start, strict=True))
        line = _ratio(beside, cpu - sum(beside.cpu), wall - sum(beside.wall))
        what = f"{way.what}: {beside.heads} heads ÷ {beside.heads} native forwards"
        lines.append(
            {"what": what, "n": len(case.tokens), "budget": round(way.budget, 2), "better": "low", **line}
        )
    notes = (
        "native: one sdpa forward over the same tokens, and the loss of the rows that the sweep scores, one after "
        f"every {EVERY} heads; the ratio is to their median, its range to the slowest and the fastest",
        "the blocks behind the edited layers are 0.504 of a forward's blocks on average; where every row's logits are "
        "needed, as in a loss, the head comes on top: at 256 tokens it is 0.20 of a forward's arithmetic, so that no "
        "sweep can be below 0.605 there",
    )
    title = "SmolLM2-135M, a sweep over all heads ÷ as many native forwards"
    return {"title": title, "lines": lines, "notes": notes}


@dataclass
class _Beside:
    """Progress of a sweep, at which a native forward is timed now and then."""

    loaded: LoadedModel
    case: Case
    heads: int = 0
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def __call__(self, done: int, total: int, what: str) -> None:
        """After every few heads, the same work natively."""
        self.heads = total
        if done % EVERY == 0:
            before = _now()
            _native(self.loaded, self.case)
            after = _now()
            self.cpu.append(after[0] - before[0])
            self.wall.append(after[1] - before[1])


def _now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def _native(loaded: LoadedModel, case: Case) -> float:
    wanted = torch.tensor(case.wanted)
    with torch.inference_mode():
        logits = loaded.model(
            torch.tensor([case.tokens]), use_cache=False, logits_to_keep=len(wanted)
        ).logits[0]
        return float(torch.nn.functional.cross_entropy(logits, wanted))


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
