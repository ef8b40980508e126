"""One way from a matplotlib figure to PNG bytes, and the colours every picture shares."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PLAN_COLOURS = {
    "human": "#2a9d4a",
    "constant_velocity": "#8d8d8d",
    "ego_status_mlp": "#9c755f",
    "transfuser": "#4e79a7",
    "transfuser_latent": "#1f4e9c",
    "transfuser_student": "#76b7e5",
    "ipad": "#f28e2b",
    "ipad_latent": "#d1495b",
    "ipad_student": "#ff9da7",
    "flow": "#8a4fbf",
    "flow_latent": "#5b2a91",
    "flow_student": "#b993e0",
}
SPARE_COLOURS = ("#0f8b8d", "#b5446e", "#5a7d2a", "#c2703d", "#3d6fb6", "#7a6a00")
"""Of planners that nobody gave a colour."""
INK = "#222222"


def colour_of(name: str) -> str:
    """Colour of a planner, the same in every picture."""
    spare = SPARE_COLOURS[zlib.crc32(name.encode()) % len(SPARE_COLOURS)]
    return PLAN_COLOURS.get(name, spare)


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
