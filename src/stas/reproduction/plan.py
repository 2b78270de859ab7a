"""What a reproduction is: models, stages, and what the paper says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stas.checks import DType, check_arguments, expect
from stas.pipelines.options import PipelineOptions


@dataclass(frozen=True, kw_only=True)
class ReproducedModel:
    """A model and how it samples.

    Args:
        name: What the page calls it.
        model: "bundled", a folder or a hub id.
        revision: Branch, tag or commit of a hub id.
        dtype: See `stas.pipelines.options.PipelineOptions`.
        fps: Of the videos; the model's own by default.
        arguments: Of the pipeline's call.
        scheduler: What its scheduler's config must say, such as `flow_shift`: a checkpoint with
            another value is refused.
        sources: By name of an argument or of a value of the scheduler, where it is from; those that
            are not named are [our choice].
        seconds: By name of a GPU, how long one video takes there.
    """

    name: str
    model: str
    revision: str | None = None
    dtype: DType = "auto"
    fps: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("name", "model"):
            value = getattr(self, name)
            expect(isinstance(value, str) and value.strip() != "", f"{name} must be a text")
        for name in ("arguments", "scheduler", "sources", "seconds"):
            value = getattr(self, name)
            expect(isinstance(value, Mapping), f"{name} must be a table, but got {value!r}")
        check_arguments(self.arguments)
        expect("prompt" not in self.arguments, "prompts stand in prompts, not in arguments")
        known = {*self.arguments, *self.scheduler}
        if unknown := sorted(set(self.sources) - known):
            raise ValueError(f"sources names {unknown[0]!r}, which is no argument of {self.name}")
        for gpu, seconds in self.seconds.items():
            fits = isinstance(seconds, int | float) and seconds > 0
            expect(fits, f"seconds of {gpu} must be a number above 0, but got {seconds!r}")

    @property
    def slug(self) -> str:
        """The name of its folder."""
        return "".join(c if c.isalnum() or c in ".-" else "-" for c in self.name).lower()

    def options(self, **changes: Any) -> PipelineOptions:
        """How it is loaded."""
        return PipelineOptions(
            model=self.model, revision=self.revision, dtype=self.dtype, **changes
        )

    def settings(self) -> list[tuple[str, Any, str]]:
        """Every argument and value of the scheduler: its name, its value, where it is from."""
        return [
            (name, value, self.sources.get(name, "[our choice]"))
            for name, value in {**self.arguments, **self.scheduler}.items()
        ]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A finding of the paper.

    Args:
        model: Name of the model.
        finding: What was found, by the name that our own has.
        value: In words or as a number in text.
        source: Where it is from.
    """

    model: str
    finding: str
    value: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Stages of an evaluation on some models, and what the paper says of them.

    Made by `load_reproduction`.

    Args:
        title: Of the page.
        models: With different names.
        prompts: Of all stages but the benchmarks, which have their own.
        prompt_file: Name and SHA-256 of their list; None when the file holds them itself.
        seed: Of the first video of each stage.
        steering: Fields of STASConfig that "stas" has; `dims` are those that are recorded.
        stages: By name, what a stage is given.
        paper: What the paper says.
        quick: Whether it is the small form of itself.
    """

    title: str
    models: Sequence[ReproducedModel]
    prompts: Sequence[str]
    prompt_file: Mapping[str, Any] | None
    seed: int
    steering: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, Any]]
    paper: Sequence[Statement]
    quick: bool

    def statements(self, model: str) -> dict[str, Statement]:
        """By finding, what the paper says of a model."""
        return {each.finding: each for each in self.paper if each.model == model}
