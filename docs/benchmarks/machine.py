"""What was measured on, without saying whose machine it is."""

import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return platform.machine()
    widest = next((name for name in ("avx512f", "avx2", "avx") if f" {name} " in f"{flags.strip()} "), "")
    return f"{platform.machine()} {widest}".strip()


def _loop() -> float:
    """Seconds of ten million steps in plain Python, the best of three: how fast a core is."""
    found = []
    for _ in range(3):
        start, total = time.perf_counter(), 0
        for number in range(10_000_000):
            total += number * number % 7
        found.append(time.perf_counter() - start)
    return round(min(found), 2)


def describe() -> dict[str, object]:
    """Cores, threads, kind of processor, seconds of a fixed piece of work, versions and the day."""
    import os

    import torch

    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "loop": _loop(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "day": datetime.now(UTC).date().isoformat(),
    }
