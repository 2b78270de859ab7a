"""Leases: which of many processes makes what, told by files in a folder that all of them see.

A lease is a file that only one process can make, which its holder touches while it works. The
holder is dead when its process is gone from this machine, or when the file was not touched for
`STALE` seconds of the folder's own clock, so that clocks that are off do no harm. A dead holder's
lease is taken over by renaming it. What is finished is what has its files: a lease that is taken
over wrongly costs time and nothing else.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from threading import Event, Lock, Thread

import psutil

from stas.files import whole_file

FOLDER = ".leases"
STALE = 60.0  # seconds; file systems over the network may hold news back for half of that
BEATS = 6  # touches in that time
TELL = 0.2  # seconds between what a holder says of its steps
TRIES = 3  # of a task whose process dies
_NEW = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class Holding:
    """What a lease says.

    Args:
        task: What is made.
        worker: Who makes it, as people are told.
        place: The machine.
        pid: The process.
        tries: How many processes began it, this one counted.
        step: Finished denoising steps.
        steps: All of them.
        state: What happens at this step, in a word.
    """

    task: str
    worker: str = ""
    place: str = ""
    pid: int = 0
    tries: int = 1
    step: int = 0
    steps: int = 0
    state: str = ""


class Lease:
    """A task that is this process's. Made by `Leases.take`; as a context it ends with the block."""

    def __init__(self, path: Path, handle: int, holding: Holding, beat: float) -> None:
        self._path, self._handle, self.holding, self._beat = path, handle, holding, beat
        self._writing, self._ended, self._told = Lock(), Event(), 0.0
        self._write()
        self._beating = Thread(target=self._touch, daemon=True)
        self._beating.start()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def last_try(self) -> bool:
        """Whether nobody is to try again after this."""
        return self.holding.tries >= TRIES

    @property
    def held(self) -> bool:
        """Whether it is still this process's: one that slept too long has lost it."""
        if self._ended.is_set():
            return False
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._handle))
        except FileNotFoundError:
            return False

    def tell(self, step: int, steps: int, state: str = "") -> None:
        """Say how far the work is."""
        self._change(step=step, steps=steps, state=state)
        if time.monotonic() - self._told > TELL:
            self._write()

    def release(self) -> None:
        """Give it back."""
        held = self.held
        self._end()
        if held:
            self._path.unlink(missing_ok=True)

    def give_up(self) -> None:
        """Leave it for another try, as a process that dies does."""
        self._change(pid=0, place="")
        self._write()
        self._end()

    def _change(self, **fields: object) -> None:
        with self._writing:
            self.holding = Holding(**{**asdict(self.holding), **fields})

    def _write(self) -> None:
        with self._writing:
            if self._ended.is_set():
                return
            text = json.dumps(asdict(self.holding)).encode()
            # In place: were it moved here, a lease that was lost would come back.
            os.lseek(self._handle, 0, os.SEEK_SET)
            os.write(self._handle, text)
            os.ftruncate(self._handle, len(text))
            self._told = time.monotonic()

    def _touch(self) -> None:
        while not self._ended.wait(self._beat):
            with suppress(OSError):  # where the folder is away for a while
                self._write()

    def _end(self) -> None:
        if not self._ended.is_set():
            self._ended.set()
            self._beating.join()
            os.close(self._handle)


