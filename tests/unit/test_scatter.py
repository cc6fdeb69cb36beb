"""The plot of two metrics: its points, its errors, and where the names go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deft_pack.reports import scatter as module
from deft_pack.reports.scatter import Point, place_names, points_of, scatter
from deft_pack.scoring.scores import Score, Scores
from deft_pack.scoring.statistics import Interval

DINO = Score(
    "DINO",
    (0.4, 0.6, 0.8, 0.6),
    "DEFT r4",
    "dog",
    4,
    2,
    "dreambooth",
    "all",
    1.0,
    "DINO ViT-S/16",
    "224 px",
    ("a", "a", "b", "b"),
)
CLIP_T = replace(DINO, metric="CLIP-T", values=(0.2, 0.3, 0.3, 0.4), pairing="text", backbone="CLIP ViT-B/32")
DRIFT = replace(DINO, metric="drift", values=(0.01, 0.02, 0.03, 0.04), pairing="base")


def named(row: Score, label: str) -> Score:
    return replace(row, label=label)


def test_a_point_is_the_means_with_their_intervals(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "interval", lambda groups: seen.append(groups) or Interval(0.5, 0.1, 0.9, 2, 4))
    points, notes = points_of(Scores((DINO, CLIP_T)))
    assert points == [Point("DEFT r4", pytest.approx(0.3), pytest.approx(0.6), (0.1, 0.9), (0.1, 0.9))]
    # Groups are subjects and prompts.
    assert [list(groups.values()) for groups in seen] == [[[0.2, 0.3], [0.3, 0.4]], [[0.4, 0.6], [0.8, 0.6]]]
    assert notes[0].startswith("CLIP-T (dreambooth: CLIP ViT-B/32, text pairs")
    assert notes[1].startswith("DINO (dreambooth: DINO ViT-S/16, all pairs")


def test_rows_of_one_method_are_one_point_and_subjects_are_groups(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "interval", lambda groups: seen.append(groups))
    cat = [replace(row, subject="cat", values=(1.0,), texts=("a",)) for row in (DINO, CLIP_T)]
    points, notes = points_of(Scores((DINO, CLIP_T, *cat)))
    assert [point.label for point in points] == ["DEFT r4"]
    assert points[0].y == pytest.approx(3.4 / 5)
    assert list(seen[1].values()) == [[0.4, 0.6], [0.8, 0.6], [1.0]]
    assert "No bar: too few" in notes[2]


def test_a_method_without_label_is_called_by_its_name_and_rank():
    rows = [
        replace(row, label="", method=method, rank=rank)
        for row in (DINO, CLIP_T)
        for method, rank in (("deft", 4), ("deft", 8), ("oft", None), ("", None))
    ]
    assert [point.label for point in points_of(Scores(tuple(rows)))[0]] == ["deft r4", "deft r8", "oft", "images"]


def test_methods_with_one_of_the_metrics_are_named_as_left_out():
    scores = Scores((DINO, CLIP_T, named(DINO, "no text"), named(CLIP_T, "no references"), named(DRIFT, "other")))
    points, notes = points_of(scores)
    assert [point.label for point in points] == ["DEFT r4"]
    assert notes[-2:] == ["Skipped, without CLIP-T: no text.", "Skipped, without DINO: no references."]


def test_what_cannot_be_plotted_is_said():
    with pytest.raises(ValueError, match="there is no DINOv2 among the scores, only CLIP-T, DINO;"):
        points_of(Scores((DINO, CLIP_T)), y="DINOv2")
    with pytest.raises(ValueError, match="no CLIP-T among the scores, only nothing"):
        points_of(Scores(()))
    with pytest.raises(ValueError, match="no method has both CLIP-T and DINO"):
        points_of(Scores((DINO, named(CLIP_T, "other"))))
    for change in ({"protocol": "demo"}, {"backbone": "DINO ViT-B/16"}, {"scale": 100.0}):
        with pytest.raises(ValueError, match="DINO was measured in 2 ways that do not compare"):
            points_of(Scores((DINO, CLIP_T, replace(DINO, label="other", **change))))


def test_one_axis_may_be_of_another_protocol_than_the_other():
    assert len(points_of(Scores((DINO, replace(CLIP_T, protocol="demo"))))[0]) == 1


def coloured(picture: np.ndarray, colour: str) -> np.ndarray:
    """[n, 2] places (y, x) of a colour given as #rrggbb."""
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return np.argwhere((picture == value).all(axis=2))


