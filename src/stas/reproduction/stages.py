"""All stages of a reproduction, in the order in which they are done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from stas.reproduction.benchmarks import CompBenchStage, VBenchStage
from stas.reproduction.measured import AblationStage, ComparisonStage, InterventionStage
from stas.reproduction.overhead import OverheadStage
from stas.reproduction.plan import Reproduction
from stas.reproduction.rating import RatingStage
from stas.reproduction.record import RecordStage
from stas.reproduction.stage import Stage

STAGES: Mapping[str, type[Stage]] = {
    each.name: each
    for each in (
        RecordStage,
        InterventionStage,
        ComparisonStage,
        AblationStage,
        OverheadStage,
        VBenchStage,
        CompBenchStage,
        RatingStage,
    )
}


def make_stages(plan: Reproduction, folder: Path) -> list[Stage]:
    """Every stage of every model of a reproduction, in the order in which they are done.

    Args:
        plan: The reproduction.
        folder: Where its files are; each model has a folder in it.

    Raises:
        ValueError: A stage is given what it doesn't know, or a value that it can't have.
    """
    stages = []
    for model in plan.models:
        for name, options in plan.stages.items():
            stage = STAGES[name]
            own = {each.name for each in fields(stage)} - {each.name for each in fields(Stage)}
            if unknown := sorted(set(options) - own):
                raise ValueError(
                    f"stages.{name}: unknown keys {', '.join(map(repr, unknown))}. Known: "
                    f"{', '.join(sorted(own)) or 'none'}."
                )
            stages.append(stage(plan=plan, model=model, home=folder / model.slug, **options))
    return stages
