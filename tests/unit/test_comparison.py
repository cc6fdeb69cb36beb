"""The comparison grid."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFont

from deft_pack.scoring.grid import comparison_grid, wrap


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour)


RED, BLUE, GREEN, YELLOW = (200, 0, 0), (0, 0, 200), (0, 200, 0), (200, 200, 0)


def area(grid: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((grid == np.array(colour)).all(axis=2).sum())


def test_small_pictures_are_enlarged_by_a_whole_factor():
    grid = comparison_grid([[flat(RED), flat(BLUE)]])
    assert area(grid, RED) == area(grid, BLUE) == 192 * 192
    assert area(comparison_grid([[flat(RED, (160, 200))]]), RED) == 160 * 200


def test_rows_and_columns_are_where_they_belong():
    grid = comparison_grid([[flat(RED), flat(BLUE)], [flat(GREEN), flat(YELLOW)]], ["base", "DEFT r4"], ["a", "b"])

    def centre(colour: tuple[int, int, int]) -> np.ndarray:
        return np.argwhere((grid == np.array(colour)).all(axis=2)).mean(axis=0)

    assert centre(RED)[0] == centre(BLUE)[0] < centre(GREEN)[0] == centre(YELLOW)[0]
    assert centre(RED)[1] == centre(GREEN)[1] < centre(BLUE)[1] == centre(YELLOW)[1]


def test_labels_notes_and_subject_take_room_and_show():
    rows = [[flat(RED)], [flat(BLUE)]]
    plain = comparison_grid(rows)
    labelled = comparison_grid(rows, ["base", "DEFT"], ["a red cat"], ["DINO 0.300", "DINO 0.700"],
                               [flat(GREEN), flat(YELLOW), flat(GREEN, (20, 90))])
    assert labelled.shape[0] > plain.shape[0] and labelled.shape[1] > plain.shape[1] + 192
    assert area(labelled, RED) == 192 * 192
    assert area(labelled, GREEN) > 0 and area(labelled, YELLOW) > 0
    noteless = comparison_grid(rows, ["base", "DEFT"], ["a red cat"], (),
                               [flat(GREEN), flat(YELLOW), flat(GREEN, (20, 90))])
    assert not np.array_equal(noteless, labelled)


def test_sizes_must_agree_unless_fit():
    rows = [[flat(RED), flat(BLUE, (64, 32))]]
    with pytest.raises(ValueError, match=r"different sizes \(64 x 64 and 64 x 32\)"):
        comparison_grid(rows)
    assert area(comparison_grid(rows, fit=True), BLUE) == 192 * 96


def test_counts_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="row 2 has 1 pictures, row 1 has 2"):
        comparison_grid([[flat(RED), flat(RED)], [flat(RED)]])
    with pytest.raises(ValueError, match="3 row labels for 1 rows"):
        comparison_grid([[flat(RED)]], ["a", "b", "c"])
    with pytest.raises(ValueError, match="2 column labels for 1 columns"):
        comparison_grid([[flat(RED)]], (), ["a", "b"])
    with pytest.raises(ValueError, match="no pictures"):
        comparison_grid([])


def test_wrap_keeps_lines_inside_the_width():
    font = ImageFont.load_default(14)
    text = "a teddy bear wearing an extraordinarilylongwordthatdoesnotfit on a purple background in the evening light"
    lines = wrap(text, font, 120)
    assert len(lines) == 4 and all(font.getlength(line) <= 120 for line in lines)
    assert lines[-1].endswith("...") and wrap("short", font, 120) == ["short"] and wrap("", font, 9) == []
