"""Sweeps on a Ray cluster: real ComfyUI in its actors, small trainings, actors and servers that die."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from PIL import Image

from deft_pack.sweeps import remote
from deft_pack.sweeps.launch import compiled
from deft_pack.sweeps.node import work_folder
from deft_pack.sweeps.plan import read_plan
from deft_pack.sweeps.progress import Progress
from deft_pack.sweeps.runner import Result, Runner
from deft_pack.sweeps.server import Server, find_comfyui
from deft_pack.sweeps.store import Store
from deft_pack.sweeps.worker import ADAPTER, Worker

from ..scripts import load_script
from .sweep_tools import contents

ROOT = Path(__file__).resolve().parent.parent.parent
PLAN = """
workflow: workflow.json
axes:
  rank: {into: Train.method.rank, values: [2, 4]}
  photo: {into: Photo.image, files: photos/*.png}
  seed: {into: Sample.seed, seeds: 3, first: 7}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan with its files, and a base folder of ComfyUI with the pack."""
    folder = tmp_path_factory.mktemp("sweep ray")
    (folder / "base" / "custom_nodes").mkdir(parents=True)
    (folder / "base" / "custom_nodes" / "deft nodes-1.0").symlink_to(ROOT, target_is_directory=True)
    api = json.loads((ROOT / "example_workflows" / "api" / "compare_methods.json").read_text())
    workflow = {node_id: api[node_id] for node_id in ("1", "2", "3", "5", "6", "8", "9", "10", "20", "30", "43", "53")}
    workflow["4"] = {"class_type": "LoadImage", "inputs": {"image": "none.png"}, "_meta": {"title": "Photo"}}
    workflow["6"]["inputs"]["text"] = "a photo of a sks teddy bear"
    workflow["8"]["inputs"]["text"] = "a sks teddy bear on a red background"
    workflow["20"]["inputs"].update({"steps": 30, "batch_size": 1})
    workflow["20"]["_meta"]["title"] = "Train"
    workflow["43"]["inputs"].update({"model": ["30", 0], "steps": 3})
    workflow["43"]["_meta"]["title"] = "Sample"
    workflow["72"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["53", 0], "filename_prefix": "picture"},
        "_meta": {"title": "Save"},
    }
    (folder / "workflow.json").write_text(json.dumps(workflow))
    (folder / "small.yaml").write_text(PLAN)
    (folder / "photos").mkdir()
    for name in ("one", "two"):
        noise = hashlib.shake_256(name.encode()).digest(64 * 64 * 3)
        Image.frombytes("RGB", (64, 64), noise).save(folder / "photos" / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def comfyui() -> Path:
    return Path(load_script("comfy_server").find_comfyui())


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster of this machine that has two CPUs, however many the machine has."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        logging_level="error",
        log_to_driver=False,
        object_store_memory=remote.OBJECTS,
    )
    yield
    ray.shutdown()


class Murder(Progress):
    """Calls `kill` once, when a worker of that name is in the midst of a cell after its first one.

    It has a cell in the store then, also if the other worker does all that is left before it is back. And it has no
    other that has ended and is not in the store yet: that would be lost as well.
    """

    def __init__(self, name: str, kill: Any, after: int = 1) -> None:
        super().__init__(out=io.StringIO())
        self.name, self.kill, self.after = name, kill, after
        self.seen: set[str] = set()
        self.begun: set[str] = set()
        self.stored: set[str] = set()

    def event(self, worker: str, job: Any, kind: str, data: dict[str, Any]) -> None:
        """A message of a server."""
        self.seen.add(kind)
        if worker == self.name and kind == "progress" and self.kill:
            self.begun.add(job.key)
            if len(self.begun) > self.after and self.begun - self.stored == {job.key}:
                self.kill, kill = None, self.kill
                kill()

    def end(self, cell: Any, run: Any, left: Any) -> None:
        """A cell is in the store."""
        self.stored.add(cell.key)
        super().end(cell, run, left)


async def sweep(folder: Path, store: Store, workers: list[Any], progress: Progress) -> Result:
    """What `sweeps run` does, but that all servers are up before it begins: the cells take a second each."""
    plan = read_plan(folder / "small.yaml")
    await asyncio.gather(*(worker.start() for worker in workers))
    compiler, cells = await asyncio.to_thread(
        compiled, plan, workers[0].facts, "", store, getattr(workers[0], "files", None)
    )
    return await Runner(compiler, cells, store, workers, progress).run()


def arguments(folder: Path) -> list[str]:
    return ["--cpu", "--base-directory", str(folder / "base")]


@pytest.fixture(scope="module")
def plain(folder: Path, comfyui: Path) -> dict[str, str]:
    """What a run on one server of our own gives."""
    store = Store.open(folder / "plain", "small")
    worker = Worker("plain", server=Server(find_comfyui(ROOT, comfyui), folder / "plain work", arguments(folder)))
    result = asyncio.run(sweep(folder, store, [worker], Progress(out=io.StringIO())))
    assert dict(result.counts) == {"done": 16}, result
    assert len(worker.holds) == 4
    return contents(store.root)


def servers(store: Store) -> dict[str, psutil.Process]:
    """Name of a worker -> its ComfyUI."""
    return {
        path.parent.name: psutil.Process(int(path.read_text().split()[0]))
        for path in (store.root / "work").glob("*/server.pid")
    }


