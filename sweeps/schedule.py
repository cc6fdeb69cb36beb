"""The order of cells: training cells before the pictures that need them, pictures of one adapter on one server."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from graphlib import TopologicalSorter
from typing import Any, Literal

from .planned import Cells, PlannedCell, PlannedTraining
from .records import Kind

Planned = PlannedCell | PlannedTraining
TrainingGroup = tuple[bytes, tuple[str, ...]]  # models and adapters
# What came of the wish to take a cell: it is ours now, another runner is at it, or has done it, or has failed at it.
Taken = Literal["ours", "busy", "done", "failed"]


class Schedule:
    """The cells that are still to be run. Nothing here waits or talks to anybody.

    Cells come in groups with the same models and adapters. A server stays with its group as long as that has cells,
    then takes the first group that nobody works on, then a training, then helps with the largest group.
    """

    def __init__(self, cells: Cells, done: set[str]) -> None:
        self.done = set(done)
        self.broken: set[str] = set()  # trainings that failed
        self.blocked = 0  # cells that were taken out because their training failed
        self.elsewhere = 0  # cells that other runners have ended
        self.groups: dict[TrainingGroup, deque[PlannedCell]] = {}
        seen = set(done)
        for cell in cells.pictures:
            if cell.key not in seen:
                seen.add(cell.key)
                self.groups.setdefault(_group(cell), deque()).append(cell)
        needed = dict.fromkeys(key for _, needs in self.groups for key in self._order(needs, cells.trainings))
        self.trainings = deque(cells.trainings[key] for key in needed)
        self.at: dict[str, TrainingGroup] = {}  # worker -> its group

    def _order(self, needs: Iterable[str], trainings: Mapping[str, PlannedTraining]) -> list[str]:
        """The keys of these trainings and of those that they build on, in the order to run them; done ones are out."""
        graph: dict[str, list[str]] = {}
        waiting = list(needs)
        for key in waiting:  # grows on the way
            if key not in self.done and key not in graph:
                graph[key] = [other for other in trainings[key].needs if other not in self.done]
                waiting += graph[key]
        return list(TopologicalSorter(graph).static_order())

    def next(self, worker: str, holds: set[str], take: Callable[[Planned], Taken]) -> Planned | None:
        """The next cell for a worker; None if nothing can be run now.

        holds: training cells whose adapters are on the worker already. take: tries to claim a cell.
        """
        for group in self._choices(worker, holds):
            cell = self._take(self.groups[group], take)
            if cell:
                self.at[worker] = group
            self._clear(group)
            if cell:
                return cell
        ready = deque(training for training in self.trainings if self._ready(training.needs))
        before = set(ready)
        training = self._take(ready, take)
        gone = before.difference(ready)
        self.trainings = deque(each for each in self.trainings if each not in gone)
        if training:
            return training
        if gone:  # done elsewhere: their pictures can be made now
            return self.next(worker, holds, take)
        for group in sorted(self.groups, key=lambda group: -len(self.groups[group])):
            if self._ready(group[1]):
                cell = self._take(self.groups[group], take, last=True)  # from the other end than its own server
                self._clear(group)
                if cell:
                    return cell
        return None

    def _take(self, cells: deque[Any], take: Callable[[Planned], Taken], last: bool = False) -> Any:
        """Take the first (or last) cell that can be had out of the queue; cells that have ended leave it, too."""
        busy: deque[Any] = deque()
        claimed = None
        while cells and claimed is None:
            cell = cells.pop() if last else cells.popleft()
            taken = take(cell)
            if taken == "ours":
                claimed = cell
            elif taken != "busy":
                self.elsewhere += 1
                if taken == "done":
                    self.done.add(cell.key)
                elif isinstance(cell, PlannedTraining):
                    self.failed(cell.key)
            elif last:
                busy.appendleft(cell)
            else:
                busy.append(cell)
        if last:
            cells.extend(busy)
        else:
            cells.extendleft(reversed(busy))
        return claimed

    def _choices(self, worker: str, holds: set[str]) -> list[TrainingGroup]:
        """The worker's own group, then groups that nobody is at, those whose adapters it holds first."""
        mine = self.at.get(worker)
        taken = {group for name, group in self.at.items() if name != worker}
        free = [group for group in self.groups if group != mine and group not in taken and self._ready(group[1])]
        free.sort(key=lambda group: not (group[1] and holds.issuperset(group[1])))
        return ([mine] if mine is not None and mine in self.groups and self._ready(mine[1]) else []) + free

    def _ready(self, needs: tuple[str, ...]) -> bool:
        return self.done.issuperset(needs)

    def _clear(self, group: TrainingGroup) -> None:
        if group in self.groups and not self.groups[group]:
            del self.groups[group]
            for worker in [name for name, at in self.at.items() if at == group]:
                del self.at[worker]

    def back(self, cell: Planned) -> None:
        """A cell that was taken and not run after all."""
        if isinstance(cell, PlannedTraining):
            self.trainings.appendleft(cell)
        else:
            self.groups.setdefault(_group(cell), deque()).appendleft(cell)

    def finished(self, key: str) -> None:
        """A cell is done, here or by another runner."""
        self.done.add(key)

    def failed(self, key: str) -> None:
        """A training has failed: what needs it cannot be run, and is taken out."""
        self.broken.add(key)
        while lost := {training for training in self.trainings if self.broken.intersection(training.needs)}:
            self.trainings = deque(training for training in self.trainings if training not in lost)
            self.broken |= {training.key for training in lost}
            self.blocked += len(lost)
        for group in [group for group in self.groups if self.broken.intersection(group[1])]:
            self.blocked += len(self.groups.pop(group))

    def drop(self, keys: set[str]) -> None:
        """Take out cells that another runner has finished meanwhile."""
        before = self.left
        self.done |= keys
        for group in list(self.groups):
            kept = deque(cell for cell in self.groups[group] if cell.key not in keys)
            if kept:
                self.groups[group] = kept
            else:
                del self.groups[group]
        self.trainings = deque(training for training in self.trainings if training.key not in keys)
        self.elsewhere += before - self.left

    @property
    def left_by_kind(self) -> Counter[Kind]:
        """The number of cells of each kind that are neither taken nor out."""
        return Counter({"training": len(self.trainings), "picture": sum(map(len, self.groups.values()))})

    @property
    def left(self) -> int:
        """The number of cells that are neither taken nor out."""
        return self.left_by_kind.total()


def _group(cell: PlannedCell) -> TrainingGroup:
    return cell.models, cell.needs
