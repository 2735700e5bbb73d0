"""Where points are evaluated: in this process, in processes beside it, or on a Dask cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import BaseContext
from typing import Any, Final, Protocol

from imac_torch.errors import ConfigError
from imac_torch.sweep.evaluator import Evaluator
from imac_torch.sweep.parcel import Parcel, WorkerError, cannot_start
from imac_torch.sweep.tasks import Bench, Outcome, Task, run_task

__all__ = ["Backend", "Dask", "InProcess", "Processes"]

ATTEMPTS: Final = 3
"""Times that a point may take its worker with it before it counts as failed."""


class Backend(Protocol):
    """Evaluates tasks and yields outcomes as they come, in any order."""

    def run(
        self, evaluator: Evaluator, tasks: Sequence[Task], *, at_once: int | None = None
    ) -> Iterator[Outcome]:
        """Evaluate every task once.

        Args:
            evaluator: What to compute.
            tasks: Points.
            at_once: Most evaluations at the same time, None for as many as there are workers.
        """
        ...


@dataclass(frozen=True)
class InProcess:
    """One after the other, here."""

    def run(
        self, evaluator: Evaluator, tasks: Sequence[Task], *, at_once: int | None = None
    ) -> Iterator[Outcome]:
        """See :class:`Backend`."""
        del at_once  # never more than one
        bench = evaluator.bench()
        for task in tasks:
            yield run_task(bench, task)


class _Holder:
    """What a worker holds: the evaluator and its bench, made at the first point."""

    def __init__(self, parcel: Parcel) -> None:
        self.parcel = parcel
        self.bench: Bench | None = None

    def run(self, task: Task) -> Outcome:
        """Evaluate on this worker.

        Raises:
            WorkerError: The bench cannot be made.
        """
        if self.bench is None:
            try:
                self.bench = self.parcel.open().bench()
            except Exception as error:
                raise WorkerError(cannot_start(error)) from None
        return run_task(self.bench, task)


_HERE: Final[list[_Holder]] = []
"""In a worker process: its own one."""


def _start_worker(
    parcel: Parcel, threads: int, started: Any, environment: dict[str, str]
) -> None:
    started.set()
    import torch

    os.environ.clear()  # a server's is that of when it started
    os.environ.update(environment)

    torch.set_num_threads(threads)
    _end_with_parent()
    _HERE.append(_Holder(parcel))


def _end_with_parent() -> None:
    """End this process when its parent is gone, also if that was killed: no orphans."""
    parent = multiprocessing.parent_process()
    if parent is None:  # pragma: no cover - only ever called in a child
        return

    def watch() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _fresh_processes() -> BaseContext:
    """Processes that begin as a new one does, but where the system can, with torch imported.

    Forking this process would copy locks of threads that other libraries have started. A server
    of its own has none: it imports what all workers need once, and every worker is its copy.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["imac_torch.sweep.evaluator"])
    return context


def _run_in_worker(task: Task) -> Outcome:
    return _HERE[0].run(task)


def _gave_up(task: Task) -> Outcome:
    error = f"its worker died {ATTEMPTS} times (out of memory?)"
    return Outcome(task.key, None, error, 0.0, "")


