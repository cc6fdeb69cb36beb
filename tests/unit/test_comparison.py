"""The comparison grid, its pictures that are made when they are drawn, and what it takes from scores."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from deft_pack.reports.arrangement import Placed, Printed, RowScores, columns_of, compared, printed, row_scores
from deft_pack.reports.grid import BARS, BEST, LABEL_WIDTH, PALE, SMALLEST, GridScore, comparison_grid
from deft_pack.reports.letters import Lettering
from deft_pack.reports.sheet import preview_sheet
from deft_pack.scoring.pictures import TensorPictures, to_pictures
from deft_pack.scoring.scores import Score, Scores


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour)


RED, BLUE, GREEN, YELLOW = (200, 0, 0), (0, 0, 200), (0, 200, 0), (200, 200, 0)


def area(grid: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((grid == np.array(colour)).all(axis=2).sum())


def box(grid: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of what has a colour; the last two are the first ones outside."""
    places = np.argwhere((grid == np.array(colour)).all(axis=2))
    return *map(int, places.min(axis=0)), *map(int, places.max(axis=0) + 1)  # type: ignore[return-value]


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
    labelled = comparison_grid(
        rows,
        ["base", "DEFT"],
        ["a red cat"],
        [[GridScore("DINO", "0.300")], [GridScore("DINO", "0.700")]],
        [flat(GREEN), flat(YELLOW), flat(GREEN, (20, 90))],
    )
    assert labelled.shape[0] > plain.shape[0]
    assert labelled.shape[1] > plain.shape[1] + 192
    assert area(labelled, RED) == 192 * 192
    assert area(labelled, GREEN) > 0
    assert area(labelled, YELLOW) > 0
    noteless = comparison_grid(
        rows, ["base", "DEFT"], ["a red cat"], (), [flat(GREEN), flat(YELLOW), flat(GREEN, (20, 90))]
    )
    assert not np.array_equal(noteless, labelled)


def test_sizes_must_agree_unless_fit():
    rows = [[flat(RED), flat(BLUE, (64, 32))]]
    with pytest.raises(ValueError, match=r"different sizes \(64 x 64 and 64 x 32\)"):
        comparison_grid(rows)
    assert area(comparison_grid(rows, fit=True), BLUE) == 192 * 96


def test_counts_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="1 row labels for 2 rows"):
        comparison_grid([[flat(RED)], [flat(BLUE)]], ["a"])
    with pytest.raises(ValueError, match="2 column labels for 3 columns"):
        comparison_grid([[flat(RED)], [flat(RED)] * 3], (), ["a", "b"])
    for nothing in ([], [[]], [[None, None]]):
        with pytest.raises(ValueError, match="no pictures"):
            comparison_grid(nothing, ["a"], ["b", "c"])


