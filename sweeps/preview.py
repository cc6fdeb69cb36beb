"""A plan as people read it: its cells, their order, what is done, and how long the rest may take."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Sequence

from .cells import Compiler
from .planned import Cells
from .progress import describe, duration
from .store import Store

SAMPLE = 50  # records that an estimate looks at
SHOWN = 20  # cells that are printed


def print_plan(compiler: Compiler, cells: Cells, store: Store, every: bool) -> None:
    """Print the cells, their order, how many are done, and how long the remaining ones may take."""
    plan, done = compiler.plan, store.keys("done")
    print(f"{plan.name}: {plan.about}" if plan.about else plan.name)
    for axis in plan.axes:
        labels = [value.label for value in axis.values]
        print(f"  {axis.name}: {len(labels)} ({_shortened(labels)})")
    if plan.axes:
        print("  slowest to fastest: " + ", ".join(plan.axes[index].name for index in compiler.axis_order()))
    pictures = {cell.key: cell for cell in reversed(cells.pictures)}  # of equal ones the first
    pictures = dict(reversed(pictures.items()))
    for what, keys in (("training", list(cells.trainings)), ("picture", list(pictures))):
        if keys or what == "picture":
            ready = sum(key in done for key in keys)
            print(f"  {len(keys)} {what} cells, {ready} of them in the store")
    if len(pictures) < len(cells.pictures):
        print(f"  {len(cells.pictures)} combinations, some of which are the same cell")
    for remark in cells.remarks:
        print(f"  {remark}")
    shown = list(pictures.values()) if every else list(pictures.values())[:SHOWN]
    trained: set[str] = set()
    for cell in shown:
        for key in cell.needs:
            if key not in trained:
                trained.add(key)
                training = cells.trainings[key]
                print(f"    {'done' if key in done else '    '} train  {describe(compiler.labels_of(training))}")
        print(f"    {'done' if cell.key in done else '    '} sample {describe(compiler.labels_of(cell))}")
    if len(shown) < len(pictures):
        print(f"    ... and {len(pictures) - len(shown)} more (--all)")
    left = {
        "training": [key for key in cells.trainings if key not in done],
        "picture": [key for key in pictures if key not in done],
    }
    print(f"  estimate: {estimate(store, cells, done, left)}")


def _shortened(labels: Sequence[str]) -> str:
    text = ", ".join(label if len(label) < 40 else f"{label[:37]}..." for label in labels[:6])
    return text + (", ..." if len(labels) > 6 else "")


def estimate(store: Store, cells: Cells, done: set[str], left: dict[str, list[str]]) -> str:
    """The time that the remaining cells may take on one server, by the medians of the cells that are in the store."""
    if not any(left.values()):
        return "everything is done"
    finished = {
        "training": [key for key in cells.trainings if key in done],
        "picture": [cell.key for cell in cells.pictures if cell.key in done],
    }
    total, unknown = 0.0, []
    for kind, keys in left.items():
        if keys:
            seconds = []
            for key in finished[kind][:: max(1, len(finished[kind]) // SAMPLE)]:
                with contextlib.suppress(ValueError):  # a damaged record, which `report` names
                    record = store.read(key)
                    seconds += [record.run.seconds] if record else []
            if seconds:
                total += statistics.median(seconds) * len(keys)
            else:
                unknown.append(kind)
    if unknown:
        return f"not known yet: no {' and no '.join(unknown)} cell of this plan has been run"
    return f"{duration(total)} on one server, by the cells that are done"
