"""Where the processes of a job run: here, as processes of this machine, or in a Ray cluster.

All three do the same, `stas.workers.job.work`, and share by the leases of the job's folder. What
starts them tells how far all is, and starts another in the place of one that died.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from importlib.util import find_spec as find_module
from textwrap import shorten
from typing import IO, Protocol

from stas.checks import StasWarning
from stas.workers.job import Job, Report, Watch, work
from stas.workers.leases import Leases

POLL = 0.2  # seconds
PATIENCE = 20.0  # seconds for a worker to stop
DEATHS = 3  # of workers that make nothing


@dataclass(frozen=True)
class Workers:
    """How many processes make something, and where.

    Args:
        count: Of processes; 1 is this process itself, unless `ray` is given. None with `ray`: one
            for each GPU of the cluster, or for each CPU where it has none.
        ray: Address of a Ray cluster, "auto" for the one of this machine, "local" for a new one.

    Raises:
        ValueError: Not a number above 0, or Ray is asked for and not installed.

    Example:
        >>> Workers(4).here, Workers().here
        (False, True)
    """

    count: int | None = 1
    ray: str | None = None

    def __post_init__(self) -> None:
        if self.count is None and self.ray is None:
            raise ValueError("Expected a number of workers, or the address of a Ray cluster.")
        if self.count is not None and self.count < 1:
            raise ValueError(f"Expected 1 worker or more, but got {self.count}.")
        if self.ray is not None and find_module("ray") is None:
            raise ValueError("A Ray cluster needs the package ray: pip install 'stas[cluster]'.")

    @property
    def threads(self) -> int | None:
        """CPU threads of each, so that together they don't want more cores than there are.

        None for as many as a process has by itself: where it is alone, where OMP_NUM_THREADS says,
        and where Ray gives each worker its cores.
        """
        if self.here or self.ray is not None or "OMP_NUM_THREADS" in os.environ:
            return None
        return max(1, (os.cpu_count() or 1) // (self.count or 1))

    @property
    def here(self) -> bool:
        """Whether this process makes all itself."""
        return self.count == 1 and self.ray is None


HERE = Workers()


class TasksFailedError(RuntimeError):
    """Tasks failed; all others are finished."""

    def __init__(self, failures: dict[str, str], tasks: int) -> None:
        lines = "\n".join(failures.values())
        of = f"{len(failures)} of {tasks} failed; the others are finished, and the same command"
        super().__init__(lines if tasks == 1 else f"{of} tries these again:\n{lines}")
        self.failures = failures


class WorkerDiedError(RuntimeError):
    """A worker's process is gone."""


class Worker(Protocol):
    """A process that works; it is asked now and then."""

    def is_working(self) -> bool:
        """Whether it still works.

        Raises:
            WorkerDiedError: Its process is gone.
            Exception: What stopped its work.
        """
        ...

    def stop(self) -> None:
        """End it, whatever it does."""
        ...


class Executor(Protocol):
    """Starts workers."""

    count: int

    def start(self, job: Job, number: int) -> Worker:
        """Start the worker of that number, from 0."""
        ...

    def close(self) -> None:
        """Give back what was taken to start workers."""
        ...


def carry_out(
    job: Job, workers: Workers, *, gpus: bool | None = None, report: Report | None = None
) -> None:
    """Have a job done.

    Args:
        job: What is to be made. Other commands that work in its folder share in it.
        workers: How many processes, and where.
        gpus: Whether each needs a GPU; None for where there are GPUs.
        report: Called with how far all is.

    Raises:
        TasksFailedError: Some tasks failed; all others are finished.
        ValueError: There are fewer GPUs than workers, or nodes that don't see the folder.
        Exception: What stopped the work, such as a full disk; what is finished is kept.
    """
    leases = Leases(job.folder, worker_name(0))
    leases.forget_failures()
    try:
        if workers.here:
            work(job, leases, report=report)
        else:
            executor: Executor
            if workers.ray is None:
                executor = Processes(workers.count or 1, gpus)
            else:
                from stas.workers.cluster import RayCluster

                executor = RayCluster(workers.count, workers.ray, gpus, job.folder)
            try:
                _drive(job, executor, leases, report)
            finally:
                executor.close()
        if failures := leases.failures():
            raise TasksFailedError(failures, len(job.tasks))
    finally:
        leases.forget_failures()
        leases.clear()