def test_what_is_missing_is_crossed_out_in_the_size_of_a_cell():
    grid = comparison_grid([[flat(RED), None, flat(BLUE)], [flat(GREEN)]])
    top, left, bottom, right = box(grid, GREEN)
    step = box(grid, BLUE)[1] - box(grid, RED)[1]
    second, third = (grid[top:bottom, left + i * step // 2 : right + i * step // 2] for i in (1, 2))
    assert np.array_equal(second, third)
    assert np.array_equal(second, grid[box(grid, RED)[0] : box(grid, RED)[2], left + step // 2 : right + step // 2])
    assert 0.8 * second.size / 3 < area(second, PALE) < second.size / 3
    assert (second[0] != 255).all()
    assert (second[:, -1] != 255).all()  # to its edges
    assert (second.min(axis=2) < 128).sum() > 30  # the word


def test_labels_without_pictures_are_missing_rows_and_columns():
    rows = [[flat(RED), flat(BLUE)]]
    plain = comparison_grid(rows, ["a"], ["x", "y"])
    more = comparison_grid(rows, ["a", "a", "a"], ["x", "y", "z"])
    assert more.shape[0] - plain.shape[0] == 2 * 202
    assert more.shape[1] - plain.shape[1] == 202
    assert area(more, PALE) > 7 * 0.8 * 192 * 192
    assert area(more, RED) == area(more, BLUE) == 192 * 192


def longest(picture: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int]:
    """Start and length of the longest level stroke of a colour."""
    strokes = []
    for line in (picture == np.array(colour)).all(axis=2).astype(int):
        edges = np.flatnonzero(np.diff(np.pad(line, 1)))
        strokes += [(int(end - start), int(start)) for start, end in zip(edges[::2], edges[1::2])]
    length, start = max(strokes)
    return start, length


def test_scores_stand_under_their_own_picture():
    rows = [[flat(RED), flat(BLUE)], [flat(GREEN), flat(YELLOW)]]
    scores = [GridScore("CLIP-I", "0.812", 1.0, best=True), GridScore("DINO", "0.640", 0.5)]
    plain, drawn = comparison_grid(rows), comparison_grid(rows, cell_scores=[[[], scores]])
    assert drawn.shape[1] == plain.shape[1]
    assert np.array_equal(box(drawn, RED), box(plain, RED))
    _, left, bottom, right = box(drawn, BLUE)
    below = drawn[bottom : box(drawn, YELLOW)[0]]
    dark = np.argwhere(below.min(axis=2) < 200)
    assert left <= dark[:, 1].min()
    assert dark[:, 1].max() < right
    # A line each: the best's bar and number are green and over the other, whose bar is half as long.
    assert box(below, BEST)[2] <= box(below, BARS)[0]
    (first, length), (second, half) = longest(below, BEST), longest(below, BARS)
    assert first == second  # the bars begin below each other
    assert abs(half / length - 0.5) < 0.03


def test_the_best_of_a_column_is_marked_and_the_base_is_none():
    def cell(**values: float) -> tuple[Printed, ...]:
        return tuple(Printed(name.replace("_", "-"), name.replace("_", "-"), value) for name, value in values.items())

    rows = [
        [cell(CLIP_T=0.4, drift=0.0), cell(CLIP_T=0.4)],
        [cell(CLIP_T=0.3, drift=0.2), cell(CLIP_T=0.1)],
        [cell(CLIP_T=0.2, drift=0.1), cell()],
        [cell(CLIP_T=0.3), cell()],
    ]
    marks = [[[score.best for score in cell] for cell in row] for row in compared(rows, [True, False, False, False])]
    assert marks == [
        [[False, False], [False]],  # the base, though it follows the prompt best
        [[True, False], [False]],  # and one row alone has no best
        [[False, True], []],  # of drift the lowest
        [[True], []],  # as good as the other
    ]
    shares = [score.share for row in compared(rows, [False] * 4) for cell in row for score in cell]
    assert shares == pytest.approx([1, 0, 1, 0.75, 1, 0.25, 0.5, 0.5, 0.75])
    assert [score.best for score in compared(rows, [False] * 4)[0][0]] == [True, True]


def test_a_score_that_a_report_has_as_text_is_read_back():
    scored_row = row_scores(Scores((CLIP_I, replace(CLIP_I, protocol="dreambooth", values=(50.0, 70.0)))), 2)
    assert [(score.name, score.metric, score.value) for score in printed(scored_row.note.splitlines())] == [
        ("CLIP-I (demo)", "CLIP-I", 0.625),
        ("CLIP-I (dreambooth)", "CLIP-I", 60.0),
    ]
    assert printed(["no score", ""]) == ()


def test_the_subject_s_pictures_fill_the_height():
    for count in (2, 3, 4, 6, 9):
        subject = [flat((0, 100 + 5 * i, 250)) for i in range(count)]
        grid = comparison_grid([[flat(RED)]] * 4, ["a"] * 4, subject=subject)
        boxes = [box(grid, (0, 100 + 5 * i, 250)) for i in range(count)]
        top, bottom = min(one[0] for one in boxes), max(one[2] for one in boxes)
        rows = np.flatnonzero((grid == RED).all(axis=2).any(axis=1))
        across = len({one[1] for one in boxes})
        side = boxes[0][2] - boxes[0][0]
        # To the bottom, or as large as they may be.
        assert bottom - top > 0.7 * (rows[-1] - rows[0]) or side == 288, (count, across)


def test_a_sheet_of_previews_wraps_in_lines_of_steps():
    colours = [(10 * i, 0, 200) for i in range(13)]
    sheet = preview_sheet([(100 * i, [flat(colour), flat((*colour[:2], 100))]) for i, colour in enumerate(colours)])
    boxes = [box(sheet, colour) for colour in colours]
    assert [one[0] for one in boxes] == [boxes[0][0]] * 7 + [boxes[7][0]] * 6
    assert [one[1] for one in boxes] == [boxes[i % 7][1] for i in range(13)]
    second = [box(sheet, (*colour[:2], 100)) for colour in colours]
    assert all(one[1] == other[1] and one[2] <= other[0] for one, other in zip(boxes, second))
    assert second[0][2] < boxes[7][0]
    # Pictures that are large have fewer in a line, but four at least.
    large = preview_sheet([(i, [flat(RED, (1024, 1024))]) for i in range(8)])
    assert large.shape[1] == 4 * (1024 + 53) + 53
    assert large.shape[0] > 2 * 1024


def test_a_metric_is_not_torn_from_its_value():
    font = Lettering(11)
    text = "CLIP-I 0.812  CLIP-T 0.301  DINO 0.640"
    assert font.wrap(text, 90, between="  ") == ["CLIP-I 0.812", "CLIP-T 0.301", "DINO 0.640"]
    assert font.wrap(text, 400, between="  ") == [text]


class MadeWhenAsked:
    """A row of pictures that notes how many of all rows are alive at a time."""

    def __init__(self, count: int, alive: weakref.WeakValueDictionary, most: list[int]) -> None:
        self.count, self.alive, self.most = count, alive, most

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Image.Image:
        picture = flat(RED, (256, 256))
        self.alive[len(self.most)] = picture
        self.most.append(len(self.alive))
        return picture


def test_two_thousand_pictures_are_not_in_memory_at_once():
    alive: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
    most: list[int] = []
    grid = comparison_grid([MadeWhenAsked(50, alive, most) for _ in range(40)], max_pixels=3_000_000)
    assert len(most) == 2001
    assert max(most) == 1
    height, width, _ = grid.shape
    assert 2_700_000 < height * width <= 3_000_000
    assert area(grid, RED) > 1_900_000  # nearly all of it is pictures


def test_cells_shrink_until_they_fit_but_stay_visible():
    row = [flat(RED, (100, 50))] * 10
    assert area(comparison_grid([row] * 10), RED) == 100 * 200 * 100
    smaller = comparison_grid([row] * 10, max_pixels=620_000)
    assert smaller.shape[0] * smaller.shape[1] <= 620_000
    assert area(smaller, RED) == 100 * 100 * 50  # by a whole factor, too
    smallest = comparison_grid([row] * 10, max_pixels=40_000)
    assert smallest.shape[0] * smallest.shape[1] <= 40_000
    assert area(smallest, RED) >= 100 * SMALLEST * SMALLEST // 2
    with pytest.raises(ValueError, match="10 x 10 = 100 cells .* make several grids"):
        comparison_grid([row] * 10, max_pixels=25_000)


def test_labels_of_small_cells_keep_room_to_be_read():
    big = (256, 256)
    row = [flat(RED, big), flat(BLUE, big), *[flat(GREEN, big)] * 6]
    grid = comparison_grid(
        [row] * 4, [], ["a teddy bear in the jungle"] * 8, cell_notes=[["DINO 0.640"] * 8] * 4, max_pixels=250_000
    )
    _, left, _, right = box(grid, RED)
    assert 16 <= right - left < LABEL_WIDTH <= box(grid, BLUE)[1] - left


def test_a_row_is_as_high_as_its_label():
    big = (256, 256)
    grid = comparison_grid(
        [[flat(RED, big)] * 8, [flat(BLUE, big)] * 8],
        ["base", "DEFT"],
        (),
        [[GridScore(name, "1") for name in "abcd"]] * 2,
        max_pixels=100_000,
    )
    top, left, bottom, _ = box(grid, RED)
    # The label and its four scores.
    assert bottom - top < 5 * 14 < box(grid, BLUE)[0] - top
    dark = np.argwhere(grid[top : box(grid, BLUE)[0] - 4, :left].min(axis=2) < 200)
    assert dark[:, 0].max() > bottom - top


def test_many_pictures_of_the_subject_stand_beside_each_other():
    subject = [flat((0, 100 + 5 * i, 250)) for i in range(9)]
    grid = comparison_grid([[flat(RED)]], subject=subject)
    assert grid.shape[0] < 2 * 192
    assert all(area(grid, (0, 100 + 5 * i, 250)) > 3000 for i in range(9))


def test_pictures_of_tensors_are_those_of_the_batch():
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(3, 8, 6, 3, generator=generator), torch.rand(2, 4, 4, 4, generator=generator)]
    lazy = TensorPictures(batches, "row 1")
    expected = [picture for batch in batches for picture in to_pictures(batch)]
    assert len(lazy) == 5
    assert all(np.array_equal(lazy[i], expected[i]) for i in range(5))
    placed = Placed(lazy, [None, 4, 0])
    assert len(placed) == 3
    assert placed[0] is None
    assert np.array_equal(placed[1], expected[4])
    assert np.array_equal(placed[2], expected[0])


def test_bad_tensors_are_named():
    with pytest.raises(ValueError, match="row 2: the batch is empty"):
        TensorPictures([torch.zeros(1, 4, 4, 3), torch.zeros(0, 4, 4, 3)], "row 2")
    batch = torch.zeros(3, 4, 4, 3)
    batch[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="row 1: picture 3 holds NaN"):
        TensorPictures([torch.zeros(2, 4, 4, 3), batch], "row 1")


def test_pictures_go_to_the_columns_of_their_prompts():
    assert columns_of(["b", "a"], ["a", "b", "c"]) == [1, 0, None]
    assert columns_of(["a", "b", "a "], ["a", "a", " b"]) == [0, 2, 1]
    assert columns_of(["b", "d"], ["a", "b", "c"]) is None
    assert columns_of(["b", ""], ["a", "b", ""]) is None
    assert columns_of([], ["a"]) is None
    with pytest.raises(ValueError, match="2 pictures of the prompt 'a' for 1 columns"):
        columns_of(["a", "b", "a"], ["a", "b", "c"])


def test_one_text_for_all_pictures_is_no_place():
    assert columns_of(["a", "a"], ["a", "b"]) is None
    assert columns_of(["a", "a"], ["a", "b", "a"]) == [0, None, 1]


CLIP_I = Score("CLIP-I", (0.5, 0.75), "DEFT r4", "dog", 2, 1, "demo", "all", 1.0, "CLIP", "none", ("a", "b"))
DINO = replace(CLIP_I, metric="DINO", values=(0.25, 0.5))


def prints(row: RowScores) -> list[str]:
    return ["  ".join(f"{score.name} {score.text}" for score in scores) for scores in row.each]


def test_scores_of_a_row_become_its_note_and_one_print_a_picture():
    scored_row = row_scores(Scores((DINO, CLIP_I)), 2)
    assert scored_row.label == "DEFT r4"
    assert scored_row.note == "CLIP-I 0.625\nDINO 0.375"
    assert scored_row.texts == (("a", "b"),)
    assert prints(scored_row) == ["CLIP-I 0.500  DINO 0.250", "CLIP-I 0.750  DINO 0.500"]
    parts = tuple(replace(CLIP_I, values=(value,), texts=(text,)) for value, text in ((0.5, "a"), (0.75, "b")))
    assert prints(row_scores(Scores(parts), 2)) == ["CLIP-I 0.500", "CLIP-I 0.750"]
    assert row_scores(Scores(parts), 2).texts == (("a", "b"),)


def test_only_a_picture_s_own_scores_are_printed_under_it():
    assert row_scores(Scores((CLIP_I, DINO)), 3).each == ()
    pairs = replace(CLIP_I, metric="DIV", values=(0.1, 0.2), pairing="within", pictures=("1", "2"))
    other = replace(DINO, metric="PRES", pictures=("3", "4"))
    mine = replace(CLIP_I, pictures=("1", "2"))
    scored_row = row_scores(Scores((mine, pairs, other)), 2)
    assert prints(scored_row) == ["CLIP-I 0.500", "CLIP-I 0.750"]
    assert scored_row.note == "CLIP-I 0.625\nPRES 0.375\nDIV 0.150"


def test_two_protocols_in_a_row_are_told_apart():
    scored_row = row_scores(Scores((CLIP_I, replace(CLIP_I, protocol="dreambooth", values=(50.0, 70.0)))), 2)
    assert scored_row.note == "CLIP-I (demo) 0.625\nCLIP-I (dreambooth) 60.00"
    assert prints(scored_row)[0] == "CLIP-I (demo) 0.500  CLIP-I (dreambooth) 50.00"


def test_wrap_keeps_lines_inside_the_width():
    font = Lettering(14)
    text = "a teddy bear wearing an extraordinarilylongwordthatdoesnotfit on a purple background in the evening light"
    lines = font.wrap(text, 120)
    assert len(lines) == 4
    assert all(font.width(line) <= 120 for line in lines)
    assert lines[-1].endswith("...")
    assert font.wrap("short", 120) == ["short"]
    assert font.wrap("", 9) == []
