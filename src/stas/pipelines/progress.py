"""A pipeline's progress bar, told to somebody else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class _StepReporter:
    """Stands in for the tqdm bar that a pipeline drives."""

    def __init__(
        self, report: Callable[[int, int], None], iterable: Iterable[Any] | None, total: int | None
    ) -> None:
        self._report, self._items = report, iterable
        if total is None:
            total = len(iterable) if isinstance(iterable, Sequence) else 0
        self._done, self._total = 0, total
        report(0, total)

    def update(self, n: int = 1) -> None:
        self._done += n
        self._report(self._done, self._total)

    def __iter__(self) -> Iterator[Any]:
        for item in self._items or ():
            yield item
            self.update()

    def __enter__(self) -> _StepReporter:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass


@contextmanager
def progress_to(pipeline: Any, report: Callable[[int, int], None]) -> Iterator[None]:
    """Send a pipeline's progress to `report`: pipelines drive `self.progress_bar`.

    AnyFlow FAR alone drives tqdm itself: it shows nothing and reports nothing.
    """

    def progress_bar(
        iterable: Iterable[Any] | None = None, total: int | None = None
    ) -> _StepReporter:
        return _StepReporter(report, iterable, total)

    settings = getattr(pipeline, "_progress_bar_config", {})
    pipeline.progress_bar, pipeline._progress_bar_config = progress_bar, {"disable": True}
    try:
        yield
    finally:
        del pipeline.progress_bar
        pipeline._progress_bar_config = settings
