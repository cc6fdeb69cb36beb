"""matplotlib without its global state: what is drawn here changes no settings of others, and needs no display."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..scoring.packages import needed_by

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import FigureCanvasAgg


def white_canvas(what: str, size: tuple[float, float], **options: Any) -> FigureCanvasAgg:
    """A canvas with a white figure. size: in inches. options: of matplotlib's Figure.

    Raises MissingPackage that names what is drawn where matplotlib is not installed.
    """
    with needed_by(what):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    return FigureCanvasAgg(Figure(figsize=size, facecolor="white", **options))


def pixels(canvas: FigureCanvasAgg) -> np.ndarray:
    """The pixels of what is drawn: uint8 [height, width, 3]."""
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