@dataclass(frozen=True)
class Processes:
    """Local processes; one that dies is replaced and its point run again.

    Attributes:
        workers: How many; None: one per core.
    """

    workers: int | None = None

    def run(
        self, evaluator: Evaluator, tasks: Sequence[Task], *, at_once: int | None = None
    ) -> Iterator[Outcome]:
        """See :class:`Backend`.

        Raises:
            ConfigError: The number of workers is not positive, or they cannot start.
        """
        cores = os.cpu_count() or 1
        workers = cores if self.workers is None else self.workers
        if workers < 1:
            raise ConfigError(f"workers = {workers} must be at least 1")
        limit = workers if at_once is None else min(workers, at_once)
        waiting, deaths = deque(tasks), Counter[str]()
        parcel = Parcel.of(evaluator)
        context = _fresh_processes()
        while waiting:
            started = context.Event()
            with ProcessPoolExecutor(
                limit,
                mp_context=context,
                initializer=_start_worker,
                initargs=(parcel, max(1, cores // limit), started, dict(os.environ)),
            ) as pool:
                try:
                    yield from self._drain(pool, waiting, deaths, limit)
                except WorkerError as error:
                    raise ConfigError(f"workers cannot start: {error}") from None
                if waiting and not started.is_set():
                    raise ConfigError(
                        "worker processes end before they have started (their own message is on "
                        "standard error); a script that runs a sweep in processes needs "
                        "`if __name__ == '__main__':` around what it does"
                    )

    def _drain(
        self,
        pool: ProcessPoolExecutor,
        waiting: deque[Task],
        deaths: Counter[str],
        limit: int,
    ) -> Iterator[Outcome]:
        """Run until all is done or the pool is broken; what it did not do waits again."""
        running: dict[Future[Outcome], Task] = {}
        try:
            while waiting or running:
                while waiting and len(running) < 2 * limit:
                    # What was under way when a worker died runs alone: then it is known which.
                    suspects = (waiting[0], *running.values())
                    if running and any(deaths[task.key] for task in suspects):
                        break
                    task = waiting.popleft()
                    running[pool.submit(_run_in_worker, task)] = task
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    outcome = future.result()
                    del running[future]
                    yield outcome
        except BrokenProcessPool:
            again = []
            for future, task in running.items():
                if future.done() and future.exception() is None:
                    yield future.result()
                    continue
                deaths[task.key] += 1
                if deaths[task.key] >= ATTEMPTS:
                    yield _gave_up(task)
                else:
                    again.append(task)
            waiting.extendleft(reversed(again))


@dataclass(frozen=True)
class Dask:
    """A Dask cluster: given by address, or one on this machine for the time of the sweep.

    Dask's scheduler replaces workers that die and moves their points. Kubernetes and SLURM
    clusters come from its own packages (``dask-kubernetes``, ``dask-jobqueue``): start one and
    give its scheduler's address.

    Attributes:
        address: Of the scheduler, such as ``tcp://host:8786``; None: a local cluster.
        workers: Of the local cluster; None: one per core.
        on_start: Called with the client when the cluster is there (to look at it, or to log).
    """

    address: str | None = None
    workers: int | None = None
    on_start: Any = field(default=None, compare=False)

    def run(
        self, evaluator: Evaluator, tasks: Sequence[Task], *, at_once: int | None = None
    ) -> Iterator[Outcome]:
        """See :class:`Backend`.

        Raises:
            ConfigError: Dask is not installed, or the cluster cannot be reached.
        """
        try:
            import distributed
        except ImportError:
            raise ConfigError(
                "Dask distributed is not installed: pip install 'imac_torch[cluster]'"
            ) from None
        with self._client(distributed) as client:
            if self.on_start is not None:
                self.on_start(client)
            yield from _run_on_dask(distributed, client, evaluator, tasks, at_once)

    @contextmanager
    def _client(self, distributed: Any) -> Iterator[Any]:
        if self.address is None:
            cluster = distributed.LocalCluster(
                n_workers=self.workers or os.cpu_count() or 1,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                silence_logs=logging.ERROR,  # workers that die are replaced, and told by points
            )
            with cluster, distributed.Client(cluster) as client:
                yield client
            return
        try:
            client = distributed.Client(self.address, timeout="30s")
        except (OSError, TimeoutError, ValueError) as error:
            raise ConfigError(f"no Dask scheduler at {self.address}: {error}") from None
        with client:
            yield client


PLUGIN: Final = "imac_torch-evaluator"


def _plugin(distributed: Any, holder: _Holder) -> Any:  # noqa: ANN401
    """A worker plugin; its class is made here because its base may not be installed."""

    class EvaluatorPlugin(distributed.WorkerPlugin):  # type: ignore[misc, name-defined]
        """Brings the evaluator to every worker."""

        def __init__(self) -> None:
            self.holder = holder

        def setup(self, worker: Any) -> None:  # noqa: ANN401
            """Called on every worker; with one per core, more threads would be in the way."""
            import torch

            torch.set_num_threads(max(1, worker.state.nthreads))

    return EvaluatorPlugin()


def _run_on_dask_worker(task: Task) -> Outcome:
    from distributed import get_worker

    plugin: Any = get_worker().plugins[PLUGIN]
    outcome: Outcome = plugin.holder.run(task)
    return outcome


def _run_on_dask(
    distributed: Any,  # noqa: ANN401
    client: Any,  # noqa: ANN401
    evaluator: Evaluator,
    tasks: Sequence[Task],
    at_once: int | None,
) -> Iterator[Outcome]:
    parcel = Parcel.of(evaluator, by_value=True)
    client.register_plugin(_plugin(distributed, _Holder(parcel)), name=PLUGIN)
    waiting = deque(tasks)
    running: dict[str, Task] = {}
    done = distributed.as_completed([], with_results=False)

    def window() -> int:
        threads = sum(client.nthreads().values()) or 1
        # Twice as many as run: a worker never waits, and a kill loses few.
        return 2 * threads if at_once is None else max(1, min(2 * threads, at_once))

    def fill() -> None:
        room = window() - len(running)
        for _ in range(min(room, len(waiting))):
            task = waiting.popleft()
            future = client.submit(
                _run_on_dask_worker, task, key=f"imac_torch-{task.key}", pure=False, retries=0
            )
            running[future.key] = task
            done.add(future)

    fill()
    while running:
        future = next(done)
        task = running.pop(future.key)
        if future.status == "finished":
            yield future.result()
        else:
            error = future.exception()
            if isinstance(error, WorkerError):
                raise ConfigError(f"workers cannot start: {error}")
            if isinstance(error, distributed.scheduler.KilledWorker):
                yield _gave_up(task)
            else:
                text = f"{type(error).__name__}: {error}"
                yield Outcome(task.key, None, text, 0.0, "")
        future.release()
        fill()
