"""Peak resident memory and time of one forward, measured in a process of its own.

    python docs/benchmarks/peak.py MODEL LENGTH native|fused|shadow

Linux keeps the peak since it was last reset, so that loading the model does not hide the forward.
"""

import ctypes
import gc
import json
import resource
import subprocess
import sys
import time
from pathlib import Path


def _resident(field: str) -> float:
    """``VmHWM`` (peak) or ``VmRSS`` (now) of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"/proc/self/status does not state {field}")


def of(model: str, length: int, mode: str) -> dict[str, float]:
    """Peak of one forward in MB, what was resident before it, and its wall-clock seconds."""
    command = [sys.executable, __file__, model, str(length), mode]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _here(model: str, length: int, mode: str) -> dict[str, float]:
    from subject import forward, load, tokens

    import probe
    from probe.terms import DEFAULT_METRICS

    loaded = load(model)
    ids = tokens(loaded, length)
    forward(loaded, ids[:, :64])  # first use allocates what every later use shares
    with probe.observe(loaded, metrics=list(DEFAULT_METRICS), mode="fused"):
        forward(loaded, ids[:, :64])
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before, start = _resident("VmRSS"), time.perf_counter()
    if mode == "native":
        forward(loaded, ids)
    else:
        with probe.observe(loaded, metrics=list(DEFAULT_METRICS), mode=mode) as run:
            forward(loaded, ids)
        run.report()
    seconds = time.perf_counter() - start
    whole_life = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"peak": _resident("VmHWM"), "before": before, "seconds": seconds, "whole_life": whole_life}


if __name__ == "__main__":
    json.dump(_here(sys.argv[1], int(sys.argv[2]), sys.argv[3]), sys.stdout)
