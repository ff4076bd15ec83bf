"""Shards scored by several processes, each with the model loaded once, through Ray."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from probe.analysis.scoring.documents import Document
from probe.analysis.scoring.options import ScoreOptions
from probe.analysis.scoring.plan import model_digest
from probe.analysis.scoring.ray_cluster import cluster, processors, threads_each
from probe.analysis.scoring.scorer import Scorer, ShardScores
from probe.errors import ModelError, ProbeError, UsageError, WorkerError
from probe.models import load

Shards = Iterable[tuple[int, list[Document]]]
Found = Generator[tuple[int, ShardScores], None, None]


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker needs to know; `digest` is that of the weights which it must find."""

    model: str
    mask: Any
    options: ScoreOptions
    digest: str
    device: str  # kind of device on which the model is, so that all workers use the same

    @classmethod
    def of(
        cls, model: str | Path, mask: object, options: ScoreOptions, digest: str, device: str
    ) -> "WorkerSpec":
        """The spec for a model by name; a folder by its whole path, since workers stand elsewhere."""
        path = Path(model).expanduser()
        return cls(str(path.resolve()) if path.exists() else str(model), mask, options, digest, device)


class Worker:
    """One process of the pool. Loads in `start`, so that errors of loading arrive as they are."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._scorer: Scorer | None = None

    def start(self, threads: int) -> None:
        """Load the model and make the mask ready.

        Raises:
            ModelError: other weights than the ones of the run have that name here.
        """
        torch.set_num_threads(threads)
        spec = self._spec
        loaded = load(spec.model, device=spec.device, dtype=spec.options.dtype)
        if model_digest(loaded) != spec.digest:
            raise ModelError(
                f"{spec.model} was to be loaded by a worker; it found other weights under that name: put the same "
                "files on every machine"
            )
        self._scorer = Scorer(loaded, spec.mask, spec.options)

    def score(self, documents: list[Document]) -> ShardScores:
        """The scores of one shard."""
        if self._scorer is None:
            raise WorkerError("a worker was asked for scores before it was started")
        return self._scorer.score(documents)


def scored_by_workers(spec: WorkerSpec, shards: Shards) -> Found:
    """The scores of shards, as they are finished; every worker has one shard at a time.

    Raises:
        UsageError: the cluster cannot be joined, or has fewer CPUs than workers were asked.
        WorkerError: a worker died; the message names its shard.
    """
    options, cuda = spec.options, spec.device == "cuda"
    gpus = torch.cuda.device_count() if cuda and options.ray_address is None else 0
    with cluster(options.ray_address, options.workers, gpus) as ray:
        nodes = processors(ray)
        workers = options.workers or len(nodes)
        if sum(nodes) < workers:
            raise UsageError(
                f"{workers} workers were asked; the cluster has {sum(nodes)} CPUs: ask for fewer"
            )
        threads = threads_each(nodes, workers)
        share = min(1.0, gpus / workers) if gpus else float(cuda)
        kind = ray.remote(num_cpus=threads, num_gpus=share, max_restarts=0, scheduling_strategy="SPREAD")(
            Worker
        )
        pool = _Pool(ray, [kind.remote(spec) for _ in range(workers)])
        try:
            pool.start(threads)
            yield from pool.run(shards)
        finally:
            pool.end()


class _Pool:
    """Workers of a cluster and what each of them is doing."""

    def __init__(self, ray: Any, workers: list[Any]) -> None:
        self.ray, self.workers = ray, workers
        self._free = list(workers)
        self._running: dict[Any, tuple[int, Any]] = {}  # answer to come -> shard, worker

    def start(self, threads: int) -> None:
        """Have every worker load the model; the first that fails stops it all."""
        waiting = [worker.start.remote(threads) for worker in self.workers]
        while waiting:
            ready, waiting = self.ray.wait(waiting)
            for answer in ready:
                self._get(answer, "loading the model")

    def run(self, shards: Shards) -> Found:
        """Hand out shards as workers become free."""
        for number, documents in shards:
            if not self._free:
                yield self._next()
            worker = self._free.pop()
            self._running[worker.score.remote(documents)] = number, worker
        while self._running:
            yield self._next()

    def end(self) -> None:
        """Let the workers go, whatever they do."""
        for worker in self.workers:
            self.ray.kill(worker)

    def _next(self) -> tuple[int, ShardScores]:
        (answer, *_), _ = self.ray.wait(list(self._running), num_returns=1)
        number, worker = self._running.pop(answer)
        found = self._get(answer, f"shard {number}")
        self._free.append(worker)
        return number, found

    def _get(self, answer: Any, what: str) -> Any:
        try:
            return self.ray.get(answer)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ProbeError):
                raise error.cause from None
            raise WorkerError(
                f"{what} was given to a worker; it failed there ({type(error.cause).__name__}: {_line(error.cause)}); "
                "finished shards are kept"
            ) from error
        except self.ray.exceptions.RayError as error:
            raise WorkerError(
                f"{what} was given to a worker, which died ({type(error).__name__}: {_line(error)}): look at its "
                "memory, and repeat the call to go on; finished shards are kept"
            ) from error


def _line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else "no message"
