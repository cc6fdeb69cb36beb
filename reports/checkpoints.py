"""The grid of a training's checkpoints: rows down, prompts and seeds across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from ..scoring.pictures import ChosenPictures
from ..scoring.scores import Scores
from .arrangement import compared, row_scores
from .grid import comparison_grid


def checkpoint_grid(
    pictures: Sequence[Sequence[Image.Image]],
    names: Sequence[str],
    marks: Sequence[str],
    scores: Scores,
    prompts: Sequence[str],
    seeds: Sequence[int],
    photos: Sequence[Image.Image],
    first_seed_only: bool = False,
) -> np.ndarray:
    """The grid, uint8 [H, W, 3]. pictures: of each row, all seeds of the first prompt, then of the next one.

    names: the rows' labels among the scores. marks: a word behind each name, such as "recommended"; may be empty.
    """
    count = len(prompts) * len(seeds)
    places = [place for place in range(count) if not first_seed_only or place % len(seeds) == 0]
    cells = [(prompt, seed) for prompt in prompts for seed in seeds]
    titles = [
        f"{cells[place][0]}, seed {cells[place][1]}" if len(seeds) > 1 and not first_seed_only else cells[place][0]
        for place in places
    ]
    measured = [
        row_scores(replace(scores, rows=tuple(one for one in scores.rows if one.label == name)), count)
        for name in names
    ]
    base = [part.base for part in measured]
    each = [[part.each[place] if part.each else () for place in places] for part in measured]
    return comparison_grid(
        [ChosenPictures(own, places) for own in pictures],
        [f"{name} ({mark})" if mark else name for name, mark in zip(names, marks, strict=True)],
        titles,
        [line[0] for line in compared([[part.means] for part in measured], base)],
        photos,
        cell_scores=compared(each, base),
    )
