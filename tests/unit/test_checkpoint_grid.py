"""The grid of a training's checkpoints: which row is marked, which columns there are."""

from __future__ import annotations

import numpy as np
from PIL import Image

from deft_pack.reports.checkpoints import checkpoint_grid
from deft_pack.scoring.scores import Score, Scores

NAMES, PROMPTS, SEEDS = ["base", "step 10", "step 20"], ["a red one", "a blue one"], [3, 4]


def grid(marks: list[str], first_seed_only: bool = False) -> np.ndarray:
    """A grid of pictures of one colour each."""
    pictures = [
        [Image.new("RGB", (32, 32), (60 * row, 60 * place, 0)) for place in range(4)] for row, _ in enumerate(NAMES)
    ]
    texts = tuple(prompt for prompt in PROMPTS for _ in SEEDS)
    scores = Scores(
        tuple(
            Score(
                "DINO",
                (0.1, 0.2, 0.3, 0.4),
                name,
                "",
                4,
                1,
                "demo",
                "all",
                1.0,
                "DINO",
                "",
                texts,
                tuple(f"{name} {place}" for place in range(4)),
            )
            for name in NAMES
        )
    )
    return checkpoint_grid(pictures, NAMES, marks, scores, PROMPTS, SEEDS, pictures[0][:1], first_seed_only)


def test_a_mark_stands_in_its_row_alone() -> None:
    plain = grid(["", "", ""])
    marked = grid(["", "recommended", ""])
    assert plain.dtype == np.uint8
    # The labels' column may be wider for the mark: the rows are compared from the right, where the pictures are.
    width = min(plain.shape[1], marked.shape[1])
    assert plain.shape[0] == marked.shape[0]
    same = (plain[:, -width // 2 :] == marked[:, -width // 2 :]).all(axis=(1, 2))
    assert same.all()
    other = grid(["", "", "recommended"])
    assert marked.shape == other.shape
    rows = np.flatnonzero((marked != other).any(axis=(1, 2)))
    assert len(rows)
    top, bottom = rows.min(), rows.max()
    assert bottom - top < 0.9 * marked.shape[0]  # the base's row is not among them
    assert top > marked.shape[0] / 4


def test_columns() -> None:
    """All prompts and seeds, or of each prompt the first seed."""
    whole, first = grid(["", "", ""]), grid(["", "", ""], first_seed_only=True)
    for place, there in enumerate((True, False, True, False)):
        colour = np.array([120, 60 * place, 0])
        assert (whole == colour).all(axis=2).any()
        assert (first == colour).all(axis=2).any() == there
