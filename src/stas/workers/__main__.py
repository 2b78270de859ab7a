"""A worker's process, started by `stas.workers.executors.Processes`; not for people."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from threading import Thread

from stas.workers.executors import worker_name
from stas.workers.job import work
from stas.workers.leases import Leases


def main() -> None:
    """Read a job, work, and write what stopped it."""
    result = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no result
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leases are given back
    stopped: Exception | None = None
    try:
        number, job = pickle.load(sys.stdin.buffer)
        Thread(target=_end_with_the_driver, daemon=True).start()
        work(job, Leases(job.folder, worker_name(number)), first=number)
    except Exception as error:
        stopped = error
    with os.fdopen(result, "wb") as stream:
        stream.write(_pickled(stopped))


def _end_with_the_driver() -> None:
    os.read(0, 1)  # returns when the driver is gone
    os._exit(1)


def _pickled(error: Exception | None) -> bytes:
    """An error as the driver can read it; one that can't travel as what it says."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
        return data
    except Exception:
        return pickle.dumps(RuntimeError(str(error)))


if __name__ == "__main__":
    main()
