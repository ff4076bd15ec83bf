"""The state of torch during a run: seeded, deterministic if asked, and put back afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def settled(seed: int, *, deterministic: bool, device: torch.device) -> Iterator[None]:
    """Seed torch's generators and choose deterministic algorithms; everything is as before at the end."""
    devices = [device] if device.type == "cuda" else []
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        if deterministic:
            torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn_only)


def determinism_note() -> str:
    """What a reader must know to repeat a deterministic run bit by bit."""
    return f"deterministic algorithms, {torch.get_num_threads()} CPU threads: repeat with as many threads"
