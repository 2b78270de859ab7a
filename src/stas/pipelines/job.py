"""Work with a pipeline for any number of processes, each of which loads it once."""

from __future__ import annotations

import torch

from stas.files import made_folder
from stas.pipelines.load import load_pipeline
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.options import PipelineOptions
from stas.workers import executors
from stas.workers.executors import Workers
from stas.workers.job import Job, Report


class PipelineJob(Job):
    """A job whose tasks a pipeline makes.

    Args:
        loaded: The pipeline; or how to load it, as processes other than this one must.
        batch: How many videos it makes in one call.
    """

    def __init__(self, loaded: LoadedPipeline | PipelineOptions, batch: int = 1) -> None:
        if batch < 1:
            raise ValueError(f"Expected a batch of 1 video or more, but got {batch}.")
        self.given, self.batch = loaded, batch
        self.threads: int | None = None  # of torch in a worker; None for as many as it takes

    def open(self) -> None:
        if isinstance(self.given, LoadedPipeline):
            self.loaded = self.given
        else:
            if self.threads is not None:
                torch.set_num_threads(self.threads)
            self.loaded = load_pipeline(self.given)
        self.loaded.check_batch(self.batch)

    @property
    def options(self) -> PipelineOptions:
        """How the pipeline is loaded."""
        return options_of(self.given)


def options_of(loaded: LoadedPipeline | PipelineOptions) -> PipelineOptions:
    """How a pipeline is loaded, or was."""
    return loaded.options if isinstance(loaded, LoadedPipeline) else loaded


def carry_out(job: PipelineJob, workers: Workers, report: Report | None = None) -> None:
    """Have a job done; a folder that is made for it and stays empty goes again.

    Args:
        job: What is to be made.
        workers: How many processes, and where.
        report: Called with how far all is.

    Raises:
        TypeError: Several workers, and a pipeline that is loaded already.
        ValueError: Several workers, and the number of a GPU.
        Exception: What `stas.workers.executors.carry_out` raises.
    """
    kind, _, number = job.options.device.partition(":")
    if not workers.here and isinstance(job.given, LoadedPipeline):
        raise TypeError(
            "Workers are processes of their own, which load the pipeline themselves: give the "
            "model's name or PipelineOptions, and not a LoadedPipeline."
        )
    if not workers.here and number:
        raise ValueError(f"Each worker has a GPU of its own: give {kind!r}, and no number.")
    job.threads, threads = workers.threads, torch.get_num_threads()
    with made_folder(job.folder):
        try:
            executors.carry_out(job, workers, gpus=job.options.wants_gpu, report=report)
        finally:
            torch.set_num_threads(threads)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory was short, on the CPU or the GPU, so that another try may succeed."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError)
