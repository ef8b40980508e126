"""One way from a matplotlib figure to PNG bytes, and the colours every picture shares."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PLAN_COLOURS = {
    "human": "#2a9d4a",
    "constant_velocity": "#8d8d8d",
    "ego_status_mlp": "#b07aa1",
    "transfuser": "#4e79a7",
    "transfuser_latent": "#1f4e9c",
    "transfuser_student": "#76b7e5",
    "ipad": "#f28e2b",
    "ipad_latent": "#d1495b",
    "ipad_student": "#ff9da7",
}
INK = "#222222"


def colour_of(name: str) -> str:
    """Colour of a planner, the same in every picture."""
    return PLAN_COLOURS.get(name, "#111111")


class Sheet:
    """A figure that becomes PNG bytes when the `with` block ends."""

    def __init__(self, figure: Any) -> None:
        self.figure = figure
        self.png = b""

    def close(self, dpi: int) -> None:
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        self.png = buffer.getvalue()


@contextmanager
def sheet(width_in: float, height_in: float, dpi: int = 100) -> Iterator[Sheet]:
    """An empty figure without a window system; `sheet.png` is there after the block."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    page = Sheet(figure)
    yield page
    page.close(dpi)
