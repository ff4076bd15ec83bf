"""`probe analyze` with no arguments, as typed: start of the process to the printed table."""

import subprocess
import sys
import time
from pathlib import Path

BUDGET_S = 180


def measure(rounds: int) -> dict[str, object]:
    """One run (the model is fetched before, outside the clock)."""
    del rounds
    command = str(Path(sys.executable).with_name("probe"))
    subprocess.run([command, "fetch", "smollm2-135m"], check=True, stdout=subprocess.DEVNULL)
    start = time.perf_counter()
    subprocess.run([command, "analyze"], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    what = {
        "what": "probe analyze",
        "value": seconds,
        "unit": "s",
        "budget": BUDGET_S,
        "better": "low",
        "rounds": 1,
    }
    return {"title": "`probe analyze` with its defaults, after the fetch", "lines": [what]}
