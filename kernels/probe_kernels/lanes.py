"""Runs several Python threads whose torch operations are single-threaded, so that each keeps its blocks in its cache.

A sweep is a long row of small operations; splitting each of them over all cores costs a barrier per operation, and
with other work on the machine every barrier waits for the slowest core. One thread per lane has no barriers.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier, Lock, local

import torch

_lock = Lock()
_pools: dict[int, ThreadPoolExecutor] = {}
_own = local()
_KEPT_BYTES = 2**25  # scratch memory that a thread keeps between calls
MOST = 16  # more lanes than this would wait for Python's interpreter lock


def count() -> int:
    """How many lanes to use: torch's own number of threads."""
    return min(torch.get_num_threads(), MOST)


def run(tasks: Sequence[Callable[[], None]]) -> None:
    """Run each task in its own lane, without gradients, and wait for all; the first error is raised."""
    if len(tasks) == 1:
        with torch.no_grad():
            tasks[0]()
        return
    inference = torch.is_inference_mode_enabled()
    pool = _pool(len(tasks))
    futures: list[Future[None]] = [pool.submit(_quietly, task, inference) for task in tasks]
    errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None:
            raise error


def scratch(sizes: Sequence[int], dtype: torch.dtype) -> list[torch.Tensor]:
    """Uninitialised memory of these lengths, on the CPU; this thread's next call gets the same memory again.

    Fresh memory would cost a page fault per 4 kB in every call.
    """
    total = sum(sizes)
    memory: torch.Tensor | None = getattr(_own, "memory", None)
    if memory is None or memory.dtype != dtype or memory.numel() < total or memory.is_inference():
        with torch.inference_mode(False):
            memory = torch.empty(total + total // 4, dtype=dtype, device="cpu")
        _own.memory = memory if memory.nbytes <= _KEPT_BYTES else None
    return list(memory[:total].split_with_sizes(list(sizes)))


def release() -> None:
    """Give back the scratch memory that this thread keeps between calls (at most 32 MB, whatever the length)."""
    _own.memory = None


def _quietly(task: Callable[[], None], inference: bool) -> None:
    with torch.no_grad(), torch.inference_mode(inference):
        task()


def _pool(size: int) -> ThreadPoolExecutor:
    with _lock:
        if size not in _pools:
            threads = torch.get_num_threads()
            pool = ThreadPoolExecutor(size, "probe-lane", initializer=torch.set_num_threads, initargs=(1,))
            _wake(pool, size)
            # set_num_threads(1) in a lane also sets the default of threads to come; take that back.
            torch.set_num_threads(threads)
            _pools[size] = pool
        return _pools[size]


def _wake(pool: ThreadPoolExecutor, size: int) -> None:
    """Start all threads of a pool now: each waits until the last one has come."""
    barrier = Barrier(size)
    for future in [pool.submit(barrier.wait) for _ in range(size)]:
        future.result()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # threads do not survive a fork
