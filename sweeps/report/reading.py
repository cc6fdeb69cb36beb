"""Reads the records of all cells once, and keeps what a report needs of them: no pictures, no workflows."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TextIO

from ...reports.arrangement import row_scores
from ...reports.sweep.material import (
    ACROSS,
    AGAIN,
    SEED,
    CellPicture,
    Layout,
    Shown,
    SweepMaterial,
    is_seed,
    joined,
    subject_axis,
)
from ...scoring.pictures import PICTURE_SUFFIXES
from ...scoring.scores import Cost, Score, Scores, from_bytes, merge
from ..records import Record
from ..training_nodes import trains
from .cells import ReportCell, values_of


def read(cells: Sequence[ReportCell], layout: Layout, target: TextIO) -> SweepMaterial:
    """Read every record, one after the other; all scores with all their settings go to `target` as JSON lines.

    layout: a completed one. What is damaged becomes a problem of the result, and no error.
    """
    reader = _Reader(layout, tuple(values_of(cells)), target)
    places = sorted(range(len(cells)), key=lambda place: cells[place].kind != "training")  # stable
    shown: dict[int, Shown] = {place: reader.add(cells[place]) for place in places}  # trainings first: users need them
    remarks = tuple(dict.fromkeys(reader.remarks))
    scores = Scores(tuple(reader.rows), tuple(reader.costs.values()), remarks)
    metrics = set(layout.metrics)
    if metrics:
        measured = {row.metric for row in (*reader.rows, *reader.numbers)}
        missing = [metric for metric in layout.metrics if metric not in measured]
        if missing and measured:
            reader.problems.append(
                f"No cell has the metric {', '.join(missing)} yet; there are {', '.join(sorted(measured))}."
            )
        scores = replace(scores, rows=tuple(row for row in scores.rows if row.metric in metrics))
    numbers = Scores(tuple(row for row in reader.numbers if not metrics or row.metric in metrics))
    return SweepMaterial(layout, [shown[place] for place in range(len(cells))], scores, numbers, reader.problems)


class _Reader:
    """Collects from one record after the other."""

    def __init__(self, layout: Layout, axes: tuple[str, ...], target: TextIO) -> None:
        self.layout, self.target, self.subject = layout, target, subject_axis(axes)
        self.trained: dict[str, Shown] = {}
        self.rows: list[Score] = []
        self.numbers: list[Score] = []
        self.costs: dict[tuple[object, ...], Cost] = {}
        self.remarks: list[str] = []
        self.problems: list[str] = []
        self.seen: set[tuple[str, ...]] = set()

    def add(self, cell: ReportCell) -> Shown:
        """Read a cell."""
        row = joined(cell.labels, self.layout.rows)
        try:
            record = cell.record()
        except ValueError as error:
            self.problems.append(str(error))
            return Shown(cell.key, cell.kind, cell.labels, row, "failed", f"its record is damaged: {error}")
        if record is None:
            return Shown(cell.key, cell.kind, cell.labels, row, "not run")
        run, stored = record.run, record.cell
        done = run.status == "done"
        pictures = tuple(self._pictures(cell.key, record)) if done else ()
        numbers = self._numbers(cell, row, stored.numbers) if done else {}
        shown = Shown(
            cell.key,
            cell.kind,
            cell.labels,
            row,
            run.status,
            run.error,
            run.seconds,
            run.memory,
            tuple((sys.intern(name), sys.intern(value)) for name, value in run.versions.items()),
            sys.intern(run.worker),
            run.attempts,
            run.finished,
            pictures,
            numbers,
            self._scores(cell, row, record, len(pictures)) if done else "",
            stored.needs,
            _training_seconds(record) if done and cell.kind == "training" else None,
        )
        if cell.kind == "training":
            self.trained[cell.key] = shown
        self.seen |= {(cell.key, row), (cell.key, row, joined(cell.labels, self.layout.columns))}
        return shown

    def _pictures(self, key: str, record: Record) -> Iterable[CellPicture]:
        """The picture files of a record; their names in the report are safe in links."""
        safe = re.sub(r"[^0-9A-Za-z_-]", "_", key)[:80]
        for file in record.cell.files:
            path, suffix = record.path(file), Path(file.name).suffix.lower()
            if suffix not in PICTURE_SUFFIXES:
                continue
            if not path.resolve().is_relative_to(record.folder.resolve()):
                self.problems.append(f"{key}: {file.name} is outside the cell's folder and is skipped.")
                continue
            yield CellPicture(path, f"{safe}-{record.cell.files.index(file) + 1}{suffix}", sys.intern(file.title))

    def _numbers(self, cell: ReportCell, row: str, numbers: Mapping[str, float]) -> dict[str, float]:
        """The finite numbers of a cell, which become one score each."""
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        for name in numbers.keys() - finite.keys():
            self.problems.append(f"{cell.key}: the number {name} is not finite and is skipped.")
        for name, value in finite.items():
            self._keep(self.numbers, cell, row, Score(name, (value,), row, "", 1, 0, "", "", 1.0, "", ""), row)
        return finite

    def _scores(self, cell: ReportCell, row: str, record: Record, pictures: int) -> str:
        """Keep the scores of a cell for the tables, write them down; returns their means in a line."""
        parts = []
        for file in record.cell.files:
            if file.name.endswith(".jsonl"):
                try:
                    parts.append(from_bytes(record.path(file).read_bytes(), f"{cell.key}: {file.name}"))
                except (OSError, ValueError) as error:
                    self.problems.append(f"{error} Its scores are skipped.")
                except OverflowError:  # a whole number may have any number of digits
                    self.problems.append(
                        f"{cell.key}: {file.name} has a number that is too large. Its scores are skipped."
                    )
        scores = reduce(merge, parts, Scores(()))
        labels = {score.label or score.method for score in scores.rows}

        def label(name: str) -> str:
            return ", ".join(filter(None, (row, name))) if len(labels) > 1 else row

        subject = cell.labels.get(self.subject or "", "")
        about = {"cell": cell.key, "labels": dict(cell.labels)}
        for score in scores.rows:
            name = label(score.label or score.method)
            kept = replace(
                score, label=name, subject=subject or score.subject, provenance=score.provenance | {"sweep": about}
            )
            if (cell.key, row) not in self.seen:
                self.target.write(Scores((kept,)).jsonl())
            self._keep(self.rows, cell, row, score, name)
        seconds = self._seconds_behind(record.cell.needs) if len(labels) < 2 else None
        costs = scores.costs or ((Cost(row, seconds, None, None),) if seconds is not None else ())
        for cost in costs:
            place = (record.cell.needs or cell.key, cost.label, cost.method, cost.rank, row, subject or cost.subject)
            training_seconds = seconds if cost.training_seconds is None else cost.training_seconds
            new = replace(
                cost,
                label=label(cost.label or cost.method),
                training_seconds=training_seconds,
                method="",
                rank=None,
                subject=subject or cost.subject,
            )
            if place not in self.costs:
                self.target.write(
                    Scores((), (replace(new, method=cost.method, rank=cost.rank),)).jsonl()
                    if new.values is not None
                    else ""
                )
                self.costs[place] = new
        self.remarks += scores.remarks
        return "  ".join(row_scores(scores, pictures).note.splitlines()) if scores.rows else ""

    def _keep(self, target: list[Score], cell: ReportCell, row: str, score: Score, label: str) -> None:
        """Keep a score under a table's label, and only what a table needs of it.

        A cell that the plan wants twice (the base model's, beside several ranks) counts once in a place of a table.
        Method and rank would part the rows of the chosen axes. Where no prompt is known, the other axes' labels stand
        for it, so that the intervals know which values are samples of the same thing.
        """
        column = joined(cell.labels, self.layout.columns)
        if (cell.key, row, column) in self.seen:
            return
        axes = [
            axis for axis in cell.labels if axis not in self.layout.rows and axis != self.subject and not is_seed(axis)
        ]
        texts = score.texts if any(score.texts) else (joined(cell.labels, axes),) * len(score.values)
        kept: dict[str, object] = {ACROSS: column, AGAIN: (cell.key, row) in self.seen}
        kept[SEED] = sys.intern(joined(cell.labels, filter(is_seed, cell.labels)))
        seeds = score.provenance.get("seeds")
        target.append(
            replace(
                score,
                metric=sys.intern(score.metric),
                label=sys.intern(label),
                method="",
                rank=None,
                subject=sys.intern(cell.labels.get(self.subject or "", "") or score.subject),
                protocol=sys.intern(score.protocol),
                backbone=sys.intern(score.backbone),
                pictures=(),
                preprocessing=sys.intern(score.preprocessing),
                texts=tuple(map(sys.intern, texts)),
                provenance=kept | ({"seeds": seeds} if seeds else {}),
            )
        )

    def _seconds_behind(self, needs: Iterable[str]) -> float | None:
        """The seconds of the trainings of these cells, and of those that they need; None where one is not known."""
        waiting, seen, total = list(needs), set[str](), 0.0
        while waiting:
            key = waiting.pop()
            if key in seen:
                continue
            seen.add(key)
            training = self.trained.get(key)
            if training is None or training.training_seconds is None:
                return None
            total += training.training_seconds
            waiting += training.needs
        return total if seen else None


def _training_seconds(record: Record) -> float | None:
    """The seconds of the training nodes of a cell; None where they are not known."""
    seconds_of_nodes = [
        seconds for node, seconds in record.run.node_seconds.items() if trains(record.cell.prompt.get(node, {}))
    ]
    return math.fsum(seconds_of_nodes) if seconds_of_nodes else None
