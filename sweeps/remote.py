"""Workers on a Ray cluster: one ComfyUI a GPU, or a share of the CPUs where the cluster has no GPU.

Each worker is an actor on a machine of the cluster (`Node`: a ComfyUI, and a `Worker` as cells here have it) and a
`RayWorker` on this machine, which the runner uses. The machines need ComfyUI and its packages, Ray in the same Python,
and the custom nodes. The sources of this folder are sent to them.

Where a machine sees the store's folder, it writes a cell's files there itself and reads adapters from there. Otherwise
files travel as bytes through Ray. Files that the plan names on this machine always travel as bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .client import Facts, OnEvent, ServerLost
from .files import Files
from .node import Node, Place, Sent, pack, unpack
from .records import Cell, Run
from .store import BEAT, Store
from .worker import Job

PACK = __package__.rpartition(".")[0]
CPUS = 4  # that a ComfyUI gets where the cluster has no GPU
PATIENCE = 120.0  # seconds to wait for a free GPU or CPUs
GOODBYE = 20.0  # seconds for an actor to end its server, or a cell
OBJECTS = 256 * 2**20  # bytes of Ray's object store of a cluster of our own; what does not fit goes to the disk


@contextlib.asynccontextmanager
async def ray_workers(
    address: str,
    comfyui: Path | None,
    arguments: Sequence[str],
    store_root: Path,
    count: int | None = None,
    share: bool = True,
) -> AsyncIterator[list[RayWorker]]:
    """Workers on a Ray cluster, not started yet; all ended afterwards.

    address: of the cluster. "auto": the one that runs on this machine or is named in RAY_ADDRESS, else one of our own,
    which is ended afterwards. comfyui: its folder on the cluster's machines; where there is none, COMFYUI_DIR there, or
    the folder whose custom_nodes holds the pack. count: at most that many. share: use the store's folder where a
    machine sees it.

    Raises ValueError that says what is missing: Ray, or the cluster.
    """
    _settings(address)
    try:
        import ray
    except ImportError:
        raise ValueError("--ray needs the package ray: install it with `pip install ray`.") from None
    store = Store(Path(os.path.abspath(store_root)))
    ours = not ray.is_initialized()
    if ours:
        await asyncio.to_thread(_connect, address)
    names: list[str] = []
    workers: list[RayWorker] = []
    token = store.root / "tmp" / f"ray-{uuid.uuid4().hex}"
    beating = asyncio.create_task(_beat(store, names))
    try:
        number, resources = shares([node["Resources"] for node in ray.nodes() if node["Alive"]], count)
        for name in _free_names(store, number):
            names.append(name)
        token.parent.mkdir(parents=True, exist_ok=True)
        token.write_text(uuid.uuid4().hex)
        place = Place(
            str(store.root),
            socket.gethostname(),
            token.name if share else "",
            token.read_text(),
            os.path.abspath(comfyui) if comfyui else "",
            str(Path(__file__).parent.parent),
            list(arguments),
        )
        workers += [RayWorker(name, place, resources) for name in names]
        yield workers
    finally:
        await asyncio.gather(*(worker.stop() for worker in workers), return_exceptions=True)
        beating.cancel()
        token.unlink(missing_ok=True)
        for name in names:
            store.release(name)
        if ours:
            await asyncio.to_thread(ray.shutdown)


def _settings(address: str) -> None:
    """What Ray reads from the environment when it is imported or started."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it prints a page about its future
    if address != "auto":  # it would try for 15 minutes where something else than Ray answers
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")


def _connect(address: str) -> None:
    """Connect to a cluster, or start one here, without Ray's messages."""
    import ray

    with contextlib.suppress(ImportError):  # it would print a page whenever an actor dies, and nothing turns that off
        from ray._private import worker as inside

        inside.print_to_stdstream = lambda *_, **__: None
    quiet: dict[str, Any] = {"logging_level": "error", "log_to_driver": False, "include_dashboard": False}
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself would try for a minute
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, **quiet)
    except Exception as error:
        if address != "auto" or os.environ.get("RAY_ADDRESS"):
            name = os.environ["RAY_ADDRESS"] if address == "auto" else address
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"no Ray cluster answers at {name} ({reason or type(error).__name__}): check the address, "
                "or give --ray without one to start a cluster on this machine."
            ) from error
        ray.init(address="local", object_store_memory=OBJECTS, **quiet)