def test_points_stand_where_their_values_are():
    points = [Point("a", 0.2, 0.5), Point("b", 0.3, 0.7)]
    first, second = (coloured(scatter(points), colour).mean(axis=0) for colour in module.POINT_COLOURS[:2])
    assert first[1] < second[1]
    assert first[0] > second[0]


def test_bars_title_and_notes_are_drawn():
    plain = Point("a", 0.25, 0.5)
    both = [Point("b", 0.2, 0.3), Point("c", 0.3, 0.7)]  # so that the axes stay the same
    bare = scatter([plain, *both])
    assert bare.dtype == np.uint8
    assert bare.ndim == 3
    assert bare.shape[2] == 3
    across = scatter([replace(plain, x_interval=(0.22, 0.28)), *both])
    up = scatter([replace(plain, y_interval=(0.4, 0.6)), *both])

    def changed(other: np.ndarray) -> np.ndarray:
        places = np.argwhere((bare != other).any(axis=2))
        return places.max(axis=0) - places.min(axis=0)

    assert changed(across)[1] > 200
    assert changed(up)[0] > 200
    assert scatter([plain], title="Dog").shape[0] > scatter([plain]).shape[0]
    assert scatter([plain], notes=["one", "two"]).shape[0] > scatter([plain], notes=["one"]).shape[0]


def test_the_good_end_is_marked_at_the_lower_end_where_lower_is_better():
    points = [Point("a", 0.2, 0.5), Point("b", 0.3, 0.7)]

    def middle(picture: np.ndarray, edge: np.ndarray, axis: int) -> float:
        """Where along an axis the green words outside the plot are, 0 to 1."""
        picture = picture.astype(int)
        green = (picture[..., 1] > picture[..., 0] + 40) & (picture[..., 1] > picture[..., 2] + 25) & edge
        return float(np.argwhere(green)[:, axis].mean() / picture.shape[axis])

    higher, lower = scatter(points, "CLIP-T", "DINO"), scatter(points, "drift", "PRES")
    rows, columns = np.indices(higher.shape[:2])
    below, beside = rows > higher.shape[0] - 100, columns < 60
    assert middle(higher, below, 1) > 0.8
    assert middle(lower, below, 1) < 0.3
    assert middle(higher, beside, 0) < 0.2
    assert middle(lower, beside, 0) > 0.6


def test_many_points_are_numbered_with_a_legend():
    points = [Point(f"method {i}", 0.2 + 0.01 * i, 0.5) for i in range(module.MOST_NAMES + 1)]
    assert scatter(points).shape[1] > scatter(points[:-1]).shape[1]
    assert scatter(points * 4).shape[0] > scatter(points).shape[0]


def test_labels_with_signs_of_mathematics_are_drawn_as_they_are():
    points = [Point("$\\frac{", 0.2, 0.5)] * (module.MOST_NAMES + 1)
    for count in (1, len(points)):
        assert scatter(points[:count], "$a", "b$", "$\\x", ["$\\y"]).ndim == 3


