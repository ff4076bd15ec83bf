"""What was measured on, without saying whose machine it is."""

import platform
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


def describe() -> dict[str, object]:
    """Cores, threads, kind of processor, versions and the day."""
    import os

    import torch

    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "day": datetime.now(UTC).date().isoformat(),
    }
