"""Processes and Ray actors that share a job: deaths, failures, full disks, Ctrl-C."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from stas.checks import StasWarning
from stas.workers import executors
from stas.workers.executors import TasksFailedError, WorkerDiedError, Workers, carry_out
from stas.workers.leases import FOLDER, Leases
from tests.workers.counting import Counting

PROCESSES = Workers(2)
HERE = Workers()


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Workers find this folder's jobs as the tests do."""
    path = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)


@pytest.fixture(scope="session")
def ray():
    """A Ray cluster of this process, for all tests that want one."""
    if find_spec("ray") is None:
        pytest.skip("needs Ray")
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    import ray

    path = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        object_store_memory=100_000_000,
        _node_ip_address="127.0.0.1",
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )
    yield Workers(2, "auto")
    ray.shutdown()


@pytest.fixture(params=["here", "processes", "ray"])
def workers(request):
    if request.param == "ray":
        return request.getfixturevalue("ray")
    return HERE if request.param == "here" else PROCESSES


@pytest.fixture(params=["processes", pytest.param("ray", marks=pytest.mark.slow)])
def others(request):
    """Workers that are other processes."""
    return request.getfixturevalue("ray") if request.param == "ray" else PROCESSES


def made(job):
    return sorted(line.removeprefix("made ") for line in job.log() if line.startswith("made"))


def test_every_task_is_made_once_and_nothing_is_left(workers, tmp_path):
    job, told = Counting(tmp_path, 9, seconds=0.1), []
    carry_out(job, workers, gpus=False, report=told.append)
    assert made(job) == list(job.tasks)
    assert told[-1].finished == 9 == told[-1].videos and not told[-1].working
    assert [p.finished for p in told] == sorted(p.finished for p in told)
    assert not (tmp_path / FOLDER).exists()
    assert len({(tmp_path / task).read_text() for task in job.tasks}) == (workers.count or 1)


def test_what_is_finished_is_not_made_again(workers, tmp_path):
    job = Counting(tmp_path, 4)
    (tmp_path / "01").touch()
    carry_out(job, workers, gpus=False)
    assert made(job) == ["00", "02", "03"]


def test_a_task_that_fails_is_told_and_the_rest_goes_on(workers, tmp_path):
    job = Counting(tmp_path, 4, faults={"01": "raise"})
    with pytest.raises(TasksFailedError, match=r"1 of 4 failed; the others are finished[^$]*01 ca"):
        carry_out(job, workers, gpus=False)
    assert made(job) == ["00", "02", "03"] and job.log().count("try 01") == 1
    assert not (tmp_path / FOLDER).exists()
    mended = Counting(tmp_path, 4)
    carry_out(mended, workers, gpus=False)
    assert made(mended) == list(job.tasks)


def test_short_memory_is_tried_three_times(workers, tmp_path):
    job = Counting(tmp_path, 3, faults={"02": "memory"})
    with pytest.raises(TasksFailedError, match="02 is too large"):
        carry_out(job, workers, gpus=False)
    assert made(job) == ["00", "01"] and job.log().count("try 02") == 3


def test_a_process_that_dies_is_replaced(others, tmp_path):
    job = Counting(tmp_path, 5, seconds=0.1, faults={"01": "die once", "03": "die once"})
    carry_out(job, others, gpus=False)
    assert made(job) == list(job.tasks)


def test_a_task_that_kills_its_process_ends_after_three_tries(others, tmp_path):
    job = Counting(tmp_path, 3, faults={"01": "die"})
    with pytest.raises(TasksFailedError, match="its process died 3 times"):
        carry_out(job, others, gpus=False)
    assert made(job) == ["00", "02"] and job.log().count("try 01") == 3


def test_a_full_disk_stops_it_and_loses_nothing(workers, tmp_path):
    job = Counting(tmp_path, 6, seconds=0.4, faults={"00": "disk", "03": "disk", "01": "disk"})
    with pytest.raises(OSError, match="No space left"):
        carry_out(job, workers, gpus=False)
    assert not (tmp_path / FOLDER).exists()
    mended = Counting(tmp_path, 6)
    carry_out(mended, workers, gpus=False)
    assert made(mended) == list(job.tasks)


def test_one_worker_that_stops_is_said_and_the_others_end_it(tmp_path):
    job = Counting(tmp_path, 6, seconds=0.2, faults={"00": "disk"})
    job._faults = Once(job._faults)
    with pytest.warns(StasWarning, match=r"A worker stopped: .*No space left"):
        carry_out(job, PROCESSES, gpus=False)
    assert made(job) == list(job.tasks)


