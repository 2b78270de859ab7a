"""Leases: one holder, takeover from the dead, clocks that are off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from stas.workers import leases as module
from stas.workers.leases import FOLDER, TRIES, Leases


@pytest.fixture
def ended():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def only(folder, suffix=".lease"):
    (path,) = (folder / FOLDER).glob(f"*{suffix}")
    return path


def rewrite(folder, **fields):
    """A lease as another process would have left it."""
    path = only(folder)
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return path


def test_one_has_it_until_it_is_given_back(tmp_path):
    mine, other = Leases(tmp_path, "a"), Leases(tmp_path, "b")
    with mine.take("x") as lease:
        lease.tell(3, 7, "steered")
        assert other.take("x") is None and other.take("y") is not None
        found = other.working()[0]
        assert (found.task, found.worker, found.tries) == ("x", "a", 1)
    assert other.take("x").held


def test_of_many_that_ask_at_once_one_gets_it(tmp_path):
    for round_ in range(20):
        got = []
        barrier = threading.Barrier(8)

        def ask(task=str(round_), got=got, barrier=barrier):
            barrier.wait()
            got.append(Leases(tmp_path, "a").take(task))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(lease is not None for lease in got) == 1


def test_a_dead_process_is_followed_at_once_and_counted(tmp_path, ended):
    for tries in range(1, TRIES + 1):
        lease = Leases(tmp_path, "a").take("x")
        assert lease.holding.tries == tries and lease.last_try == (tries == TRIES)
        lease._ended.set()  # it is touched no more, as one of a process that was killed
        rewrite(tmp_path, pid=ended, tries=tries)
    assert Leases(tmp_path, "b").take("x") is None
    assert Leases(tmp_path, "b").failures() == {
        "x": f"its process died {TRIES} times, the last on a"
    }
    Leases(tmp_path, "b").forget_failures()
    assert Leases(tmp_path, "b").take("x").holding.tries == 1


def test_one_of_another_machine_is_dead_when_it_is_not_touched(tmp_path):
    lease = Leases(tmp_path, "a", stale=600).take("x")
    lease._ended.set()
    path = rewrite(tmp_path, place="elsewhere")
    then = path.stat().st_mtime
    asks = Leases(tmp_path, "b", stale=50)
    os.utime(path, (then - 40, then - 40))
    assert asks.take("x") is None
    os.utime(path, (then - 60, then - 60))
    assert asks.take("x").held
    assert not lease.held  # and the one that slept learns of it


def test_a_living_one_is_touched_and_not_taken(tmp_path):
    lease = Leases(tmp_path, "a", stale=0.6).take("x")
    rewrite(tmp_path, place="elsewhere")
    for _ in range(10):
        time.sleep(0.1)
        assert Leases(tmp_path, "b", stale=0.6).take("x") is None
    assert lease.held


def test_a_clock_that_is_off_changes_nothing(tmp_path, monkeypatch):
    lease = Leases(tmp_path, "a").take("x")
    lease._ended.set()
    rewrite(tmp_path, place="elsewhere")
    for hours in (-30, 30):
        monkeypatch.setattr(time, "time", lambda hours=hours: 1e9 + 3600 * hours)
        assert Leases(tmp_path, "b").take("x") is None


def test_a_takeover_that_comes_late_gives_the_new_holders_lease_back(tmp_path, ended, monkeypatch):
    lease = Leases(tmp_path, "a").take("x")
    lease._ended.set()
    path = rewrite(tmp_path, pid=ended)
    stale = path.stat()
    second = Leases(tmp_path, "b").take("x")  # was faster
    assert second.held
    assert not module._bury(path, stale)
    assert second.held and list((tmp_path / FOLDER).iterdir()) == [path]


def test_an_empty_lease_is_somebodys_until_it_is_old(tmp_path):
    Leases(tmp_path, "a").take("x").release()
    path = tmp_path / FOLDER / Leases(tmp_path, "a")._path("x", ".lease").name
    path.touch()  # killed between making it and writing into it
    assert Leases(tmp_path, "b").take("x") is None
    os.utime(path, (1e9, 1e9))
    assert Leases(tmp_path, "b").take("x").held


def test_what_is_given_up_counts_as_a_try(tmp_path):
    Leases(tmp_path, "a").take("x").give_up()
    assert Leases(tmp_path, "a").working() == []
    assert Leases(tmp_path, "b").take("x").holding.tries == 2


def test_failures_stay_while_others_work(tmp_path):
    mine = Leases(tmp_path, "a")
    with mine.take("x"):
        mine.fail("y", "why")
        mine.forget_failures()
        assert mine.failures() == {"y": "why"}
    mine.forget_failures()
    assert mine.failures() == {}
    mine.clear()
    assert not (tmp_path / FOLDER).exists()


def test_a_folder_that_has_vanished(tmp_path):
    with pytest.raises(FileNotFoundError, match="worked in has vanished"):
        Leases(tmp_path / "gone", "a").take("x")


def test_waiting_for_what_failed_is_an_error(tmp_path):
    leases = Leases(tmp_path, "a")
    with leases.wait("x") as lease:
        assert lease.held
    held = Leases(tmp_path, "b").take("x")
    leases.fail("x", "it can't be")
    with pytest.raises(RuntimeError, match="x failed: it can't be"), leases.wait("x"):
        pass
    held.release()


def test_a_folder_that_others_remove_when_it_is_empty(tmp_path):
    """Many threads take, look and clear at once: nothing fails, and each task is had by one."""
    held = {str(number): threading.Lock() for number in range(4)}
    faults = []

    def work(worker):
        leases = Leases(tmp_path, str(worker))
        try:
            for round_ in range(60):
                task = str((worker + round_) % 4)
                lease = leases.take(task)
                leases.working(), leases.failures()
                if lease is not None:
                    if not held[task].acquire(blocking=False):
                        faults.append("two have it")
                    held[task].release()
                    lease.release()
                leases.clear()
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
