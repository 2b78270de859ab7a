"""Who carries out stages: pipelines, loaded as a reproduction says, and how many processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from diffusers import UniPCMultistepScheduler

from stas.assets import BUNDLED, BUNDLED_MODEL
from stas.measures.measure import Measures
from stas.pipelines.load import load_pipeline
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.options import PipelineOptions
from stas.reproduction.plan import ReproducedModel
from stas.studies.run import Run, carry_out
from stas.workers.executors import HERE, Workers
from stas.workers.job import Report


@dataclass
class Crew:
    """Who carries out stages: where pipelines are loaded, and how many processes there are.

    Args:
        device: See `stas.pipelines.options.PipelineOptions`.
        offload: See there.
        workers: How many processes make videos, and where.
        batch: How many samples are made in one call of the pipeline.
        loader: What loads a pipeline in this process.
    """

    device: str = "auto"
    offload: Any = "none"
    workers: Workers = HERE
    batch: int = 1
    loader: Callable[[PipelineOptions], LoadedPipeline] = load_pipeline
    _loaded: tuple[PipelineOptions, LoadedPipeline] | None = field(default=None, repr=False)

    def pipeline(self, model: ReproducedModel) -> LoadedPipeline | PipelineOptions:
        """A model's pipeline for this process; how to load it, where workers do.

        Raises:
            ValueError: Its scheduler is not the one that the reproduction names.
        """
        if self.workers.here:
            return self.load(model)
        check_scheduler(model)
        return self._options(model)

    def load(self, model: ReproducedModel) -> LoadedPipeline:
        """A model's pipeline in this process, which keeps the last one."""
        check_scheduler(model)
        options = self._options(model)
        if self._loaded is None or self._loaded[0] != options:
            self._loaded = None  # before the next one is there
            self._loaded = options, self.loader(options)
        return self._loaded[1]

    def carry_out(
        self, run: Run, model: ReproducedModel, measures: Measures, report: Report | None
    ) -> None:
        """Make what is left of a run's videos; nothing is loaded where nothing is."""
        if run.left:
            carry_out(
                run,
                self.pipeline(model),
                measures,
                workers=self.workers,
                batch=self.batch,
                report=report,
            )

    def _options(self, model: ReproducedModel) -> PipelineOptions:
        return model.options(device=self.device, offload=self.offload).resolved()


def check_scheduler(model: ReproducedModel) -> None:
    """See that a checkpoint's scheduler is as a reproduction says.

    Raises:
        ValueError: A value of its config is another.
        OSError: It can't be read.
    """
    if not model.scheduler:
        return
    where = str(BUNDLED_MODEL) if model.model == BUNDLED else model.model
    # Any scheduler's class reads the config of any other.
    config = UniPCMultistepScheduler.load_config(
        where, subfolder="scheduler", revision=model.revision
    )
    for name, wanted in model.scheduler.items():
        if (found := config.get(name)) != wanted:
            raise ValueError(
                f"The scheduler of {model.model} has {name} = {found!r}, and the reproduction of "
                f"{model.name} is with {wanted!r}: change the checkpoint's scheduler_config.json, "
                "or what the file says."
            )