def ended(process: psutil.Process, seconds: float = 10.0) -> bool:
    """Whether a process is gone, or goes in that time."""
    end = time.monotonic() + seconds
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def check_records(store: Store) -> list[Any]:
    """The records: at most one cell was run again. Returns those of the trainings."""
    records = [record for key in sorted(store.keys()) if (record := store.read(key))]
    assert len(records) == 16
    assert sum(record.run.attempts - 1 for record in records) <= 1
    assert {record.run.worker.split()[0] for record in records} == {"ray-1", "ray-2"}
    return [record for record in records if record.cell.kind == "training"]


@pytest.mark.timeout(240)
def test_an_actor_is_killed(folder: Path, comfyui: Path, cluster: None, plain: dict[str, str]) -> None:
    store = Store.open(folder / "killed", "small")
    killed: list[psutil.Process] = []

    def kill() -> None:
        server = servers(store)["ray-2"]
        actor = server.parent()
        assert actor is not None
        assert actor.name().startswith("ray::")
        killed.extend((actor, server))
        os.kill(actor.pid, signal.SIGKILL)

    progress = Murder("ray-2", kill)

    async def run() -> tuple[Result, list[set[str]]]:
        async with remote.ray_workers("auto", comfyui, arguments(folder), store.root, 2) as workers:
            assert [worker.resources for worker in workers] == [{"num_gpus": 0, "num_cpus": 1}] * 2
            result = await sweep(folder, store, workers, progress)
            assert all(worker.shared for worker in workers)
            return result, [worker.holds for worker in workers]

    result, holds = asyncio.run(run())
    assert killed
    assert all(map(ended, killed))  # the ComfyUI, too, although nobody has killed it
    assert "ray-2: the Ray actor on" in progress.out.getvalue()  # type: ignore[attr-defined]
    assert {"execution_start", "executing", "progress"} <= progress.seen
    assert dict(result.counts) == {"done": 16}, result
    assert contents(store.root) == plain
    trained = check_records(store)
    assert len(trained) == 4
    assert {record.cell.key for record in trained} == set().union(*holds)
    assert sum(record.run.attempts for record in trained) <= 5
    assert not list((store.root / "tmp").iterdir())
    assert not list(store.claims())
    assert not servers(store)


