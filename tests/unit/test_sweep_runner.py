"""A runner of sweeps with stand-ins for its servers: cells whose server dies."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from pathlib import Path
from typing import Any

from deft_pack.sweeps.errors import ServerLost
from deft_pack.sweeps.progress import SweepProgress
from deft_pack.sweeps.records import Cell, CellRun
from deft_pack.sweeps.runner import Runner
from deft_pack.sweeps.store import Store

from .sweep_nodes import training
from .test_sweep_cells import compiled

PLAN = """
axes:
  method: {values: {DEFT: {Train.method: deft}, LoRA: {Train.method: lora}}}
  seed: {into: Sample.seed, seeds: 2}
"""


class StandIn:
    """A worker whose server dies at the cells of `deadly`, so many times each; every other cell is done."""

    name, slots = "server-1", 2

    def __init__(self, deadly: dict[str, int]) -> None:
        self.deadly, self.starts, self.holds = Counter(deadly), 0, set[str]()
        self.tried: Counter[str] = Counter()

    async def start(self) -> None:
        self.starts += 1

    async def stop(self) -> None:
        pass

    restart = start

    async def run(self, job: Any, scratch: Path, event: Any) -> tuple[Cell, CellRun]:
        event("execution_start", {})
        self.tried[job.key] += 1
        await asyncio.sleep(0)
        if self.deadly[job.key] > 0:
            self.deadly[job.key] -= 1
            raise ServerLost("the server went away")
        return Cell(job.key, job.kind, job.labels, job.needs, job.whole), CellRun("done")


def ran(folder: Path, times: int) -> tuple[Any, Store, StandIn, str, str]:
    """The plan on a server that dies so many times at the first training; what came of it."""
    compiler, cells = compiled(folder, training(), PLAN)
    deadly = next(iter(cells.trainings))
    worker, store, log = StandIn({deadly: times}), Store.open(folder / "store", "plan"), io.StringIO()
    result = asyncio.run(Runner(compiler, cells, store, [worker], SweepProgress(out=log)).run())  # type: ignore[list-item]
    return result, store, worker, deadly, log.getvalue()


def test_a_cell_whose_server_died_is_run_once_more(tmp_path: Path) -> None:
    result, store, worker, deadly, log = ran(tmp_path, times=1)
    assert dict(result.counts) == {"done": 6}
    assert worker.starts == 2
    assert worker.tried[deadly] == 2
    assert "server-1: the server went away; trying again" in log
    record = store.read(deadly)
    assert record is not None
    assert record.run.attempts == 2


def test_a_cell_that_kills_its_server_is_not_tried_for_ever(tmp_path: Path) -> None:
    """The cell is written down as failed, its pictures are left out, and the others are done."""
    result, store, worker, deadly, _ = ran(tmp_path, times=5)
    assert dict(result.counts) == {"done": 3, "failed": 1}
    assert result.blocked == 2
    assert worker.tried[deadly] == 2
    assert worker.starts == 3  # a new one after each
    record = store.read(deadly)
    assert record is not None
    assert record.run.status == "failed"
    assert record.run.attempts == 2
    assert "the server died 2 times while it ran this cell: the server went away" in record.run.error
