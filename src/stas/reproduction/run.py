"""Carrying out a reproduction: its stages, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from stas.reproduction.crew import Crew
from stas.reproduction.page import Failures, write_reproduction
from stas.reproduction.plan import Reproduction
from stas.reproduction.stage import Stage
from stas.reproduction.stages import make_stages
from stas.workers.job import Report

Begin = Callable[[Stage], AbstractContextManager[Report | None]]


def choose_stages(plan: Reproduction, folder: Path, only: Collection[str] = ()) -> list[Stage]:
    """The stages that are to be done.

    Args:
        plan: The reproduction.
        folder: Where its files are.
        only: Names of stages; all of the reproduction by default.

    Raises:
        ValueError: The reproduction has no such stage.
    """
    if unknown := sorted(set(only) - set(plan.stages)):
        raise ValueError(
            f"The reproduction has no stage {unknown[0]!r}. It has {', '.join(plan.stages)}."
        )
    return [each for each in make_stages(plan, folder) if not only or each.name in only]


def reproduce(
    plan: Reproduction,
    folder: Path,
    *,
    crew: Crew | None = None,
    only: Collection[str] = (),
    begin: Begin = lambda _: nullcontext(None),
    left_out: Callable[[Stage, str], None] = lambda *_: None,
) -> Failures:
    """Carry out a reproduction, or go on with it, and write its page: `stas reproduce` as a call.

    A stage that fails or lacks something doesn't stop the others. After each the page is written.

    Args:
        plan: What `load_reproduction` read.
        folder: Where its files go.
        crew: Who carries it out.
        only: Names of stages; all by default.
        begin: Called with each stage; within what it returns the stage is carried out, and told is
            how far it is.
        left_out: Called with a stage that lacks something, and what, in words.

    Returns:
        By model and stage, why it failed, in words.

    Raises:
        ValueError: The reproduction has no such stage.
    """
    crew, failures = crew or Crew(), Failures()
    for stage in choose_stages(plan, folder, only):
        try:
            if lacks := stage.waits_for() or stage.lacks():
                left_out(stage, lacks)
                continue
            with begin(stage) as report:
                stage.carry_out(crew, report)
        except Exception as error:  # whatever a model or a benchmark raises
            failures[stage.key] = f"{type(error).__name__}: {error}"
        finally:
            write_reproduction(plan, folder, failures)
    return failures