def test_the_pareto_front_is_what_nothing_else_beats():
    points = [
        Point("base", 0.9, 0.1, base=True),  # best of all in x, but the reference
        Point("a", 0.2, 0.8),
        Point("b", 0.3, 0.7),
        Point("c", 0.25, 0.6),  # behind b
        Point("d", 0.3, 0.5),  # as good as b in x alone
        Point("e", 0.4, 0.2),
    ]
    assert [point.label for point in module.pareto(points, "CLIP-T", "DINO")] == ["a", "b", "e"]
    assert [point.label for point in module.pareto(points, "drift", "DINO")] == ["a"]
    assert [point.label for point in module.pareto(points, "DINO", "PRES")] == ["e"]
    twins = [Point("a", 0.2, 0.8), Point("b", 0.2, 0.8)]
    assert module.pareto(twins, "CLIP-T", "DINO") == twins


def test_the_base_is_grey_with_lines_through_it_and_the_axes_say_what_they_measure(monkeypatch):
    rows = [
        Score(metric, (value,) * 3, label, "dog", 3, 5, "p", pairing, 1.0, "net", "crop")
        for label, x, y in (("Base", 0.3, 0.2), ("DEFT", 0.25, 0.7), ("LoRA", 0.27, 0.6))
        for metric, value, pairing in (("CLIP-T", x, "text"), ("DINO", y, "all"))
    ]
    points, notes = points_of(Scores(tuple(rows)))
    assert [point.base for point in points] == [True, False, False]
    assert any("Pareto front" in note for note in notes)
    assert any("the base, the reference" in note for note in notes)
    drawn = scatter(points, notes=notes)
    plain = scatter([replace(point, base=False) for point in points], notes=notes)
    blue = module.POINT_COLOURS[0]  # of the first point, which is grey now
    assert len(coloured(plain, blue)) > 50
    assert len(coloured(drawn, blue)) == 0
    changed = np.argwhere((drawn != plain).any(axis=2))  # the dotted lines go from side to side
    assert np.ptp(changed[:, 1]) > 0.8 * drawn.shape[1]
    assert np.ptp(changed[:, 0]) > 0.6 * drawn.shape[0]
    draw = module.white_canvas

    def watched(*arguments, **options):
        canvas = draw(*arguments, **options)
        canvases.append(canvas)
        return canvas

    canvases: list = []
    monkeypatch.setattr(module, "white_canvas", watched)
    scatter(points)
    words = [text.get_text() for text in canvases[0].figure.axes[0].texts]
    assert words[:2] == ["prompt following (CLIP-T)", "subject likeness (DINO)"]
    front = next(line for line in canvases[0].figure.axes[0].lines if line.get_drawstyle() == "steps-pre")
    assert list(front.get_xdata()) == [0.25, 0.27]
    scatter(points, "drift", "diversity")
    words = [text.get_text() for text in canvases[1].figure.axes[0].texts]
    assert words[:2] == ["drift from the base (drift)", "diversity"]


def overlap(one: module.Box, other: module.Box) -> bool:
    return min(one[2], other[2]) > max(one[0], other[0]) and min(one[3], other[3]) > max(one[1], other[1])


def test_names_cover_neither_each_other_nor_points():
    anchors = [(200 + 12 * (i % 4), 200 + 9 * (i // 4)) for i in range(12)]
    places = place_names(anchors, [(60, 14)] * 12, [], (0, 0, 500, 500))
    assert not any(overlap(places[i], places[j]) for i in range(12) for j in range(i))
    assert not any(overlap(place, (x - 5, y - 5, x + 5, y + 5)) for place in places for x, y in anchors)


def test_names_stay_in_the_frame_and_avoid_bars():
    left, bottom, right, top = place_names([(495, 495)], [(80, 14)], [], (0, 0, 500, 500))[0]
    assert left >= 0
    assert right <= 500
    assert bottom >= 0
    assert top <= 500
    bars = [(100.0, 198.0, 400.0, 202.0), (248.0, 100.0, 252.0, 400.0)]
    place = place_names([(250, 200)], [(80, 14)], bars, (0, 0, 500, 500))[0]
    assert not any(overlap(place, bar) for bar in bars)
    assert abs(place[0] - 250) < 20
    assert abs(place[1] - 200) < 20
