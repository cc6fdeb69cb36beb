"""Sweeps on a Ray cluster: real ComfyUI in its actors, small trainings, actors and servers that die."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import ray
from PIL import Image

from deft_pack.sweeps import remote
from deft_pack.sweeps.access import Access
from deft_pack.sweeps.launch import Launch, compiled, files_of, ray_servers
from deft_pack.sweeps.plan import read_plan
from deft_pack.sweeps.progress import SweepProgress
from deft_pack.sweeps.runner import Runner, SweepResult
from deft_pack.sweeps.server import Server, find_comfyui
from deft_pack.sweeps.store import Store
from deft_pack.sweeps.worker import ADAPTER_FILE, Worker

from ..scripts import load_script
from .sweep_tools import contents, servers_python, trained, write_plan

ROOT = Path(__file__).resolve().parent.parent.parent
PLAN = """
workflow: workflow.json
axes:
  rank: {into: Train.method.rank, values: [2, 4]}
  photo: {into: Photo.image, files: photos/*.png}
  seed: {into: Sample.seed, seeds: 2, first: 7}
"""
CELLS = 2 * 2 + 2 * 2 * 2  # trainings and pictures


@pytest.fixture(autouse=True, scope="module")
def forked() -> Iterator[None]:
    """All servers are forks, those of the actors, too: an actor gets what the module has there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "Server", partial(Server, python=str(servers_python())))
        yield


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
    workflow["20"]["inputs"].update({"steps": 12, "batch_size": 1})
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


class Murder(SweepProgress):
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


async def sweep(
    folder: Path, store: Store, workers: list[Any], progress: SweepProgress, plan_file: Path | None = None
) -> SweepResult:
    """What `sweeps run` does, but that all servers are up before it begins: the cells take a second each."""
    plan = read_plan(plan_file or folder / "small.yaml")
    await asyncio.gather(*(worker.start() for worker in workers))
    compiler, cells = await asyncio.to_thread(compiled, plan, workers[0].facts, store, files_of(workers[0]))
    return await Runner(compiler, cells, store, workers, progress).run()


def arguments(folder: Path) -> list[str]:
    return ["--cpu", "--base-directory", str(folder / "base")]


def launch(folder: Path, comfyui: Path, count: int) -> Launch:
    """What `sweeps run --ray` is told."""
    return Launch(comfyui=comfyui, arguments=arguments(folder), ray="auto", ray_count=count)


@pytest.fixture(scope="module")
def plain(folder: Path, comfyui: Path) -> dict[str, str]:
    """What a run on one server of our own gives."""
    store = Store.open(folder / "plain", "small")
    worker = Worker(
        "plain", server=remote.Server(find_comfyui(ROOT, comfyui), folder / "plain work", arguments(folder))
    )
    result = asyncio.run(sweep(folder, store, [worker], SweepProgress(out=io.StringIO())))
    assert dict(result.counts) == {"done": CELLS}, result
    assert len(worker.holds) == 4
    return contents(store.root)


def servers(store: Store) -> dict[str, psutil.Process]:
    """Name of a worker -> its ComfyUI."""
    return {
        path.parent.name: psutil.Process(int(path.read_text().split()[0]))
        for path in (store.root / "work").glob("*/server.pid")
    }


def option(process: psutil.Process, name: str, ending: str = "-directory") -> str:
    """A word of a ComfyUI's command line."""
    words = process.cmdline()
    return words[words.index(f"--{name}{ending}") + 1]


def server_at(url: str) -> psutil.Process:
    """The ComfyUI of this machine that has that port."""
    port = str(urlsplit(url).port)
    return next(
        process
        for process in psutil.process_iter(["cmdline"])  # None for one that has just ended
        if any(word.endswith("main.py") for word in process.info["cmdline"] or ()) and port in process.info["cmdline"]
    )


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
    assert len(records) == CELLS
    assert sum(record.run.attempts - 1 for record in records) <= 1
    assert {record.run.worker.split()[0] for record in records} == {"ray-1", "ray-2"}
    return [record for record in records if record.cell.kind == "training"]