def shares(nodes: Iterable[Mapping[str, float]], count: int | None) -> tuple[int, dict[str, float]]:
    """How many workers a cluster has room for, at most `count`, and what each gets: {"num_gpus"} or {"num_cpus"}.

    nodes: resources of each machine. Raises ValueError if it has neither GPUs nor CPUs.
    """
    nodes = list(nodes)
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus:
        return max(1, min(gpus, count or gpus)), {"num_gpus": 1, "num_cpus": 0}
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if not sum(cpus):
        raise ValueError("the Ray cluster has neither GPUs nor CPUs.")
    wanted = min(count, sum(cpus)) if count else max(1, sum(each // CPUS for each in cpus))
    wanted = max(1, wanted)
    share = next(
        share
        for share in range(max(cpus), 0, -1)
        if sum(each // share for each in cpus) >= wanted and (share <= CPUS or count)
    )
    return wanted, {"num_gpus": 0, "num_cpus": share}


def _free_names(store: Store, count: int) -> Iterable[str]:
    """Names of workers that no other runner of the store uses; they name the folders of the servers."""
    number = 0
    while count:
        number += 1
        if store.claim(f"ray-{number}"):
            yield f"ray-{number}"
            count -= 1


async def _beat(store: Store, names: list[str]) -> None:
    while True:
        await asyncio.sleep(BEAT)
        await asyncio.to_thread(store.beat, list(names))


class RayWorker:
    """The side of this machine: what a runner needs of a worker."""

    slots = 2

    def __init__(self, name: str, place: Place, resources: dict[str, float]) -> None:
        self.name, self.place, self.resources = name, place, resources
        self.holds: set[str] = set()
        self.facts: Facts = None  # type: ignore[assignment]
        self.shared = False  # whether the actor sees the store's folder
        self.host = ""
        self.actor: Any = None

    @property
    def files(self) -> Files:
        """How to tell the files of the actor's ComfyUI apart; only while it runs, and not in an event loop."""
        return RayFiles(self.actor)

    async def start(self) -> None:
        """Make the actor and its ComfyUI, unless they are there. Raises RuntimeError if they cannot be had."""
        if self.actor is not None:
            return
        self.holds = set()
        self.actor = (
            _actor_class()
            .options(**self.resources, max_restarts=0, scheduling_strategy="SPREAD")
            .remote(sources(), Node.__module__, self.name, asdict(self.place), self.resources["num_gpus"] > 0)
        )
        try:
            try:
                self.host = await asyncio.wait_for(self._ask("host"), PATIENCE)
            except asyncio.TimeoutError:
                cpus = self.resources["num_cpus"]
                what = "GPU" if self.resources["num_gpus"] else f"{cpus:g} CPU{'s' if cpus > 1 else ''}"
                raise RuntimeError(f"{self.name}: the Ray cluster had no {what} free for {PATIENCE:.0f} s") from None
            error, self.facts, self.shared = await self._ask("start")
            if error:
                raise RuntimeError(f"{self.name} on {self.host}: {error}")
        except BaseException:
            self._kill()
            raise

    async def stop(self) -> None:
        """End the ComfyUI and the actor."""
        if self.actor is None:
            return
        try:
            with contextlib.suppress(ServerLost, asyncio.TimeoutError):
                await asyncio.wait_for(self._ask("stop"), GOODBYE)
        finally:
            self._kill()

    async def restart(self) -> None:
        """After the server was lost: a new actor, maybe on another machine."""
        await self.stop()
        await self.start()

    def _kill(self) -> None:
        import ray

        actor, self.actor = self.actor, None
        if actor is not None:
            with contextlib.suppress(Exception):  # Ray itself may be gone
                ray.kill(actor, no_restart=True)

    async def _ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the actor's Node. Raises ServerLost if there is no answer."""
        import ray

        if self.actor is None:
            raise ServerLost(f"{self.name} has been ended")
        try:
            return await self.actor.call.remote(method, *arguments)
        except ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines() or [""]
            raised = isinstance(error, ray.exceptions.RayTaskError) or "creation task" in lines[0]
            reason = lines[-1 if raised else 0]
            raise ServerLost(
                f"the Ray actor on {self.host or 'a machine of the cluster'} gives no answer "
                f"({type(error).__name__}: {reason})"
            ) from error

    async def run(self, job: Job, scratch: Path, on_event: OnEvent) -> tuple[Cell, Run]:
        """Run a cell and put its files into `scratch`. When cancelled, it is cancelled there.

        Raises ServerLost if the actor or its ComfyUI is gone, OSError if files cannot be written here.
        """
        ticket = uuid.uuid4().hex
        try:
            await self._ask("begin", ticket, *await self._packed(job), os.path.abspath(scratch))
            while True:
                events, outcome = await self._ask("follow", ticket)
                for kind, data in events:
                    on_event(kind, data)
                if outcome is not None:
                    break
        except asyncio.CancelledError:
            with contextlib.suppress(ServerLost, asyncio.TimeoutError):
                await asyncio.shield(asyncio.wait_for(self._ask("cancel", ticket), GOODBYE))
            raise
        self.holds |= outcome.holds
        if outcome.lost:
            raise ServerLost(outcome.lost)
        if outcome.error is not None:
            raise outcome.error
        await asyncio.to_thread(unpack, outcome.files, scratch)
        return outcome.cell, outcome.run

    async def _packed(self, job: Job) -> tuple[Job, Sent, Sent]:
        """The job, and the adapters and other files that have to be sent with it."""
        job = replace(job, adapters={key: Path(os.path.abspath(path)) for key, path in job.adapters.items()})
        lacks = (
            await self._ask("lacks", [*(() if self.shared else job.adapters), *job.uploads])
            if (job.uploads or (job.adapters and not self.shared))
            else set()
        )
        return (
            job,
            *await asyncio.to_thread(
                lambda: (
                    {name: pack(path) for name, path in job.adapters.items() if name in lacks},
                    {name: pack(path) for name, path in job.uploads.items() if name in lacks},
                )
            ),
        )


class RayFiles(Files):
    """Files of the ComfyUI of an actor."""

    def __init__(self, actor: Any) -> None:
        super().__init__()
        self.actor = actor

    def look_up(self, name: str) -> str:
        """The actor looks into its folders."""
        import ray

        return str(ray.get(self.actor.call.remote("look_up", name)))


# How the sources of this folder get to the actor. Ray's own py_modules takes a folder only when it connects.


def sources() -> dict[str, str]:
    """Name -> text of each module of this folder; the pack around it is empty."""
    found = {
        f"{__package__}.{path.stem}".removesuffix(".__init__"): path.read_text(encoding="utf-8")
        for path in sorted(Path(__file__).parent.glob("*.py"))
    }
    return {PACK: "", **found} if PACK else found


def _actor_class() -> Any:
    """The actor: imports this module from the sources under the same name, so that both sides know the same classes."""
    import ray

    @ray.remote
    class ComfyUI:  # pickled by value: it may use nothing of this module
        def __init__(self, sources: dict[str, str], module: str, *arguments: Any) -> None:
            import importlib.abc
            import importlib.util

            # The arguments are plain: they are read before the classes of this pack are known there.
            class Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
                def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
                    return importlib.util.spec_from_loader(name, self) if name in sources else None

                def get_source(self, name: str) -> str:
                    return sources[name]

                def is_package(self, name: str) -> bool:
                    return any(other.startswith(f"{name}.") for other in sources)

            sys.meta_path.insert(0, Finder())
            self.node = importlib.import_module(module).Node(*arguments)

        async def call(self, method: str, *arguments: Any) -> Any:
            return await getattr(self.node, method)(*arguments)

    return ComfyUI
