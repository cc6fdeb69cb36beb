"""The previews of a training as one picture that wraps: step after step, so many in a line as can be seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from .grid import comparison_grid

_WIDTH = 4096  # px: a line is as wide as this at most
FEWEST, MOST = 4, 8  # steps in a line, however wide they are


def preview_sheet(previews: Sequence[tuple[int, Sequence[Image.Image]]]) -> np.ndarray:
    """Draw the pictures of each step, one below the other, under "step N": uint8 [height, width, 3].

    previews: step and pictures, of one size and number. The lines are of nearly equal length.
    """
    across = columns_of(len(previews), previews[0][1][0].width)
    starts = range(0, len(previews), across)
    return _joined([_line(previews[start : start + across]) for start in starts])


def columns_of(count: int, width: int) -> int:
    """How many steps with pictures of that width stand in a line."""
    most = max(FEWEST, min(MOST, _WIDTH // width))
    lines = -(-count // most)
    return -(-count // lines)


def _line(previews: Sequence[tuple[int, Sequence[Image.Image]]]) -> np.ndarray:
    """One line of steps."""
    rows = list(zip(*(pictures for _, pictures in previews), strict=True))
    return comparison_grid(rows, column_labels=[f"step {step}" for step, _ in previews])


def _joined(lines: Sequence[np.ndarray]) -> np.ndarray:
    """The lines below each other, the last one filled with white at its right."""
    width = max(line.shape[1] for line in lines)
    return np.concatenate(
        [np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0)), constant_values=255) for line in lines]
    )
