"""The report of a sweep, from stores made by hand: numbers beside numpy's, grids by pixel, pages by a parser."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from deft_pack.reports.sweep import grids, page
from deft_pack.scoring.scores import Cost, Score, Scores, from_jsonl
from deft_pack.scoring.statistics import interval
from deft_pack.sweeps.png import read_text
from deft_pack.sweeps.records import Cell, CellRun, StoredFile, read_record, to_json
from deft_pack.sweeps.report import Layout, ReportCell, write_report

ROOT = Path(__file__).resolve().parents[2]
EVIL = "<script>alert('x')</script> & \"quoted\""
METHODS, RANKS, SUBJECTS = ("Base", "DEFT", "PaRa"), ("4", "8"), ("dog", "cat")
PROMPTS, SEEDS = ("in the jungle", EVIL, "on a beach"), ("42", "43")
SIZE = (192, 160)  # larger than what a grid enlarges


class Store:
    """A folder of cells, and the plan's list of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cells: list[ReportCell] = []

    def add(
        self,
        key: str,
        kind: str,
        labels: dict[str, str],
        files: dict[str, bytes] | None = None,
        titles: dict[str, str] | None = None,
        run: CellRun | None = None,
        **cell,
    ) -> Path:
        """Write a cell as the runner does. files: name -> content; titles: of the nodes they are from."""
        folder = self.folder / key
        folder.mkdir(parents=True, exist_ok=True)
        stored = []
        for place, (name, content) in enumerate((files or {}).items()):
            (folder / name).write_bytes(content)
            stored.append(StoredFile(name, str(place), (titles or {}).get(name, f"node of {name}"), "SaveImage"))
        (folder / "cell.json").write_bytes(to_json(Cell(key, kind, labels, files=tuple(stored), **cell)))
        (folder / "run.json").write_bytes(to_json(run or CellRun("done", seconds=2.0)))
        self.want(key, kind, labels)
        return folder

    def want(self, key: str, kind: str, labels: dict[str, str]) -> None:
        """A cell of the plan, read from the store if it is there."""
        folder = self.folder / key
        self.cells.append(ReportCell(key, labels, kind, lambda: read_record(folder) if folder.exists() else None))


def png(colour: tuple[int, int, int], size: tuple[int, int] = SIZE) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", size, colour).save(target, "PNG")
    return target.getvalue()


def score(metric: str, value: float, text: str = "", **changes) -> Score:
    base = Score(
        metric,
        (value,),
        "label of the workflow",
        "",
        1,
        5,
        "dreambooth",
        "all",
        1.0,
        f"{metric} model",
        "resize",
        (text,) if text else (),
        ("d",),
    )
    return replace(base, **changes)


def jsonl(*rows: Score, costs: tuple[Cost, ...] = ()) -> bytes:
    return Scores(rows, costs).jsonl().encode()


def colour_of(method: str, rank: str, subject: str, prompt: str, seed: str) -> tuple[int, int, int]:
    """A colour that no other cell has."""
    return (
        40 + 20 * METHODS.index(method) + 90 * RANKS.index(rank),
        30 + 100 * SUBJECTS.index(subject),
        50 + 60 * PROMPTS.index(prompt) + 7 * SEEDS.index(seed),
    )


def value_of(metric: str, method: str, rank: str, subject: str, prompt: str, seed: str) -> float:
    rng = np.random.default_rng(
        [
            METHODS.index(method),
            RANKS.index(rank),
            SUBJECTS.index(subject),
            PROMPTS.index(prompt),
            int(seed),
            len(metric),
        ]
    )
    return float(0.5 + 0.1 * METHODS.index(method) + 0.05 * rng.normal())


FAILED = ("PaRa", "4", "dog", "in the jungle", "42")
MISSING = ("PaRa", "8", "cat", "on a beach", "43")
CELLS = [place for place in product(METHODS, RANKS, SUBJECTS, PROMPTS, SEEDS) if place[:2] != ("Base", "8")]
METRICS = ("CLIP-I", "DINO")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Store:
    """Three methods in two ranks (the base model in one), subjects, prompts, seeds; one cell failed, one is absent."""
    store = Store(tmp_path_factory.mktemp("store"))
    axes = ("method", "rank", "subject", "prompt", "seed")
    for place in CELLS:
        method, rank, subject, prompt, seed = place
        training = f"train-{method}-{rank}-{subject}"
        if method != "Base" and not (store.folder / training).exists():
            seconds = 10.0 * int(rank) + SUBJECTS.index(subject)
            graph = {
                "1": {"class_type": "UNETLoader"},
                "2": {"class_type": "DEFTTrainAdapter"},
                "3": {"class_type": "DEFTTrainingSettings"},
            }
            store.add(
                training,
                "training",
                dict(zip(axes[:3], place[:3])),
                prompt=graph,
                run=CellRun(
                    "done",
                    seconds=99.0,
                    node_seconds={"1": 50.0, "2": seconds, "3": 7.0},
                    memory={"process": 1234.0},
                    versions={"ComfyUI": "0.30.0"},
                ),
            )
        key, labels = f"cell{CELLS.index(place)}", dict(zip(axes, place))
        needs = () if method == "Base" else (training,)
        if place == MISSING:
            store.want(key, "picture", labels)
        elif place == FAILED:
            store.add(key, "picture", labels, run=CellRun("failed", f"RuntimeError: {EVIL}", attempts=3), needs=needs)
        else:
            rows = [
                score(
                    metric,
                    value_of(metric, *place),
                    prompt,
                    method=method.lower(),
                    rank=int(rank),
                    provenance={"seeds": [int(seed)]},
                )
                for metric in METRICS
            ]
            costs = () if method == "Base" else (Cost("", None, 1000, 2**20, method.lower(), int(rank)),)
            store.add(
                key,
                "picture",
                labels,
                {
                    "scores.jsonl": jsonl(*rows, costs=costs),
                    "image.png": png(colour_of(*place)),
                    "other.png": png((1, 2, 3)),
                },
                {"image.png": "Save picture"},
                needs=needs,
                numbers={"loss": float(CELLS.index(place))},
                run=CellRun("done", seconds=2.5),
            )
    return store


