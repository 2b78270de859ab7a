"""A job: tasks by name whose state is files, and what one process does of them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from stas.workers.leases import Holding, Lease, Leases

BEGIN = "preparing"  # the task of what is done once, before all others
PAUSE = 0.5  # seconds between looks at tasks that others have
LOOK = 0.5  # seconds at least between looks at how far all is


class Tell(Protocol):
    """Is told how far a task is."""

    def __call__(self, step: int, steps: int, state: str = "") -> None:
        """Finished steps, all of them, and what happens at this one, in a word."""


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Args:
        finished: Videos that are there.
        videos: All of them.
        failed: Tasks that failed.
        working: What is in work, and how far.
    """

    finished: int
    videos: int
    failed: int
    working: Sequence[Holding]


Report = Callable[[Progress], None]


class TaskError(RuntimeError):
    """A task failed by its own fault: the others are gone on with.

    Args:
        message: What to tell.
        again: Whether it may succeed at another try, as where memory was short.
    """

    def __init__(self, message: str, again: bool = False) -> None:
        super().__init__(message)
        self.again = again


class Job(ABC):
    """Tasks that any number of processes share. It is sent to them, so it must be picklable.

    A task is finished when its files say so; nothing else is remembered.
    """

    folder: Path  # which all processes see; leases lie in it
    videos: int  # of all tasks

    @property
    @abstractmethod
    def tasks(self) -> Sequence[str]:
        """Their names, all different."""

    @abstractmethod
    def open(self) -> None:
        """Load what makes the tasks; called in the process that makes them.

        Raises:
            Exception: What can't be made here, before anything is written.
        """

    @abstractmethod
    def begin(self, tell: Tell) -> None:
        """Do what is done once, or look at what another process did; one process at a time."""

    @abstractmethod
    def is_finished(self, task: str) -> bool:
        """Whether a task has its files, whole."""

    @abstractmethod
    def make(self, task: str, tell: Tell) -> None:
        """Make what a task lacks.

        Raises:
            TaskError: This task can't be made.
            Exception: Nothing can be made any more, as on a full disk.
        """

    @abstractmethod
    def finished_videos(self) -> int:
        """How many videos are there, by a quick look at their files."""


class Watch:
    """How far a job is, from its folder, which is looked at as seldom as looking takes long."""

    def __init__(self, job: Job, leases: Leases) -> None:
        self._job, self._leases, self._next = job, leases, 0.0
        self._found = Progress(0, job.videos, 0, ())

    def progress(self, mine: Holding | None = None, *, look: bool = False) -> Progress:
        """What is there now.

        Args:
            mine: What this process has in work, which it knows better than the folder.
            look: Look at the folder in any case.
        """
        started = time.monotonic()
        if look or started >= self._next:
            working = [each for each in self._leases.working() if each.worker]
            failed = len(self._leases.failures())
            finished = self._job.finished_videos()
            self._found = Progress(finished, self._job.videos, failed, working)
            now = time.monotonic()
            self._next = now + max(LOOK, 20 * (now - started))
        if mine is None:
            return self._found
        me = mine.place, mine.pid
        others = [each for each in self._found.working if (each.place, each.pid) != me]
        return replace(self._found, working=(mine, *others))


def work(job: Job, leases: Leases, *, first: int = 0, report: Report | None = None) -> None:
    """Do tasks of a job until all are finished or failed, whoever makes them.

    Args:
        job: What is to be made.
        leases: Of its folder.
        first: The task to look at first, so that several processes begin apart.
        report: Called as it goes on.

    Raises:
        Exception: What `Job.open`, `Job.begin` and `Job.make` raise, but for `TaskError`: those
            tasks are in `Leases.failures`.
    """
    job.open()
    watch = Watch(job, leases)
    with leases.wait(BEGIN) as lease:
        job.begin(_teller(lease, watch, report))
    names = list(job.tasks)
    first %= max(1, len(names))
    left = names[first:] + names[:first]
    while left:
        failed = leases.failures()
        others = []
        for task in left:
            if task in failed:
                continue
            taken = leases.take(task)
            if taken is None:
                others.append(task)
                continue
            with taken:
                if not _make(job, task, taken, leases, watch, report):
                    others.append(task)
        left = others
        if left:
            if report is not None:
                report(watch.progress())
            time.sleep(PAUSE)
    if report is not None:
        report(watch.progress(look=True))


def _make(
    job: Job, task: str, lease: Lease, leases: Leases, watch: Watch, report: Report | None
) -> bool:
    """Make one task that is this process's; whether nothing is left to be done of it."""
    try:
        if not job.is_finished(task):
            job.make(task, _teller(lease, watch, report))
        return True
    except TaskError as error:
        if lease.held and error.again and not lease.last_try:
            lease.give_up()
        elif lease.held:
            leases.fail(task, str(error))
            return True
    except OSError:
        # One that slept until it was taken for dead has lost its files to the next holder.
        if lease.held:
            raise
    return False


def _teller(lease: Lease, watch: Watch, report: Report | None) -> Tell:
    """What tells the steps of a task to other processes, and to this one's user."""

    def tell(step: int, steps: int, state: str = "") -> None:
        lease.tell(step, steps, state)
        if report is not None:
            report(watch.progress(lease.holding))

    return tell