def worker_name(number: int) -> str:
    """What people are told of a worker: its machine, and its number there from 1."""
    return f"{socket.gethostname()} {number + 1}"


def _drive(job: Job, executor: Executor, leases: Leases, report: Report | None) -> None:
    """Keep workers at work until all tasks are finished or failed."""
    watch, deaths, settled = Watch(job, leases), 0, 0
    working: dict[int, Worker] = {}
    stopped: list[Exception] = []
    try:
        for number in range(executor.count):
            working[number] = executor.start(job, number)
        while working:
            time.sleep(POLL)
            for number, worker in list(working.items()):
                try:
                    if not worker.is_working():
                        del working[number]
                except WorkerDiedError:
                    now = watch.progress(look=True)
                    before, settled = settled, now.finished + now.failed
                    deaths = 1 if settled > before else deaths + 1
                    if deaths > DEATHS * executor.count:
                        raise
                    working[number] = executor.start(job, number)
                except Exception as error:
                    stopped.append(error)  # the others may still end it
                    del working[number]
            if report is not None:
                report(watch.progress())
        if report is not None:
            report(watch.progress(look=True))
        if len(stopped) == executor.count:
            raise stopped[0]
        for each in stopped:
            warnings.warn(f"A worker stopped: {each}", StasWarning, stacklevel=2)
    finally:
        for worker in working.values():
            worker.stop()


class Processes:
    """Starts workers as processes of this machine.

    Args:
        count: How many.
        gpus: As of `carry_out`.

    Raises:
        ValueError: There are fewer GPUs than workers.
    """

    def __init__(self, count: int, gpus: bool | None) -> None:
        devices = [] if gpus is False else visible_gpus()
        if (devices or gpus) and len(devices) < count:
            raise ValueError(
                f"{count} workers need a GPU each, but there {'is' if len(devices) == 1 else 'are'}"
                f" {len(devices)}. Ask for fewer workers, or for the CPU."
            )
        self.count, self._devices = count, devices

    def start(self, job: Job, number: int) -> Worker:
        environment = dict(os.environ)
        if self._devices:
            environment["CUDA_VISIBLE_DEVICES"] = self._devices[number]
        return _Process(job, number, environment)

    def close(self) -> None:
        pass


class _Process:
    """`python -m stas.workers`: it reads the job, and ends when this process does."""

    def __init__(self, job: Job, number: int, environment: dict[str, str]) -> None:
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed when it ended
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stas.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment,
            start_new_session=True,  # Ctrl-C is told to this process, which stops its workers
        )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(pickle.dumps((number, job)))
            self._process.stdin.flush()  # not closed: its end tells the worker that we are gone
        except BrokenPipeError:
            pass  # it died, as will be seen

    def is_working(self) -> bool:
        if (code := self._process.poll()) is None:
            return True
        assert self._process.stdout is not None
        result = self._process.stdout.read()
        self._close()
        if code == 0 and result:
            if (error := pickle.loads(result)) is not None:
                raise error
            return False
        self._said.seek(0)
        last = self._said.read().decode(errors="replace").strip().rpartition("\n")[2]
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise WorkerDiedError(f"A worker's process ended with {how}. {shorten(last, 300)}".strip())

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close()

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def visible_gpus() -> list[str]:
    """The names by which CUDA_VISIBLE_DEVICES knows the GPUs that this process may use."""
    import torch

    count = torch.cuda.device_count()  # asks the driver, and starts nothing on the GPUs
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]