@pytest.mark.timeout(480)
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

    async def run() -> tuple[SweepResult, list[set[str]]]:
        async with ray_servers(launch(folder, comfyui, 2), store) as workers:
            assert [worker.server.resources for worker in workers] == [{"num_gpus": 0, "num_cpus": 1}] * 2
            result = await sweep(folder, store, workers, progress)
            assert {urlsplit(worker.url).hostname for worker in workers} == {"127.0.0.1"}
            return result, [worker.holds for worker in workers]

    result, holds = asyncio.run(run())
    assert killed
    assert all(map(ended, killed))
    assert "ray-2: the server http://127.0.0.1:" in progress.out.getvalue()  # type: ignore[attr-defined]
    assert {"execution_start", "executing", "progress"} <= progress.seen
    assert dict(result.counts) == {"done": CELLS}, result
    assert contents(store.root) == plain
    trained = check_records(store)
    assert len(trained) == 4
    assert {record.cell.key for record in trained} == set().union(*holds)
    assert sum(record.run.attempts for record in trained) <= 5
    assert not list((store.root / "tmp").iterdir())
    assert not list(store.claims())
    assert not servers(store)


@pytest.mark.timeout(480)
def test_files_travel_and_a_server_dies(folder: Path, comfyui: Path, cluster: None, plain: dict[str, str]) -> None:
    """Servers listen on the address that the cluster knows, as on another machine, and work outside of the store."""
    store = Store.open(folder / "apart", "small")
    address = ray.util.get_node_ip_address()
    workers: list[Worker] = []
    killed: list[psutil.Process] = []
    places: list[Path] = []

    def kill() -> None:
        killed.append(server_at(workers[0].url))
        places.append(Path(option(killed[0], "user")).parent)
        assert places[0].is_dir()
        assert option(killed[0], "listen", "") == address
        killed[0].kill()

    progress = Murder("ray-1", kill)

    async def run() -> SweepResult:
        async with ray_servers(launch(folder, comfyui, 2), store, apart=True) as started:
            workers.extend(started)
            return await sweep(folder, store, started, progress)

    result = asyncio.run(run())
    assert killed
    assert ended(killed[0])
    assert store.root not in places[0].parents
    assert not places[0].exists()
    assert dict(result.counts) == {"done": CELLS}, result
    assert contents(store.root) == plain
    trained = check_records(store)
    assert all((record.folder / ADAPTER_FILE).stat().st_nlink == 1 for record in trained)


@pytest.mark.timeout(480)
def test_a_cell_is_cancelled(folder: Path, comfyui: Path, cluster: None, plain: dict[str, str]) -> None:
    """Cancelled here, it is gone from the actor's server, which goes on with the next one."""
    store = Store.open(folder / "cancelled", "long")
    (folder / "long.yaml").write_text("set: {Train.steps: 20000}\n" + PLAN)
    runner: list[Runner] = []

    def kill() -> None:
        runner[0].stop()
        runner[0].stop()

    progress = Murder("ray-1", kill, after=0)

    async def run() -> tuple[SweepResult, dict[str, Any]]:
        async with ray_servers(launch(folder, comfyui, 1), store) as (worker,):
            await worker.start()
            plan = read_plan(folder / "long.yaml")
            compiler, cells = await asyncio.to_thread(compiled, plan, worker.facts, store, files_of(worker))
            runner.append(Runner(compiler, cells, store, [worker], progress))
            stop, worker.stop = worker.stop, _nothing  # type: ignore[method-assign]  # it has to be asked, still
            result = await runner[0].run()
            worker.stop = stop  # type: ignore[method-assign]
            end = time.monotonic() + 10
            while True:
                queue = await worker.client.get("/queue")
                if not any(queue.values()) or time.monotonic() > end:
                    return result, queue
                await asyncio.sleep(0.1)

    result, queue = asyncio.run(run())
    assert set(result.counts) == {"cancelled"}
    assert "run the same command again" in result.stopped
    assert queue == {"queue_running": [], "queue_pending": []}
    assert not store.keys("done")


