"""Two things timed in turn, so that whatever else the machine does hits both."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Timed:
    """Seconds of each round of one side: CPU time of all threads, and wall-clock time."""

    cpu: list[float]
    wall: list[float]


def _once(run: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


def interleave(sides: dict[str, Callable[[], object]], rounds: int, warm: int = 1) -> dict[str, Timed]:
    """Run all sides once per round, in turning order, after `warm` untimed rounds."""
    for _ in range(warm):
        for run in sides.values():
            run()
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            seen[name].append(_once(sides[name]))
    return {name: Timed([cpu for cpu, _ in both], [wall for _, wall in both]) for name, both in seen.items()}


def compare(timed: dict[str, Timed], over: str, under: str) -> dict[str, float | int]:
    """The ratio over ÷ under of the medians, by CPU and wall time, with its spread over rounds."""
    a, b = timed[over], timed[under]
    by_round = sorted(x / y for x, y in zip(a.cpu, b.cpu, strict=True))
    return {
        "cpu_ratio": statistics.median(a.cpu) / statistics.median(b.cpu),
        "wall_ratio": statistics.median(a.wall) / statistics.median(b.wall),
        "lowest": by_round[0],
        "highest": by_round[-1],
        "over_s": statistics.median(a.wall),
        "under_s": statistics.median(b.wall),
        "rounds": len(by_round),
    }