@pytest.mark.timeout(240)
def test_files_travel_and_a_server_dies(folder: Path, comfyui: Path, cluster: None, plain: dict[str, str]) -> None:
    store = Store.open(folder / "apart", "small")
    places: list[Path] = []
    killed: list[psutil.Process] = []

    def kill() -> None:
        killed.append(psutil.Process(int((places[0] / "server.pid").read_text().split()[0])))
        killed[0].kill()

    progress = Murder("ray-1", kill)

    async def run() -> Result:
        async with remote.ray_workers("auto", comfyui, arguments(folder), store.root, 2, share=False) as workers:
            await workers[0].start()
            places.append(work_folder("ray-1", workers[0].place, False))
            result = await sweep(folder, store, workers, progress)
            assert not any(worker.shared for worker in workers)
            return result

    result = asyncio.run(run())
    assert killed
    assert ended(killed[0])
    assert store.root not in places[0].parents
    assert not places[0].exists()
    assert dict(result.counts) == {"done": 16}, result
    assert contents(store.root) == plain
    trained = check_records(store)
    assert all((record.folder / ADAPTER).stat().st_nlink == 1 for record in trained)


@pytest.mark.timeout(120)
def test_a_cell_is_cancelled(folder: Path, comfyui: Path, cluster: None, plain: dict[str, str]) -> None:
    """Cancelled here, it is gone from the actor's server, which goes on with the next one."""
    store = Store.open(folder / "cancelled", "long")
    (folder / "long.yaml").write_text("set: {Train.steps: 20000}\n" + PLAN)
    runner: list[Runner] = []

    def kill() -> None:
        runner[0].stop()
        runner[0].stop()

    progress = Murder("ray-1", kill, after=0)

    async def run() -> tuple[Result, dict[str, Any]]:
        async with remote.ray_workers("auto", comfyui, arguments(folder), store.root, 1, share=False) as (worker,):
            await worker.start()
            plan = read_plan(folder / "long.yaml")
            compiler, cells = await asyncio.to_thread(compiled, plan, worker.facts, "", store, worker.files)
            runner.append(Runner(compiler, cells, store, [worker], progress))
            stop, worker.stop = worker.stop, _nothing  # it has to be asked, still
            result = await runner[0].run()
            worker.stop = stop
            server = psutil.Process(
                int((work_folder("ray-1", worker.place, False) / "server.pid").read_text().split()[0])
            ).cmdline()
            end = time.monotonic() + 10
            while True:
                with urllib.request.urlopen(f"http://127.0.0.1:{server[server.index('--port') + 1]}/queue") as answer:
                    queue = json.loads(answer.read())
                if not any(queue.values()) or time.monotonic() > end:
                    return result, queue
                await asyncio.sleep(0.1)

    result, queue = asyncio.run(run())
    assert set(result.counts) == {"cancelled"}
    assert "by hand" in result.stopped
    assert queue == {"queue_running": [], "queue_pending": []}
    assert not store.keys("done")


async def _nothing() -> None:
    pass


@pytest.mark.parametrize(
    ("nodes", "count", "expected"),
    [
        ([{"GPU": 8, "CPU": 64}, {"GPU": 4, "CPU": 8}, {"CPU": 4}], None, (12, {"num_gpus": 1, "num_cpus": 0})),
        ([{"GPU": 2, "CPU": 64}], 1, (1, {"num_gpus": 1, "num_cpus": 0})),
        ([{"GPU": 2, "CPU": 64}], 5, (2, {"num_gpus": 1, "num_cpus": 0})),
        ([{"CPU": 6}, {"CPU": 9}], None, (3, {"num_gpus": 0, "num_cpus": 4})),
        ([{"CPU": 2}, {"CPU": 1}], None, (1, {"num_gpus": 0, "num_cpus": 2})),
        ([{"CPU": 2}], 2, (2, {"num_gpus": 0, "num_cpus": 1})),
        ([{"CPU": 2}], 9, (2, {"num_gpus": 0, "num_cpus": 1})),
        ([{"CPU": 16}, {"CPU": 4}], 2, (2, {"num_gpus": 0, "num_cpus": 8})),
    ],
)
def test_shares(nodes: list[dict[str, float]], count: int | None, expected: Any) -> None:
    assert remote.shares(nodes, count) == expected