@pytest.fixture(scope="module")
def report(sweep: Store, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("report") / "out"
    written = write_report(sweep.cells, out, f"Sweep {EVIL}", Layout(columns=("prompt",)))
    assert written[0] == out / "index.html"
    assert all(path.is_file() for path in written)
    assert {path.name for path in written} == {path.name for path in out.iterdir() if path.is_file()}
    return out


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return list(reader.fieldnames or ()), list(reader)


def done_cells(**fixed: str) -> list[tuple[str, ...]]:
    axes = ("method", "rank", "subject", "prompt", "seed")
    return [
        place
        for place in CELLS
        if place not in (FAILED, MISSING) and all(place[axes.index(axis)] == label for axis, label in fixed.items())
    ]


def bounds(places: list[tuple[str, ...]], metric: str) -> tuple[float, float]:
    """The interval of these cells' values, grouped by subject and prompt here."""
    groups: dict[tuple[str, str], list[float]] = {}
    for place in places:
        groups.setdefault((place[2], place[3]), []).append(value_of(metric, *place))
    expected = interval(groups)
    return expected.low, expected.high


def test_the_table_is_numpys(report: Path):
    header, rows = read_csv(report / "scores.csv")
    assert header == [
        "method, rank",
        "images",
        "CLIP-I",
        "CLIP-I low",
        "CLIP-I high",
        "DINO",
        "DINO low",
        "DINO high",
        "training s",
        "values",
        "MiB",
    ]
    assert [row["method, rank"] for row in rows] == [
        "Base rank 4",
        "DEFT rank 4",
        "DEFT rank 8",
        "PaRa rank 4",
        "PaRa rank 8",
    ]
    for row in rows:
        method, _, rank = row["method, rank"].split()
        places = done_cells(method=method, rank=rank)
        assert int(row["images"]) == len(places) == (11 if method == "PaRa" else 12)
        for metric in METRICS:
            assert float(row[metric]) == pytest.approx(np.mean([value_of(metric, *place) for place in places]))
            low, high = bounds(places, metric)
            assert (float(row[f"{metric} low"]), float(row[f"{metric} high"])) == pytest.approx((low, high))
        costs = (row["training s"], row["values"], row["MiB"])
        if method == "Base":
            assert costs == ("", "", "")
        else:  # the mean of two adapters' training nodes, not of their whole cells
            assert [float(cost) for cost in costs] == [10 * int(rank) + 0.5, 1000, 1]


@pytest.mark.parametrize("metric", METRICS)
def test_a_table_of_each_metric_has_the_axis_across(report: Path, metric: str):
    header, rows = read_csv(report / f"scores-{metric}.csv")
    assert header[2::3] == list(PROMPTS)
    for row in rows:
        method, _, rank = row["method, rank"].split()
        assert int(row["images"]) == len(done_cells(method=method, rank=rank))
        for prompt in PROMPTS:
            values = [value_of(metric, *place) for place in done_cells(method=method, rank=rank, prompt=prompt)]
            assert float(row[prompt]) == pytest.approx(np.mean(values))
            assert float(row[f"{prompt} low"]) <= float(row[prompt]) <= float(row[f"{prompt} high"])


def test_numbers_have_a_table_without_verdicts(report: Path):
    _, rows = read_csv(report / "numbers.csv")
    for row in rows:
        method, _, rank = row["method, rank"].split()
        values = [CELLS.index(place) for place in done_cells(method=method, rank=rank)]
        assert (float(row["loss"]), int(row["cells"])) == (pytest.approx(np.mean(values)), len(values))
        assert float(row["loss low"]) < float(row["loss"]) < float(row["loss high"])
    text = (report / "report.md").read_text()
    part = text[text.index("### Numbers") : text.index("### loss by prompt")]
    assert "**" not in part
    assert "best" not in part
    assert "| cells |" in part


def test_what_is_missing_is_counted(report: Path):
    note = "Of 68 cells 1 failed and 1 has not been run: they are not in the table."
    for name in ("report.md", "table.tex", "index.html"):
        assert note in (report / name).read_text()
    text = (report / "report.md").read_text()
    assert "| PaRa rank 4 | picture | 12 | 11 | 1 | 0 | 0 | 27.5 | 2.50 |" in text
    assert "| PaRa rank 8 | picture | 12 | 11 | 0 | 0 | 1 | 27.5 | 2.50 |" in text
    assert "| DEFT rank 8 | training | 2 | 2 | 0 | 0 | 0 | 198.0 | 99.00 | process 1,234 |" in text
    assert "<" not in text


def test_every_cell_has_a_line(report: Path, sweep: Store):
    header, rows = read_csv(report / "cells.csv")
    assert [row["cell"] for row in rows] == [cell.key for cell in sweep.cells]
    assert header[2:7] == ["method", "rank", "subject", "prompt", "seed"]
    assert [row["state"] for row in rows].count("done") == len(rows) - 2
    failed = next(row for row in rows if row["state"] == "failed")
    assert (failed["attempts"], failed["error"], failed["loss"]) == ("3", f"RuntimeError: {EVIL}", "")
    assert next(row for row in rows if row["kind"] == "training")["training seconds"] == "40.0"


def test_all_scores_are_kept_with_their_settings(report: Path):
    scores = from_jsonl((report / "scores.jsonl").read_text())
    assert len(scores.rows) == len(METRICS) * len(done_cells())
    assert len(scores.costs) == 8
    for row in scores.rows:
        labels = row.provenance["sweep"]["labels"]
        assert row.label == f"{labels['method']} rank {labels['rank']}"
        assert row.subject == labels["subject"]
        assert (row.method, row.rank) == (labels["method"].lower(), int(labels["rank"]))
        assert row.value == value_of(row.metric, *labels.values())
        assert row.provenance["seeds"] == [int(labels["seed"])]
    assert {cost.training_seconds for cost in scores.costs} == {40.0, 41.0, 80.0, 81.0}


def box(pixels: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """Where that colour is: left, top, right, bottom; all of it must have the colour."""
    mask = (pixels == colour).all(axis=-1)
    if not mask.any():
        return None
    (rows,), (columns,) = np.nonzero(mask.any(axis=1)), np.nonzero(mask.any(axis=0))
    assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@pytest.mark.parametrize("place", [0, 1])
def test_grids_show_the_pictures(report: Path, place: int):
    """One grid a subject: rows down, prompts across, the first seed; a failed cell is blank and not the next seed."""
    path, subject = report / f"grid-{place + 1}.png", SUBJECTS[place]
    pixels = np.asarray(Image.open(path))
    names = [(method, rank) for method, rank in product(METHODS, RANKS) if (method, rank) != ("Base", "8")]
    boxes = {
        (name, prompt): box(pixels, colour_of(*name, subject, prompt, "42")) for name in names for prompt in PROMPTS
    }
    absent = (("PaRa", "4"), "in the jungle") if subject == "dog" else None
    assert [cell for cell, bounds in boxes.items() if bounds is None] == ([absent] if absent else [])
    visible = [bounds for bounds in boxes.values() if bounds]
    assert {(right - left, bottom - top) for left, top, right, bottom in visible} == {SIZE}
    tops = [next(boxes[name, prompt] for prompt in PROMPTS if boxes[name, prompt])[1] for name in names]
    lefts = [boxes[names[0], prompt][0] for prompt in PROMPTS]
    assert tops == sorted(set(tops))
    assert lefts == sorted(set(lefts))
    assert all(
        boxes[name, prompt] is None or boxes[name, prompt][:2] == (left, top)
        for name, top in zip(names, tops)
        for prompt, left in zip(PROMPTS, lefts)
    )
    if absent:
        left, top = lefts[PROMPTS.index(absent[1])], tops[names.index(absent[0])]
        assert tuple(pixels[top + 20, left + SIZE[0] // 2]) == (246, 246, 246)
    others = {colour_of(*cell) for cell in CELLS if cell[4] != "42" or cell[2] != subject}
    assert not any((pixels == colour).all(axis=-1).any() for colour in others)


def test_pictures_say_which_cells_they_show(report: Path, sweep: Store):
    about = json.loads(read_text((report / "grid-1.png").read_bytes())["deft_sweep"])
    shown = [
        cell.key
        for cell in sweep.cells
        if cell.kind == "picture" and cell.labels["subject"] == "dog" and cell.labels["seed"] == "42"
    ]
    assert sorted(about["cells"]) == sorted(shown)
    assert about["more"] == 0
    assert about["axes"] == {"rows": ["method", "rank"], "columns": ["prompt"], "shown": "dog, seed 42"}
    with Image.open(report / "scores.png") as opened:
        opened.load()
        assert set(json.loads(opened.text["deft_sweep"])["cells"]) == {cell.key for cell in sweep.cells}


class Page(HTMLParser):
    """Links, texts and elements of a page; checks that elements are closed in order."""

    VOID = frozenset(("meta", "img", "br"))

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.elements: list[str] = []
        self.text = self.data = ""
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs) -> None:
        self.elements.append(tag)
        attributes = dict(attrs)
        assert not [name for name in attributes if name.startswith("on")]
        self.links += [attributes[name] for name in ("href", "src") if name in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "img":
            assert attributes["loading"] == "lazy"
            assert "alt" in attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"] and data.startswith("["):
            self.data += data
        self.text += data


def check_links(folder: Path, name: str = "index.html") -> Page:
    """All links of a page are relative and lead to something in its folder."""
    parsed = Page(folder / name)
    for link in parsed.links:
        parts = urlsplit(link)
        assert not parts.scheme, link
        assert not parts.netloc, link
        assert not link.startswith("/"), link
        if parts.path:
            assert (folder / parts.path).resolve().is_relative_to(folder.resolve())
            assert (folder / parts.path).is_file()
        else:
            assert parts.fragment in parsed.ids
    # No heading of a section that is not there: its list leads to all that are.
    headings = set(re.findall(r'<h2 id="(\w+)"', (folder / name).read_text(encoding="utf-8")))
    assert headings <= {urlsplit(link).fragment for link in parsed.links}
    return parsed


def test_the_page(report: Path):
    parsed = check_links(report)
    assert set(parsed.elements).isdisjoint({"link", "iframe", "object", "form"})
    # Its own script, word for word, and the numbers of its chart.
    assert parsed.elements.count("script") == 2
    assert (ROOT / "reports" / "templates" / "sweep.js").read_text(encoding="utf-8") in parsed.text
    cells = json.loads(parsed.data)
    assert len(cells) == len(done_cells())
    place = ("DEFT", "8", "dog", EVIL, "42")
    (cell,) = [cell for cell in cells if tuple(cell["labels"].values()) == place]
    assert cell["scores"] == {
        "loss": CELLS.index(place),
        **{metric: pytest.approx(value_of(metric, *place), abs=5e-4) for metric in METRICS},
    }
    assert cell["row"] == "DEFT rank 8"
    assert (report / cell["picture"]).is_file()
    assert EVIL in parsed.text
    assert f"Sweep {EVIL}" in parsed.text
    assert f"RuntimeError: {EVIL}" in parsed.text
    pictures = [link for link in parsed.links if link.startswith("pictures/")]
    assert len(set(pictures)) == 2 * len(done_cells()) == len(list((report / "pictures").iterdir()))
    for text in ("ComfyUI 0.30.0", "process 1,234", "CLIP-I 0.", "loss 1", "not run", "DEFT rank 8"):
        assert text in parsed.text, text


def test_pictures_are_shared_with_the_store_and_the_folder_can_be_moved(sweep: Store, tmp_path: Path):
    out = tmp_path / "out"
    write_report(sweep.cells, out, "Moved", Layout())
    key = next(cell.key for cell in sweep.cells if cell.kind == "picture")
    assert (out / "pictures" / f"{key}-2.png").samefile(sweep.folder / key / "image.png")
    write_report(sweep.cells, out, "Again", Layout())
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    shutil.move(out, tmp_path / "elsewhere")
    assert check_links(tmp_path / "elsewhere").text.count("Again")


def test_pictures_are_copied_where_links_cannot_be_made(sweep: Store, tmp_path: Path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    cells = sweep.cells[:6]
    write_report(cells, tmp_path / "out", "Copied", Layout())
    key = next(cell.key for cell in cells if cell.kind == "picture")
    copy, source = tmp_path / "out" / "pictures" / f"{key}-2.png", sweep.folder / key / "image.png"
    assert not copy.samefile(source)
    assert copy.read_bytes() == source.read_bytes()
    before = copy.stat().st_ino
    write_report(cells, tmp_path / "out", "Copied", Layout())
    assert copy.stat().st_ino == before  # an equal copy is kept


def test_an_older_report_is_replaced(sweep: Store, tmp_path: Path):
    out = tmp_path / "out"
    write_report(sweep.cells, out, "Old", Layout(columns=("prompt",)))
    (out / "notes.txt").write_text("mine")
    names = {path.name for path in write_report(sweep.cells, out, "New", Layout(metrics=("DINO",), rows=("rank",)))}
    assert {path.name for path in out.iterdir()} == names | {"pictures", "notes.txt"}
    assert read_csv(out / "scores.csv")[0][:3] == ["rank", "images", "DINO"]
    assert check_links(out).text.lstrip().startswith("New\n")


@pytest.mark.parametrize(
    ("layout", "hint"),
    [
        (Layout(rows=("methd",)), "rows: there is no axis 'methd'; near: method"),
        (Layout(columns=("xyz",)), "columns: .*'xyz'; there are: method, rank, subject, prompt, seed"),
        (Layout(grid_rows=("Seed",)), "grid rows: .*near: seed"),
        (Layout(grid_columns=("",)), "grid columns"),
        (Layout(published="PEFT"), "published: there is no table 'PEFT'; near: PEFT, image generation"),
    ],
)
def test_unknown_axes_are_named(sweep: Store, tmp_path: Path, layout: Layout, hint: str):
    with pytest.raises(ValueError, match=hint):
        write_report(sweep.cells, tmp_path / "out", "x", layout)
    assert not (tmp_path / "out").exists()


def test_no_cells(tmp_path: Path):
    with pytest.raises(ValueError, match="no cells"):
        write_report([], tmp_path, "x", Layout())


def test_unknown_pictures_and_metrics_are_problems(sweep: Store, tmp_path: Path):
    write_report(sweep.cells, tmp_path, "x", Layout(picture="Save pictures", metrics=("DINO", "DINOv3", "loss")))
    text = check_links(tmp_path).text
    assert "No cell has pictures of a node 'Save pictures', so there are no grids; there are 'Save picture'" in text
    assert "No cell has the metric DINOv3 yet; there are CLIP-I, DINO, loss." in text
    assert not (tmp_path / "grid-1.png").exists()
    assert (tmp_path / "numbers.csv").exists()
    assert "CLIP-I" not in (tmp_path / "scores.csv").read_text()


def test_another_node_of_pictures(sweep: Store, tmp_path: Path):
    write_report(
        sweep.cells,
        tmp_path,
        "x",
        Layout(picture="node of other.png", grid_columns=("seed",), grid_rows=("method", "subject")),
    )
    pixels = np.asarray(Image.open(tmp_path / "grid-1.png"))
    shown = 3 * 2 * 2 - 1  # methods, subjects, seeds; one failed
    assert (pixels == (1, 2, 3)).all(axis=-1).sum() == shown * SIZE[0] * SIZE[1]
    assert not (tmp_path / "grid-2.png").exists()


def test_without_scores(tmp_path: Path):
    store = Store(tmp_path / "store")
    for seed in SEEDS:
        store.add(f"c{seed}", "picture", {"seed": seed}, {"a.png": png((9, 9, 9))})
    store.want("c44", "picture", {"seed": "44"})
    out = tmp_path / "out"
    write_report(store.cells, out, "Plain", Layout())
    assert {path.name for path in out.iterdir()} == {
        "index.html",
        "report.md",
        "scores.jsonl",
        "cells.csv",
        "table.tex",
        "grid-1.png",
        "pictures",
    }
    text = check_links(out).text
    assert "seed 42" in text
    assert "not run" in text
    assert "| seed 42 | picture | 1 | 1 | 0 | 0 | 0 | 2.0 | 2.00 |  |" in (out / "report.md").read_text()


def test_nothing_has_been_run_yet(tmp_path: Path):
    store = Store(tmp_path / "store")
    for method in METHODS:
        store.want(method, "picture", {"method": method})
    out = tmp_path / "out"
    write_report(store.cells, out, "Empty", Layout(rows=("method",), picture="Save", metrics=("DINO",)))
    assert check_links(out).text.count("not run") >= 4
    assert not (out / "pictures").exists()


def test_cells_without_axes(tmp_path: Path):
    store = Store(tmp_path / "store")
    store.add("one", "picture", {}, {"a.png": png((9, 9, 9)), "s.jsonl": jsonl(score("DINO", 0.5))})
    write_report(store.cells, tmp_path / "out", "One", Layout())
    _, rows = read_csv(tmp_path / "out" / "scores.csv")
    assert [(row["row"], row["DINO"]) for row in rows] == [("images", "0.5")]
    assert (tmp_path / "out" / "grid-1.png").exists()


def test_a_cell_that_is_wanted_twice_counts_once(tmp_path: Path):
    """The base model's picture is the same beside every rank."""
    store = Store(tmp_path / "store")
    store.add(
        "base",
        "picture",
        {"method": "Base", "rank": "4", "prompt": "p"},
        {"s.jsonl": jsonl(score("DINO", 0.25)), "a.png": png((9, 9, 9))},
        numbers={"n": 1.0},
    )
    store.want("base", "picture", {"method": "Base", "rank": "8", "prompt": "p"})
    store.add(
        "other",
        "picture",
        {"method": "Base", "rank": "8", "prompt": "q"},
        {"s.jsonl": jsonl(score("DINO", 0.75))},
        numbers={"n": 3.0},
    )
    out = tmp_path / "out"
    write_report(store.cells, out, "x", Layout(rows=("method",), columns=("rank",)))
    (row,) = read_csv(out / "scores.csv")[1]
    assert (row["images"], row["DINO"]) == ("2", "0.5")
    (row,) = read_csv(out / "scores-DINO.csv")[1]
    assert (row["rank 4"], row["rank 8"]) == ("0.25", "0.5")
    (row,) = read_csv(out / "numbers.csv")[1]
    assert (row["cells"], row["n"]) == ("2", "2.0")
    assert len(from_jsonl((out / "scores.jsonl").read_text()).rows) == 2
    write_report(store.cells, out, "x", Layout(rows=("method", "rank")))
    assert [row["DINO"] for row in read_csv(out / "scores.csv")[1]] == ["0.25", "0.5"]


def test_workflows_that_score_several_methods_keep_them_apart(tmp_path: Path):
    store = Store(tmp_path / "store")
    for seed in SEEDS:
        store.add(
            seed,
            "picture",
            {"strength": "0.5", "seed": seed},
            {
                "s.jsonl": jsonl(
                    score("DINO", 0.2, label="base"),
                    score("DINO", 0.6, label="DEFT"),
                    costs=(Cost("DEFT", 12.0, 10, 100),),
                ),
                "again.jsonl": jsonl(score("DINO", 0.2, label="base")),
            },
            needs=("gone",),
        )
    write_report(store.cells, tmp_path / "out", "x", Layout(rows=("strength",)))
    _, rows = read_csv(tmp_path / "out" / "scores.csv")
    assert [(row["strength"], float(row["DINO"]), row["images"], row["training s"]) for row in rows] == [
        ("strength 0.5, base", pytest.approx(0.2), "2", ""),
        ("strength 0.5, DEFT", pytest.approx(0.6), "2", "12.0"),
    ]


def test_training_time_without_an_adapter_at_the_scores(tmp_path: Path):
    """Score Images has no adapter connected: time is known from the training cell, values and bytes are not."""
    store = Store(tmp_path / "store")
    graph = {"7": {"class_type": "TrainLoraNode"}, "8": {"class_type": "DEFTTrainAdapter"}}
    run = CellRun("done", node_seconds={"7": 20.0, "8": 3.0, "gone": 5.0})
    store.add("picture", "picture", {"method": "LoRA"}, {"s.jsonl": jsonl(score("DINO", 0.5))}, needs=("train",))
    store.add("train", "training", {"method": "LoRA"}, prompt=graph, run=run)  # after the cell that needs it
    write_report(store.cells, tmp_path / "out", "x", Layout())
    (row,) = read_csv(tmp_path / "out" / "scores.csv")[1]
    assert (row["training s"], row["values"], row["MiB"]) == ("23.0", "", "")


def test_damaged_stores_make_a_report_that_says_so(tmp_path: Path):
    store = Store(tmp_path / "store")
    good = jsonl(score("DINO", 0.5))
    damaged = {
        "cut": good[:-20],
        "binary": b"\xff\xfe\x00",
        "kinds": good.replace(b'"images": 1', b'"images": "1"'),
        "seeds": good.replace(b'"provenance": {}', b'"provenance": {"seeds": 5}'),
        "texts": good.replace(b'"texts": []', b'"texts": [[1]]'),
        "label": good.replace(b'"label of the workflow"', b'["x"]'),
        "array": b"[1]\n",
        "deep": b"[" * 100_000,
        "huge": good.replace(b"[0.5]", b"[1" + b"0" * 400 + b"]"),
    }
    for name, content in damaged.items():
        store.add(name, "picture", {"a": name}, {"s.jsonl": content, "a.png": png((9, 9, 9))})
    store.add("good", "picture", {"a": "good"}, {"s.jsonl": good, "a.png": png((9, 9, 9))})
    (store.add("nojson", "picture", {"a": "nojson"}, {"s.jsonl": good}) / "s.jsonl").unlink()
    (store.add("nofile", "picture", {"a": "nofile"}, {"a.png": png((9, 9, 9))}) / "a.png").unlink()
    store.add("halfpng", "picture", {"a": "halfpng"}, {"a.png": png((9, 9, 9))[:60]})
    store.add("nan", "picture", {"a": "nan"}, numbers={"n": float("nan")})
    (store.add("record", "picture", {"a": "record"}) / "run.json").write_text("{")
    (tmp_path / "store" / "secret.png").write_bytes(png((7, 7, 7)))
    folder = store.add("escape", "picture", {"a": "escape"}, {"a.png": png((9, 9, 9))})
    text = (folder / "cell.json").read_text().replace('"a.png"', '"../secret.png"')
    (folder / "cell.json").write_text(text)
    out = tmp_path / "out"
    write_report(store.cells, out, "Damaged", Layout())
    parsed = check_links(out)
    problems = parsed.text[parsed.text.index("\nProblems\n") :]
    for name in damaged.keys() - {"binary"}:
        assert f"{name}: s.jsonl, line 1, is not a score" in problems
    assert problems.count("Its scores are skipped.") == len(damaged) + 1
    for part in (
        "run.json cannot be read",
        "the number n is not finite",
        "outside the cell's folder",
        "nofile/a.png cannot be read",
        "halfpng/a.png cannot be read as a picture",
    ):
        assert part in problems, part
    assert [row["a"] for row in read_csv(out / "scores.csv")[1]] == ["good"]
    assert not any(path.read_bytes() == png((7, 7, 7)) for path in (out / "pictures").iterdir())


def places_of(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values in a JSON value."""
    if place:
        yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield from places_of(inner, (*place, name))


def test_no_record_is_so_damaged_that_there_is_no_report(tmp_path: Path):
    """Every value of both files in turn is of each other kind, or not there: a problem of its cell at most."""
    store = Store(tmp_path / "store")
    graph = {"7": {"class_type": "TrainLoraNode", "inputs": {"seed": 1}}}
    run = CellRun("done", "e", 2.0, {"7": 1.0}, {"process": 3.0}, {"torch": "2"}, "w", texts={"Show": ["t"]})
    files = {"s.jsonl": jsonl(score("DINO", 0.5))}

    def add(key: str) -> Path:
        labels = {"a": "good" if key == "good" else "damaged"}
        return store.add(key, "picture", labels, files, run=run, needs=("t",), prompt=graph, numbers={"n": 1.0})

    add("good")
    damaged: dict[str, bool] = {}
    for file in ("cell.json", "run.json"):
        for place in places_of(json.loads((store.folder / "good" / file).read_text())):
            for bad in (None, [], {}, "x", 5, True, [[]], {"x": None}, "gone"):
                key = f"m{len(damaged)}"
                path = add(key) / file
                record = inner = json.loads(path.read_text())
                for name in place[:-1]:
                    inner = inner[name]
                if bad == "gone":
                    del inner[place[-1]]
                else:
                    inner[place[-1]] = bad
                path.write_text(json.dumps(record))
                try:
                    read_record(path.parent)
                    damaged[key] = False
                except ValueError as error:
                    assert str(path) in str(error)
                    damaged[key] = True
    for key, content in {"empty": b"", "zeros": bytes(100), "array": b"[1]", "deep": b"[" * 100_000}.items():
        (add(key) / "cell.json").write_bytes(content)
        damaged[key] = True
    write_report(store.cells, tmp_path / "out", "Damaged", Layout(rows=("a",)))
    states = {row["cell"]: (row["state"], row["error"]) for row in read_csv(tmp_path / "out" / "cells.csv")[1]}
    assert states["good"] == ("done", "e")
    for key, is_damaged in damaged.items():
        assert (states[key][0] == "failed" and "cannot be read" in states[key][1]) or not is_damaged, key
    assert 200 < sum(damaged.values()) < len(damaged)
    assert "good" in [row["a"] for row in read_csv(tmp_path / "out" / "scores.csv")[1]]


def test_scores_that_do_not_compare_are_a_problem(tmp_path: Path):
    store = Store(tmp_path / "store")
    for name in ("one", "two"):
        store.add(
            name,
            "picture",
            {"a": name},
            {"s.jsonl": jsonl(score("DINO", 0.5, backbone=name)), "x.png": png((9, 9, 9))},
            numbers={"n": 1.0},
        )
    write_report(store.cells, tmp_path / "out", "x", Layout())
    assert "two ways that do not compare" in check_links(tmp_path / "out").text
    assert (tmp_path / "out" / "grid-1.png").exists()
    assert (tmp_path / "out" / "numbers.csv").exists()


def test_large_reports_are_divided(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(page, "TILES", 7)
    monkeypatch.setattr(grids, "PAGE_ROWS", 3)
    monkeypatch.setattr(grids, "PAGE_COLUMNS", 2)
    monkeypatch.setattr(grids, "MAX_GRIDS", 3)
    store = Store(tmp_path / "store")
    for method, prompt in product("abcde", "pqr"):
        store.add(method + prompt, "picture", {"method": method, "prompt": prompt}, {"a.png": png((ord(method), 9, 9))})
    out = tmp_path / "out"
    write_report(store.cells, out, "Large", Layout(rows=("method",)))
    assert sorted(path.name for path in out.glob("*.html")) == [
        "index.html",
        "pictures-1.html",
        "pictures-2.html",
        "pictures-3.html",
    ]
    pictures = [
        link
        for place in (1, 2, 3)
        for link in check_links(out, f"pictures-{place}.html").links
        if link.startswith("pictures/")
    ]
    assert len(set(pictures)) == 15
    index = check_links(out)
    assert not [link for link in index.links if link.startswith("pictures/")]
    assert "1 more grids are not drawn" in index.text
    assert sorted(path.name for path in out.glob("grid-*")) == ["grid-1.png", "grid-2.png", "grid-3.png"]
    keys = [
        json.loads(read_text((out / f"grid-{place}.png").read_bytes())["deft_sweep"])["cells"] for place in (1, 2, 3)
    ]
    assert [sorted(part) for part in keys] == [
        ["ap", "aq", "bp", "bq", "cp", "cq"],
        ["ar", "br", "cr"],
        ["dp", "dq", "ep", "eq"],
    ]
    text = (out / "pictures-2.html").read_text()
    assert 'href="pictures-1.html"' in text
    assert 'href="pictures-3.html"' in text


def test_several_pictures_and_sizes_a_cell(tmp_path: Path):
    store = Store(tmp_path / "store")
    same = {"a.png": "Save", "b.png": "Save"}
    store.add("one", "picture", {"m": "x"}, {"a.png": png((10, 0, 0)), "b.png": png((20, 0, 0)), "c.txt": b"<b>"}, same)
    store.add("two", "picture", {"m": "y"}, {"a.png": png((30, 0, 0), (96, 160)), "b.png": png((40, 0, 0))}, same)
    out = tmp_path / "out"
    write_report(store.cells, out, "x", Layout())
    parsed = check_links(out)
    assert {link for link in parsed.links if link.startswith("pictures/")} == {
        f"pictures/{key}-{place}.png" for key in ("one", "two") for place in (1, 2)
    }
    pixels = np.asarray(Image.open(out / "grid-1.png"))
    left, top, right, bottom = box(pixels, (30, 0, 0))
    assert (right - left, bottom - top) == (96, 160)  # in the first one's size, on white
    assert box(pixels, (20, 0, 0)) is None


@pytest.mark.parametrize(
    ("axes", "trained", "expected"),
    [
        (
            {"method": "ab", "rank": "12", "subject": "xy", "prompt": "pq", "seed": "34"},
            ("method", "rank", "subject"),
            (("method", "rank"), ("prompt",)),
        ),
        ({"method": "ab", "prompt": "pq", "seed": "34"}, (), (("method",), ("prompt",))),
        ({"subject": "xy", "seed": "34"}, (), (("subject",), ("seed",))),
        ({"method": "a", "seed": "34"}, ("method",), (("method",), ("seed",))),
        ({"strength": "123", "rank": "45"}, ("rank",), (("rank",), ("strength",))),
    ],
)
def test_what_is_chosen_where_nothing_is_said(axes, trained, expected):
    from deft_pack.sweeps.report.cells import completed

    cells = [ReportCell("p", dict(zip(axes, labels)), "picture", partial(int)) for labels in product(*axes.values())]
    if trained:
        cells.insert(0, ReportCell("t", {axis: axes[axis][0] for axis in trained}, "training", partial(int)))
    layout = completed(Layout(), cells)
    assert (layout.rows, layout.grid_columns) == expected
    assert layout.grid_rows == layout.rows
    assert layout.columns == ()


def test_importing_the_report_is_light(root: Path):
    code = (
        "import sys, importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('pack', r'{root}/__init__.py', "
        f"submodule_search_locations=[r'{root}'])\n"
        "sys.modules['pack'] = importlib.util.module_from_spec(spec)\n"
        "import pack.sweeps.report\n"
        "heavy = ('torch', 'matplotlib', 'transformers', 'jinja2', 'pydantic', 'tqdm')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_scores_stand_beside_a_published_table(tmp_path: Path) -> None:
    """The intervals there are of the means of the seeds, those of the other tables of the prompts' means."""
    store, values = Store(tmp_path / "store"), {}
    for method, seed, prompt in product(("LoRA r32", "mine"), "012", "abcd"):
        value = values[method, seed, prompt] = float(np.random.default_rng(len(values)).normal(0.7, 0.05))
        made = score("DINOv2", value, prompt, protocol="peft", pairing="matched", provenance={"seeds": [int(seed)]})
        labels = {"method": method, "seed": seed, "prompt": prompt}
        cost = Cost("", 100.0 + int(seed), 10, 2**20)
        store.add(f"{method[0]}{seed}{prompt}", "picture", labels, {"scores.jsonl": jsonl(made, costs=(cost,))})
    layout = Layout(rows=("method",), published="PEFT, image generation")
    out = tmp_path / "report"
    write_report(store.cells, out, "Benchmark", layout)
    text = (out / "report.md").read_text()
    assert "## Beside published values: PEFT, image generation" in text
    assert "95% interval of the measured mean, over 3 seeds." in text
    assert "1 of 9 published rows have a measured one." in text
    assert "**Warning:** drift was not measured." in text
    means = [float(np.mean([values["LoRA r32", seed, prompt] for prompt in "abcd"])) for seed in "012"]
    low, high = stats.t.interval(0.95, 2, np.mean(means), stats.sem(means))
    line = f"| LoRA | 32 |  | 0.6972 | LoRA r32 | {np.mean(means):.4f} [{low:.4f}, {high:.4f}] | "
    assert line + f"{np.mean(means) - 0.6972:+.4f} |" in text
    assert "| not published | mine |" in text
    assert "| LoRA | 32 | LoRA r32 | 759 | 101 | 38,338,560 | 10 |" in text
    page_text = (out / "index.html").read_text()
    assert '<a href="#published">Published</a>' in page_text
    assert f"[{low:.4f}, {high:.4f}]" in page_text
    assert "Oddities of the published table" in page_text
    with open(out / "scores.csv", newline="") as file:
        row = next(line for line in csv.DictReader(file) if line["method"] == "LoRA r32")
    prompts = [float(np.mean([values["LoRA r32", seed, prompt] for seed in "012"])) for prompt in "abcd"]
    bounds = stats.t.interval(0.95, 3, np.mean(prompts), stats.sem(prompts))
    assert (float(row["DINOv2 low"]), float(row["DINOv2 high"])) == pytest.approx(bounds, rel=1e-9)
    # One seed only: the prompts are what there is.
    one = [cell for cell in store.cells if cell.labels["seed"] == "0"]
    write_report(one, out, "Benchmark", layout)
    assert "In brackets: 95% interval of the measured mean." in (out / "report.md").read_text()
    write_report(one, out, "Benchmark", Layout(rows=("method",)))
    assert "published" not in (out / "index.html").read_text().lower()