class Leases:
    """The leases of a folder, as one process sees them.

    Args:
        folder: What is shared; leases lie in a hidden folder in it.
        worker: Who takes them, as people are told; "" for what they are not told.
        stale: Seconds after which an untouched lease is a dead process's.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> mine, other = Leases(folder, "1"), Leases(folder, "2")
        >>> with mine.take("0000"):
        ...     print(other.take("0000"), [each.worker for each in other.working()])
        None ['1']
        >>> other.take("0000").held
        True
    """

    def __init__(self, folder: Path, worker: str, stale: float = STALE) -> None:
        self.folder, self._worker, self._stale = folder / FOLDER, worker, stale

    def take(self, task: str) -> Lease | None:
        """Make a task this process's own; None where another process has it.

        One whose processes died `TRIES` times is marked as failed.

        Raises:
            OSError: The folder has vanished, or can't be written to.
        """
        path, tries = self._path(task, ".lease"), 1
        while True:
            self._make_folder()
            try:
                handle = os.open(path, _NEW, 0o666)
            except FileNotFoundError:
                continue  # another process, which found it empty, has removed the folder
            except FileExistsError:
                if (found := _read(path)) is None:
                    continue  # given back meanwhile
                holding, status = found
                if not self._is_dead(holding, status) or not _bury(path, status):
                    return None
                if holding.tries >= TRIES:
                    self.fail(task, f"its process died {TRIES} times, the last on {holding.worker}")
                    return None
                tries = holding.tries + 1
                continue
            holding = Holding(task, self._worker, _place(), os.getpid(), tries)
            return Lease(path, handle, holding, self._stale / BEATS)

    @contextmanager
    def wait(self, task: str) -> Iterator[Lease]:
        """Have a task for oneself within, once all others are done with it."""
        while (lease := self.take(task)) is None:
            if message := self.failures().get(task):
                raise RuntimeError(f"{task} failed: {message}")
            time.sleep(0.1)
        with lease:
            yield lease

    def working(self) -> list[Holding]:
        """What is in work, by whom and how far, by the worker; dead processes left out."""
        found = [each for path in self._files(".lease") if (each := _read(path)) is not None]
        alive = [holding for holding, status in found if not self._is_dead(holding, status)]
        return sorted(alive, key=lambda each: each.worker)

    def fail(self, task: str, message: str) -> None:
        """Mark a task as failed, so that nobody tries it again in this run."""
        path = self._path(task, ".failed")
        self._make_folder()
        with whole_file(path, alone=True) as temporary:
            temporary.write_text(json.dumps({"task": task, "message": message}), encoding="utf-8")

    def failures(self) -> dict[str, str]:
        """By task, why it failed."""
        found = {}
        for path in self._files(".failed"):
            with suppress(OSError, ValueError):
                data = json.loads(path.read_text(encoding="utf-8"))
                found[data["task"]] = data["message"]
        return found

    def forget_failures(self) -> None:
        """Have what failed tried again, unless others are at work, who would see it come back."""
        if not self.working():
            for path in self._files(".failed"):
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the folder when nothing is in it."""
        with suppress(OSError):
            self.folder.rmdir()

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir()
        except FileExistsError:
            return  # or removed again meanwhile, which the next open will tell
        except FileNotFoundError:
            raise FileNotFoundError(
                errno.ENOENT, "The folder that was worked in has vanished", str(self.folder.parent)
            ) from None

    def _files(self, suffix: str) -> list[Path]:
        """The files of a kind; none where another process has just removed the folder."""
        try:
            return sorted(self.folder / n for n in os.listdir(self.folder) if n.endswith(suffix))  # noqa: PTH208
        except FileNotFoundError:
            return []

    def _path(self, task: str, suffix: str) -> Path:
        return self.folder / f"{sha256(task.encode()).hexdigest()[:16]}{suffix}"

    def _is_dead(self, holding: Holding, status: os.stat_result) -> bool:
        if not holding.pid and holding.task:
            return True  # given up
        if holding.place == _place() and not _lives(holding.pid):
            return True
        try:
            with tempfile.TemporaryFile(dir=self.folder) as probe:
                now = os.fstat(probe.fileno()).st_mtime
        except FileNotFoundError:
            return True  # given back meanwhile, and the folder is gone with it
        return now - status.st_mtime > self._stale


def _read(path: Path) -> tuple[Holding, os.stat_result] | None:
    """What a lease says, and its file; None where there is none. One without text says nothing."""
    try:
        # Opened: over a network that fetches what is new.
        with path.open("rb") as file:
            text, status = file.read(), os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    try:
        return Holding(**json.loads(text)), status
    except (TypeError, ValueError):
        return Holding(""), status


def _bury(path: Path, status: os.stat_result) -> bool:
    """Remove a dead lease; False where another process was faster."""
    grave = path.with_name(f"{path.name}-{_place()}-{os.getpid()}")
    try:
        path.rename(grave)
    except FileNotFoundError:
        return False
    dead = os.path.samestat(grave.stat(), status)
    if not dead:  # the next holder's: give it back
        with suppress(OSError):
            os.link(grave, path)
    grave.unlink()
    return dead


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _place() -> str:
    """The machine, and the container on it: process numbers mean something within one."""
    with suppress(OSError):
        return f"{socket.gethostname()}-{Path('/proc/self/ns/pid').readlink()}".translate(
            {ord(each): "" for each in ":[]/"}
        )
    return socket.gethostname()
