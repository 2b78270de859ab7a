"""The kind of figure that all plots are."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

WIDTH = 8.0  # inches
DPI = 200  # 1600 pixels: sharp where a page shows 800 of a screen's own


class Picture(Figure):
    """A figure without pyplot, 1600 pixels wide, with ticks at round numbers.

    A notebook shows it all the same.

    Args:
        height: In inches.
    """

    def __init__(self, height: float = 4.2) -> None:
        super().__init__(figsize=(WIDTH, height), dpi=DPI, layout="constrained")

    def draw(self, renderer: Any) -> None:
        for axes in self.axes:
            for axis in (axes.xaxis, axes.yaxis):
                locator = axis.get_major_locator()
                if isinstance(locator, MaxNLocator):
                    locator.set_params(steps=[1, 2, 5, 10])  # not 2.5
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()
