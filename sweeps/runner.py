"""Runs the cells of a plan on one or more servers until all are in the store."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .cells import Compiler
from .errors import Denied, ServerLost
from .planned import Cells, PlannedTraining
from .progress import SweepProgress
from .records import Cell, CellRun, Kind
from .schedule import Planned, Schedule, Taken
from .store import BEAT, SERVERS, Store
from .worker import ADAPTER_FILE, Job, Worker

ATTEMPTS = 2  # a cell whose server died is run once more
POLL = 1.0  # seconds between looks at what other runners have done


@dataclass
class SweepResult:
    """The outcome of a run of the plan.

    counts: cells by status. blocked: cells whose training failed. elsewhere: cells that other runners have ended.
    stopped: why it ended early, "" if it did not.
    """

    counts: Counter[str] = field(default_factory=Counter)
    blocked: int = 0
    elsewhere: int = 0
    stopped: str = ""


class Runner:
    """One run of a plan. `stop` may be called at any time, from a signal."""

    def __init__(
        self, compiler: Compiler, cells: Cells, store: Store, workers: Sequence[Worker], progress: SweepProgress
    ) -> None:
        self.cells = cells
        self.compiler, self.store, self.workers, self.progress = compiler, store, list(workers), progress
        done = store.keys("done")
        # Adapters that were removed by hand, to save room: they are made again where a picture needs them.
        lacking = {key for key in done & set(cells.trainings) if not (store.folder(key) / ADAPTER_FILE).is_file()}
        self.schedule = Schedule(cells, done - lacking)
        for key in lacking.intersection(training.key for training in self.schedule.trainings):
            store.forget(key)
        self.result = SweepResult()
        self.held: set[str] = set()
        self.stopping = False
        self.stops = 0  # times that `stop` was called
        self.tasks: dict[asyncio.Task[None], str] = {}
        self.connecting: set[asyncio.Task[None]] = set()
        self.lost: Counter[str] = Counter()
        self.failed_before = store.keys("failed") | store.keys("cancelled")
        self._changed = asyncio.Event()

    def stop(self) -> None:
        """Stop the run. First: running cells are finished, nothing new is begun. Again: running cells are cancelled."""
        self.stops += 1
        if self.stopping:
            self.progress.log("cancelling the running cells; press Ctrl+C again to quit at once")
            for task in (*self.tasks, *self.connecting):
                task.cancel()
        else:
            self.stopping = True
            for worker in self.workers:
                if worker.client is not None:
                    worker.client.sends_again = False
            self.result.stopped = "stopped; run the same command again to continue"
            self.progress.log("finishing the running cells; press Ctrl+C again to cancel them")
        self._changed.set()

    async def run(self) -> SweepResult:
        """Run everything that can be run."""
        self.progress.begin(self.schedule.left)
        if not self.schedule.left:
            return self.result
        beating = asyncio.create_task(self._beat())
        try:
            loops = [asyncio.create_task(self._serve(worker)) for worker in self.workers]
            outcomes = await asyncio.gather(*loops, return_exceptions=True)
            errors = [error for error in outcomes if isinstance(error, BaseException)]
            for error in errors:
                if not isinstance(error, RuntimeError):
                    raise error
                self.progress.log(f"a server failed: {error}")
            if len(errors) == len(loops) and not self.stops:
                self.result.stopped = "no server is left; run the same command again to continue"
            self.result.blocked, self.result.elsewhere = self.schedule.blocked, self.schedule.elsewhere
            return self.result
        finally:
            beating.cancel()
            for key in list(self.held):
                self.store.release(key)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            await asyncio.to_thread(self.store.beat, list(self.held))

    # One worker

    async def _serve(self, worker: Worker) -> None:
        """Keep a worker busy until nothing is left."""
        try:
            await self._connect(worker.start())
            running: set[asyncio.Task[None]] = set()
            while True:
                while not self.stopping and len(running) < worker.slots:
                    cell = self.schedule.next(worker.name, worker.holds, self._take)
                    if cell is None:
                        break
                    task = asyncio.create_task(self._run(worker, cell))
                    self.tasks[task] = cell.key
                    task.add_done_callback(lambda task: self.tasks.pop(task, None))
                    running.add(task)
                if not running and (self.stopping or not self._more()):
                    return
                await self._something(running)
                for task in [task for task in running if task.done()]:
                    running.remove(task)
                    if task.cancelled():
                        continue
                    error = task.exception()
                    if isinstance(error, ServerLost):
                        await asyncio.gather(*running, return_exceptions=True)
                        running = {task for task in running if not task.done()}
                        self.progress.log(f"{worker.name}: {error}; trying again")
                        await self._connect(worker.restart())
                        break
                    if error is not None:
                        worker.client.give_up()  # or the other cells there would be waited for
                        await asyncio.gather(*running, return_exceptions=True)
                        raise error
        finally:
            await asyncio.shield(worker.stop())

    async def _connect(self, starting: Coroutine[Any, Any, None]) -> None:
        """Start or restart a worker. Raises RuntimeError if `stop` cancels it."""
        task = asyncio.create_task(starting)
        self.connecting.add(task)
        try:
            await task
        except asyncio.CancelledError:
            if not self.stops:
                raise
            raise RuntimeError("cancelled by hand") from None
        finally:
            self.connecting.discard(task)

    def _more(self) -> bool:
        """Whether there is, or may come, something for a worker to do."""
        return bool(self.tasks) or self.schedule.left > 0

    async def _something(self, running: set[asyncio.Task[None]]) -> None:
        """Wait until a cell has ended somewhere, or for a moment if other runners hold what is left."""
        self._changed.clear()
        change = asyncio.create_task(self._changed.wait())
        await asyncio.wait({*running, change}, timeout=POLL, return_when=asyncio.FIRST_COMPLETED)
        change.cancel()
        if not running and not self.stopping:
            self._look_at_others()

    def _look_at_others(self) -> None:
        """Look at what other runners have finished meanwhile, and for whom we wait."""
        self.schedule.drop(self.store.keys("done"))
        holders = {
            str(owner)
            for name, owner in self.store.claims()
            if owner and owner != self.store.owner and not name.startswith(SERVERS)
        }
        self.progress.waiting(sorted(holders))

    def _take(self, cell: Planned) -> Taken:
        """Claim a cell, unless another runner is at it or has finished it."""
        if not self.store.claim(cell.key):
            return "busy"
        self.held.add(cell.key)
        status = self.store.status(cell.key)
        if status == "done" or (status is not None and cell.key not in self.failed_before):
            self._give_up(cell.key)
            return "done" if status == "done" else "failed"
        return "ours"

    def _give_up(self, key: str) -> None:
        self.held.discard(key)
        self.store.release(key)

    # One cell

    async def _run(self, worker: Worker, cell: Planned) -> None:
        scratch: Path | None = None
        try:
            scratch = self.store.scratch()
            job = self.job(cell)
            attempt = 1 + self.lost[cell.key]
            begun = False

            def event(kind: str, data: dict[str, Any]) -> None:
                nonlocal begun
                begun = begun or kind == "execution_start"
                self.progress.event(worker.name, job, kind, data)

            try:
                record, run = await worker.run(job, scratch, event)
            except ServerLost as error:
                self.lost[cell.key] += begun  # a cell that only waited there is not to blame
                if not begun or attempt < ATTEMPTS:
                    self.schedule.back(cell)
                    raise
                record, run = self._ended(job, f"the server died {attempt} times while it ran this cell: {error}")
                await self._keep(cell, record, replace(run, attempts=attempt), scratch)
                raise
            except Denied:
                self.schedule.back(cell)
                raise
            except asyncio.CancelledError:
                record, run = self._ended(job, "cancelled by hand", "cancelled")
                await self._keep(cell, record, run, scratch)
                return
            await self._keep(cell, record, replace(run, attempts=attempt), scratch)
        except OSError as error:
            self.stopping = True
            self.result.stopped = (
                f"the store {self.store.root} cannot be used ({str(error).rstrip('.')}); correct this and run the same "
                "command again: finished cells are kept"
            )
        finally:
            if scratch is not None:
                shutil.rmtree(scratch, ignore_errors=True)
            self._give_up(cell.key)
            self._changed.set()

    def _ended(self, job: Job, error: str, status: Any = "failed") -> tuple[Cell, CellRun]:
        return Cell(job.key, job.kind, job.labels, job.needs, job.whole), CellRun(status, error)

    async def _keep(self, cell: Planned, record: Cell, run: CellRun, scratch: Any) -> None:
        kept = await asyncio.to_thread(self.store.put, record, run, scratch)
        self.result.counts[run.status] += kept  # not if another runner was first
        if run.status == "done":
            self.schedule.finished(cell.key)
        elif isinstance(cell, PlannedTraining):
            self.schedule.failed(cell.key)
        running: Counter[Kind] = Counter(
            "training" if key in self.cells.trainings else "picture" for key in self.held - {cell.key}
        )
        self.progress.end(record, run, self.schedule.left_by_kind + running)

    def job(self, cell: Planned) -> Job:
        """A cell with all that a server needs for it."""
        compiler = self.compiler
        kind = compiler.kind_of(cell)
        prompt = compiler.prompt_of(cell)
        whole = compiler.whole(cell.choice)
        return Job(
            cell.key,
            kind,
            compiler.plan.name,
            compiler.labels_of(cell),
            cell.needs,
            prompt,
            whole,
            compiler.plan.outputs,
            compiler.titles(prompt),
            {key: self.store.folder(key) / ADAPTER_FILE for key in cell.needs},
            compiler.uploads(cell.choice),
            frozenset(
                key
                for key in (*cell.needs, cell.key)
                if key in self.cells.trainings and compiler.is_embedding(self.cells.trainings[key])
            ),
            compiler.plan.time_limit,
        )


async def run_until_signal(runner: Runner) -> SweepResult:
    """Run, and stop gently at Ctrl-C: once to finish what runs, twice to cancel it, three times to wait for nothing."""
    import signal

    loop = asyncio.get_running_loop()
    running = asyncio.create_task(runner.run())

    def stop() -> None:
        runner.stop()
        if runner.stops > 2:
            running.cancel()

    signals = [signal.SIGINT, signal.SIGTERM]
    with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C ends the program, and the store stays whole
        for each in signals:
            loop.add_signal_handler(each, stop)
    try:
        return await running
    except asyncio.CancelledError:
        if runner.stops <= 2:
            raise
        return runner.result
    finally:
        with contextlib.suppress(NotImplementedError):
            for each in signals:
                loop.remove_signal_handler(each)
