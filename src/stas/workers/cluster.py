"""Workers in a Ray cluster: an actor for each GPU, in which the pipeline is loaded once."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

from stas.workers.executors import Worker, WorkerDiedError, worker_name
from stas.workers.job import Job, work
from stas.workers.leases import Leases


class RayCluster:
    """Starts workers as Ray actors.

    Args:
        count: How many; None for one on each GPU, or each CPU where the cluster has no GPU.
        address: Of the cluster; "auto" for the one of this machine, "local" for a new one.
        gpus: As of `stas.workers.executors.carry_out`.
        folder: The job's, which all nodes must see under the same path.

    Raises:
        ConnectionError: No cluster is there.
        ValueError: It has fewer GPUs than workers, or a node does not see the folder.
    """

    def __init__(self, count: int | None, address: str, gpus: bool | None, folder: Path) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray: Any = import_module("ray")  # which is typed in part
        self._ray, self._ours = ray, not ray.is_initialized()
        if self._ours:
            options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
            if address == "local":
                options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
                options |= {} if count is None else {"num_cpus": count}
            ray.init(address=address, **options)
        try:
            resources = ray.cluster_resources()
            present = int(resources.get("GPU", 0))
            self._kind = "GPU" if gpus or (gpus is None and present) else "CPU"
            able = int(resources.get(self._kind, 0))
            self.count = able if count is None else count
            if not 0 < self.count <= able:
                raise ValueError(
                    f"{self.count} workers need a {self._kind} each, but the Ray cluster has "
                    f"{able}."
                )
            self._check_folder(folder)
        except BaseException:
            self.close()
            raise

    def _check_folder(self, folder: Path) -> None:
        """See that all nodes see the folder."""
        token = folder / f".seen-{uuid4().hex}"
        token.touch()
        try:
            ray = self._ray
            module = import_module("ray.util.scheduling_strategies")
            strategy = module.NodeAffinitySchedulingStrategy
            sees = ray.remote(num_cpus=0)(_sees)
            nodes = [node for node in ray.nodes() if node["Alive"]]
            asked = [
                sees.options(scheduling_strategy=strategy(node["NodeID"], soft=False)).remote(token)
                for node in nodes
            ]
            seen = zip(nodes, ray.get(asked), strict=True)
            if blind := [node["NodeManagerHostname"] for node, found in seen if not found]:
                raise ValueError(
                    f"The folder {str(folder)!r} is not seen on {', '.join(blind)} of the Ray "
                    "cluster. Give one that all its nodes share, under the same path."
                )
        finally:
            token.unlink()

    def start(self, job: Job, number: int) -> Worker:
        # Ray's own restarts answer every call with an error until an actor is up again.
        options: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0, "num_cpus": 0}
        options |= {"num_gpus": 1} if self._kind == "GPU" else {"num_cpus": 1}
        actor = self._ray.remote(_Actor).options(scheduling_strategy="SPREAD", **options).remote()
        return _RayWorker(self._ray, actor, actor.work.remote(job, number))

    def close(self) -> None:
        if self._ours:
            self._ray.shutdown()


class _Actor:
    def work(self, job: Job, number: int) -> None:
        work(job, Leases(job.folder, worker_name(number)), first=number)


def _sees(path: Path) -> bool:
    return path.exists()


class _RayWorker:
    def __init__(self, ray: Any, actor: Any, result: Any) -> None:
        self._ray, self._actor, self._result = ray, actor, result

    def is_working(self) -> bool:
        ready, _ = self._ray.wait([self._result], timeout=0)
        if not ready:
            return True
        try:
            self._ray.get(self._result)
        except self._ray.exceptions.RayActorError as error:
            first = str(error).partition("\n")[0]
            raise WorkerDiedError(f"A worker's process ended: {first}") from None
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        self.stop()  # an actor keeps its GPU until it is told
        return False

    def stop(self) -> None:
        self._ray.kill(self._actor)