async def _nothing() -> None:
    pass


def token_plan(folder: Path) -> Path:
    """A token that is trained once, and two pictures with it."""
    workflow = trained()
    ids = {node["_meta"]["title"]: node_id for node_id, node in workflow.items()}
    for title in ("Train", "Apply"):
        del workflow[ids[title]]
    del workflow["loss"], workflow[ids["Score"]]["inputs"]["adapter"]
    workflow[ids["Sample"]]["inputs"]["model"] = [ids["Model"], 0]
    inputs = {
        "model": [ids["Model"], 0],
        "clip": [ids["Text encoder"], 0],
        "latents": [ids["Encode photos"], 0],
        "token": "ray-token",
        "vectors": 1,
        "start": "bear",
        "template": "object",
        "steps": 3,
        "learning_rate": 0.1,
        "batch_size": 5,
        "seed": 1,
        "overwrite": True,
        "precision": "fp32",
        "gradient_checkpointing": False,
    }
    workflow["ti"] = {"class_type": "DEFTTrainTextualInversion", "_meta": {"title": "Token"}, "inputs": inputs}
    workflow[ids["Prompt"]]["inputs"]["text"] = ["ti", 0]
    text = "axes: {seed: {into: Sample.seed, seeds: 2}}\noutputs: {only: [Save picture, Save scores]}\n"
    return write_plan(folder / "token", workflow, text)


def scores(digests: dict[str, str]) -> list[str]:
    """The digests of the files of scores."""
    return sorted(digest for name, digest in digests.items() if "Save_scores" in name)


@pytest.mark.timeout(480)
def test_a_token_is_sent(folder: Path, comfyui: Path, cluster: None) -> None:
    """Trained once also where an embedding travels: to a server on a cluster, and to one at an address."""
    plan = token_plan(folder)
    given: list[dict[str, str]] = []

    async def run(worker: Worker) -> None:
        store = Store.open(folder / f"token {len(given)}", "plan")
        result = await sweep(folder, store, [worker], SweepProgress(out=io.StringIO()), plan)
        assert dict(result.counts) == {"done": 3}, result
        given.append(contents(store.root))

    async def all_three() -> None:
        await run(
            Worker("own", server=remote.Server(find_comfyui(ROOT, comfyui), folder / "token work", arguments(folder)))
        )
        async with ray_servers(launch(folder, comfyui, 1), Store(folder / "token ray"), apart=True) as (worker,):
            await worker.start()
            address = Worker("address", Access(worker.url))
            await run(address)
            await run(worker)

    asyncio.run(all_three())
    own, address, cluster_s = given
    assert own == cluster_s
    assert sum(name.endswith(ADAPTER_FILE) for name in own) == 1
    # Files of a server elsewhere have other digests, so its keys are others; what comes out is the same.
    assert scores(own) == scores(address)
    assert len(scores(own)) == 2


def test_a_server_that_cannot_be_had(folder: Path, comfyui: Path, cluster: None) -> None:
    """No room for it, or a ComfyUI that does not start: a sentence, and no actor is left."""
    with remote.connected("auto"):
        place = (remote.machine(), str(folder), str(comfyui), str(ROOT))
        large = remote.RayServer("ray-8", {"num_gpus": 0, "num_cpus": 3}, *place, [])
        with pytest.raises(RuntimeError, match="ray-8: the Ray cluster had no 3 CPUs free for 1 s"):
            large.start(timeout=1)
        wrong = remote.RayServer("ray-9", {"num_gpus": 0, "num_cpus": 1}, *place, ["--no-such-option"])
        with pytest.raises(RuntimeError, match="ray-9 on .*: ComfyUI ended at start-up") as caught:
            wrong.start()
    assert "--no-such-option" in str(caught.value)
    assert large.actor is wrong.actor is None
