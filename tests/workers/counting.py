"""A job without a pipeline: each task appends a line to a file, as slowly as is asked."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from stas.workers.job import Job, TaskError


class Counting(Job):
    """Tasks of one video each. `faults` says by task what goes wrong in it.

    "raise" and "memory" fail, "die" kills the process, "die once" the first time, "disk" can't be
    written.
    """

    def __init__(self, folder: Path, count: int, *, seconds: float = 0.0, faults=None, opens=None):
        self.folder, self.videos, self._seconds = folder, count, seconds
        self._faults, self._opens = faults or {}, opens

    @property
    def tasks(self):
        return [f"{number:02d}" for number in range(self.videos)]

    def open(self):
        if self._opens == "refuse":
            raise ValueError("this can't be made")
        if self._opens == "die":
            os.kill(os.getpid(), signal.SIGKILL)

    def begin(self, tell):
        self._log("begun")

    def is_finished(self, task):
        return (self.folder / task).exists()

    def make(self, task, tell):
        self._log(f"try {task}")
        for step in range(4):
            tell(step, 4, "counting")
            time.sleep(self._seconds / 4)
        fault = self._faults.get(task)
        if fault == "raise":
            raise TaskError(f"{task} can't be")
        if fault == "memory":
            raise TaskError(f"{task} is too large", again=True)
        if fault == "disk":
            raise OSError(28, "No space left on device", str(self.folder / task))
        if fault == "die" or (fault == "die once" and self._log_text().count(f"try {task}") == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / task).write_text(str(os.getpid()))
        self._log(f"made {task}")

    def finished_videos(self):
        return sum(self.is_finished(task) for task in self.tasks)

    def log(self):
        """What happened, in order."""
        return self._log_text().splitlines()

    def _log_text(self):
        path = self.folder / "log.txt"
        return path.read_text() if path.exists() else ""

    def _log(self, line):
        with (self.folder / "log.txt").open("a") as file:
            file.write(f"{line}\n")
