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
    CellPicture,
    Layout,
    Shown,
    SweepMaterial,
    is_seed,
    joined,
    subject_axis,
)
from ...scoring.pictures import SUFFIXES
from ...scoring.scores import Cost, Score, Scores, from_jsonl, merge
from ..records import Record
from ..training_nodes import trains
from .wanted import Wanted, values_of


def read(cells: Sequence[Wanted], layout: Layout, target: TextIO) -> SweepMaterial:
    """Read every record, one after the other; all scores with all their settings go to `target` as JSON lines.

    layout: a completed one. What is damaged becomes a problem of the result, and no error.
    """
    reader = _Reader(layout, tuple(values_of(cells)), target)
    places = sorted(range(len(cells)), key=lambda place: cells[place].kind != "training")  # stable
    shown: dict[int, Shown] = {place: reader.add(cells[place]) for place in places}  # trainings first: users need them
    remarks = tuple(dict.fromkeys(reader.remarks))
    scores = Scores(tuple(reader.rows), tuple(reader.costs.values()), remarks)
    wanted = set(layout.metrics)
    if wanted:
        known = {row.metric for row in (*reader.rows, *reader.numbers)}
        missing = [metric for metric in layout.metrics if metric not in known]
        if missing and known:
            reader.problems.append(
                f"No cell has the metric {', '.join(missing)} yet; there are {', '.join(sorted(known))}."
            )
        scores = replace(scores, rows=tuple(row for row in scores.rows if row.metric in wanted))
    numbers = Scores(tuple(row for row in reader.numbers if not wanted or row.metric in wanted))
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

    def add(self, wanted: Wanted) -> Shown:
        """Read a cell."""
        row = joined(wanted.labels, self.layout.rows)
        try:
            record = wanted.record()
        except ValueError as error:
            self.problems.append(str(error))
            record = None
        if record is None:
            return Shown(wanted.key, wanted.kind, wanted.labels, row, "not run")
        run, cell = record.run, record.cell
        done = run.status == "done"
        pictures = tuple(self._pictures(wanted.key, record)) if done else ()
        numbers = self._numbers(wanted, row, cell.numbers) if done else {}
        shown = Shown(
            wanted.key,
            wanted.kind,
            wanted.labels,
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
            self._scores(wanted, row, record, len(pictures)) if done else "",
            cell.needs,
            _training_seconds(record) if done and wanted.kind == "training" else None,
        )
        if wanted.kind == "training":
            self.trained[wanted.key] = shown
        self.seen |= {(wanted.key, row), (wanted.key, row, joined(wanted.labels, self.layout.columns))}
        return shown

    def _pictures(self, key: str, record: Record) -> Iterable[CellPicture]:
        """The picture files of a record; their names in the report are safe in links."""
        safe = re.sub(r"[^0-9A-Za-z_-]", "_", key)[:80]
        for file in record.cell.files:
            path, suffix = record.path(file), Path(file.name).suffix.lower()
            if suffix not in SUFFIXES:
                continue
            if not path.resolve().is_relative_to(record.folder.resolve()):
                self.problems.append(f"{key}: {file.name} is outside the cell's folder, and is left out.")
                continue
            yield CellPicture(path, f"{safe}-{record.cell.files.index(file) + 1}{suffix}", sys.intern(file.title))

    def _numbers(self, wanted: Wanted, row: str, numbers: Mapping[str, float]) -> dict[str, float]:
        """The finite numbers of a cell, which become one score each."""
        found = {name: value for name, value in numbers.items() if math.isfinite(value)}
        for name in numbers.keys() - found.keys():
            self.problems.append(f"{wanted.key}: the number {name} is not finite, and is left out.")
        for name, value in found.items():
            self._keep(self.numbers, wanted, row, Score(name, (value,), row, "", 1, 0, "", "", 1.0, "", ""), row)
        return found

    def _scores(self, wanted: Wanted, row: str, record: Record, pictures: int) -> str:
        """Keep the scores of a cell for the tables, write them down; returns their means in a line."""
        parts = []
        for file in record.cell.files:
            if file.name.endswith(".jsonl"):
                try:
                    parts.append(from_jsonl(record.path(file).read_bytes().decode(), f"{wanted.key}: {file.name}"))
                except (OSError, ValueError) as error:
                    self.problems.append(f"{error} Its scores are left out.")
        found = reduce(merge, parts, Scores(()))
        own = {score.label or score.method for score in found.rows}

        def label(name: str) -> str:
            return ", ".join(filter(None, (row, name))) if len(own) > 1 else row

        subject = wanted.labels.get(self.subject or "", "")
        about = {"cell": wanted.key, "labels": dict(wanted.labels)}
        for score in found.rows:
            name = label(score.label or score.method)
            kept = replace(
                score, label=name, subject=subject or score.subject, provenance=score.provenance | {"sweep": about}
            )
            if (wanted.key, row) not in self.seen:
                self.target.write(Scores((kept,)).jsonl())
            self._keep(self.rows, wanted, row, score, name)
        seconds = self._seconds_behind(record.cell.needs) if len(own) < 2 else None
        costs = found.costs or ((Cost(row, seconds, None, None),) if seconds is not None else ())
        for cost in costs:
            place = (record.cell.needs or wanted.key, cost.label, cost.method, cost.rank, row, subject or cost.subject)
            known = seconds if cost.training_seconds is None else cost.training_seconds
            new = replace(
                cost,
                label=label(cost.label or cost.method),
                training_seconds=known,
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
        self.remarks += found.remarks
        return "  ".join(row_scores(found, pictures).note.splitlines()) if found.rows else ""

    def _keep(self, target: list[Score], wanted: Wanted, row: str, score: Score, label: str) -> None:
        """Keep a score under a table's label, and only what a table needs of it.

        A cell that the plan wants twice (the base model's, beside several ranks) counts once in a place of a table.
        Method and rank would part the rows of the chosen axes. Where no prompt is known, the other axes' labels stand
        for it, so that the intervals know which values are samples of the same thing.
        """
        column = joined(wanted.labels, self.layout.columns)
        if (wanted.key, row, column) in self.seen:
            return
        axes = [
            axis
            for axis in wanted.labels
            if axis not in self.layout.rows and axis != self.subject and not is_seed(axis)
        ]
        texts = score.texts if any(score.texts) else (joined(wanted.labels, axes),) * len(score.values)
        kept = {ACROSS: column, AGAIN: (wanted.key, row) in self.seen}
        seeds = score.provenance.get("seeds")
        target.append(
            replace(
                score,
                metric=sys.intern(score.metric),
                label=sys.intern(label),
                method="",
                rank=None,
                subject=sys.intern(wanted.labels.get(self.subject or "", "") or score.subject),
                protocol=sys.intern(score.protocol),
                backbone=sys.intern(score.backbone),
                pictures=(),
                preprocessing=sys.intern(score.preprocessing),
                texts=tuple(map(sys.intern, texts)),
                provenance=kept | ({"seeds": seeds} if seeds else {}),
            )
        )

    def _seconds_behind(self, needs: Iterable[str]) -> float | None:
        """What the trainings of these cells, and of those that they need, took; None where one is not known."""
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
    """What the training nodes of a cell took, or None where that is not known."""
    found = [seconds for node, seconds in record.run.node_seconds.items() if trains(record.cell.prompt.get(node, {}))]
    return math.fsum(found) if found else None
