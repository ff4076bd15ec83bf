"""What was measured on, without saying whose machine it is."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any


def machine() -> dict[str, Any]:
    """Kind of processor, versions and the day, without saying whose machine it is."""
    return {
        "processor": _processor(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "day": datetime.now(UTC).date().isoformat(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return platform.machine()
    widest = next((name for name in ("avx512f", "avx2", "avx") if f" {name} " in f"{flags.strip()} "), "")
    return f"{platform.machine()} {widest}".strip()
