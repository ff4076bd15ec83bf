"""A Ray cluster to score on: one that is running, or one of this machine's own that nobody else can reach."""

import importlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from probe.errors import UsageError

# Ray reads these when it is imported or started. The first keeps it from reporting its use to its makers; the second
# makes a local cluster listen on 127.0.0.1 alone, on every system.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
_LOCAL = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_LOOPBACK = "127.0.0.1"
_SILENT: Mapping[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
_STORE_BYTES = 2**28  # of a local cluster: texts and scores on their way


def import_ray() -> Any:
    """The module ``ray``; raises `UsageError` where it is not installed. Does not start anything."""
    with environment({**_QUIET, **_LOCAL}):
        try:
            return importlib.import_module("ray")
        except ImportError as error:
            raise UsageError(
                "several workers were asked; Ray is not installed: pip install 'attention-probe[ray]', or leave "
                "workers and ray_address out"
            ) from error


@contextmanager
def cluster(address: str | None, workers: int, gpus: int) -> Iterator[Any]:
    """``ray``, connected: to `address`, to what this process is connected to already, or to a cluster started here.

    A cluster that was started here ends with the block; any other goes on.

    Raises:
        UsageError: nothing answers at the address, or a local cluster would be open to other machines.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    with environment({**_QUIET, **(_LOCAL if address is None else {})}):
        if address is None:
            _start(ray, max(workers, _cores()), gpus)
        else:
            _join(ray, address)
    try:
        yield ray
    finally:
        ray.shutdown()


def _start(ray: Any, cpus: int, gpus: int) -> None:
    """A cluster that listens on the loopback address alone."""
    if ray.util.get_node_ip_address() != _LOOPBACK:
        raise UsageError(
            "several workers were asked; Ray was imported before, and its cluster would listen to other machines: set "
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before that import, or call ray.init() yourself"
        )
    ray.init(
        "local",
        num_cpus=cpus,
        num_gpus=gpus,
        object_store_memory=_STORE_BYTES,
        include_dashboard=False,
        **_SILENT,
    )


def _join(ray: Any, address: str) -> None:
    try:
        ray.init(address, **_SILENT)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"ray_address={address} was asked; no cluster could be joined there ({reason}): check the address"
        ) from error


def processors(ray: Any) -> list[int]:
    """The CPUs of every living node."""
    return [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


def threads_each(nodes: list[int], workers: int) -> int:
    """CPU threads for each of some workers: as many as can be had for all of them at once, and at least 1.

    >>> threads_each([8], 2), threads_each([8, 4], 3), threads_each([3, 3], 3), threads_each([2], 4)
    (4, 4, 1, 1)
    """
    fitting = (n for n in range(max(nodes), 0, -1) if sum(node // n for node in nodes) >= workers)
    return next(fitting, 1)


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for as long as the block lasts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