class Once(dict):
    """A fault that is there once."""

    def get(self, task):
        mark = Path(os.environ["STAS_TEST_MARK"])
        if task in self and not mark.exists():
            mark.touch()
            return self[task]
        return None


@pytest.fixture(autouse=True)
def mark(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("STAS_TEST_MARK", str(tmp_path_factory.mktemp("mark") / "it"))


def test_what_can_not_be_made_is_refused_by_all(workers, tmp_path):
    with pytest.raises(ValueError, match="this can't be made"):
        carry_out(Counting(tmp_path, 3, opens="refuse"), workers, gpus=False)
    assert list(tmp_path.iterdir()) == []


def test_processes_that_die_before_they_make_anything(tmp_path):
    with pytest.raises(WorkerDiedError, match="SIGKILL"):
        carry_out(Counting(tmp_path, 3, opens="die"), PROCESSES, gpus=False)


def test_two_commands_share_one_folder(tmp_path):
    code = (
        "import sys; from pathlib import Path; from stas.workers.executors import *\n"
        "from tests.workers.counting import Counting\n"
        "carry_out(Counting(Path(sys.argv[1]), 12, seconds=0.3), Workers(), gpus=False)"
    )
    commands = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(2)]
    assert [command.wait() for command in commands] == [0, 0]
    job = Counting(tmp_path, 12)
    assert made(job) == list(job.tasks)
    assert len({(tmp_path / task).read_text() for task in job.tasks}) == 2


def test_workers_end_when_their_driver_is_killed(tmp_path):
    code = (
        "import sys; from pathlib import Path; from stas.workers.executors import *\n"
        "from tests.workers.counting import Counting\n"
        "carry_out(Counting(Path(sys.argv[1]), 50, seconds=0.5), Workers(2), gpus=False)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    leases = Leases(tmp_path, "a")
    deadline = time.monotonic() + 60
    while len(leases.working()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    while leases.working():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job = Counting(tmp_path, 50)
    before = made(job)
    carry_out(Counting(tmp_path, 50), PROCESSES, gpus=False)
    assert made(job) == list(job.tasks) and set(before) < set(job.tasks)


def test_an_interrupt_stops_the_workers_and_gives_their_leases_back(others, tmp_path):
    def stop(progress):
        if len(progress.working) == 2:
            raise KeyboardInterrupt

    job = Counting(tmp_path, 50, seconds=1)
    with pytest.raises(KeyboardInterrupt):
        carry_out(job, others, gpus=False, report=stop)
    deadline = time.monotonic() + 20
    while Leases(tmp_path, "a").working():  # Ray kills in its own time
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "Expected 1 worker or more, but got 0"),
        ({"count": None}, "Expected a number of workers"),
    ],
)
def test_workers_that_can_not_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Workers(**arguments)


def test_ray_without_ray(monkeypatch):
    monkeypatch.setattr(executors, "find_module", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'stas\[cluster\]'"):
        Workers(2, "auto")


def test_fewer_gpus_than_workers(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="2 workers need a GPU each, but there are 0"):
        carry_out(Counting(tmp_path, 3), PROCESSES, gpus=True)
    monkeypatch.setattr(executors, "visible_gpus", lambda: ["3"])
    with pytest.raises(ValueError, match="2 workers need a GPU each, but there is 1"):
        carry_out(Counting(tmp_path, 3), PROCESSES)


def test_each_process_has_a_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "visible_gpus", lambda: ["3", "5"])
    seen = []
    monkeypatch.setattr(
        executors, "_Process", lambda job, number, env: seen.append(env["CUDA_VISIBLE_DEVICES"])
    )
    found = executors.Processes(2, None)
    for number in range(2):
        found.start(Counting(tmp_path, 3), number)
    assert seen == ["3", "5"]


def test_a_cluster_of_other_devices_or_without_the_folder(ray, tmp_path, monkeypatch):
    from stas.workers import cluster

    with pytest.raises(ValueError, match="2 workers need a GPU each, but the Ray cluster has 0"):
        carry_out(Counting(tmp_path, 3), ray, gpus=True)
    with pytest.raises(ValueError, match="9 workers need a CPU each"):
        carry_out(Counting(tmp_path, 3), Workers(9, "auto"), gpus=False)
    monkeypatch.setattr(cluster, "_sees", blind)
    with pytest.raises(ValueError, match=r"is not seen on .* of the Ray cluster"):
        carry_out(Counting(tmp_path, 3), ray, gpus=False)
    assert list(tmp_path.iterdir()) == []


def blind(path):
    return False
