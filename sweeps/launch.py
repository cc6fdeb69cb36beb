"""Servers for a run, and the cells of a plan on them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..disk.errors import described
from .access import Access
from .cells import Compiler
from .client import Client
from .conversion import front_end_of
from .facts import Facts
from .files import Files, LocalFiles, ServerFiles
from .index import INDEX_FILE, write_index
from .plan import Plan
from .planned import Cells
from .progress import SweepProgress
from .remote import RayServer, connected, machine, shares
from .server import HOST, Server, find_comfyui
from .store import BEAT, Store
from .worker import Worker
from .workflow import open_workflow, with_texts_read

PACK = Path(__file__).resolve().parent.parent
FACTS_FILE, REPORT_FILE = "facts.json", "report.json"


@dataclass(frozen=True)
class Launch:
    """The servers that a run uses.

    servers: running ones; without them, `count` are started: comfyui is their folder (None: found by
    itself), arguments more words of their command line. ray: a cluster's address ("auto": as Ray finds it), "" for
    none; ray_count: how many there at most.
    """

    servers: Sequence[Access] = ()
    comfyui: Path | None = None
    arguments: Sequence[str] = ()
    count: int = 1
    ray: str = ""
    ray_count: int | None = None


def compiled(
    plan: Plan, facts: Facts, store: Store, files: Files | None = None, embeddings: bool | None = None
) -> tuple[Compiler, Cells]:
    """The cells of a plan on a server, kept in the store for `status` and `report`.

    files: those of the server, by default those of its folders here. embeddings: whether all servers
    of the run can be given embeddings, by default whether this one can.

    Raises ValueError that names the plan and what is wrong with it.
    """
    try:
        files = files or LocalFiles(facts.models, facts.places)
        embeddings = facts.embeddings is not None if embeddings is None else embeddings
        workflow = open_workflow(plan.workflow, facts.info, front_end_of(facts.stats))
        dynamic: frozenset[tuple[str, str]] | None = None
        if plan.choice_seed is None:
            prompt = with_texts_read(workflow, plan.workflow, facts.info)
        else:
            prompt, dynamic = workflow.prompt, workflow.dynamic
        compiler = Compiler(plan, prompt, facts.info, files, embeddings, dynamic, workflow.names)
        cells = compiler.cells()
        cells.remarks = [*workflow.remarks, *cells.remarks]
    except ValueError as error:
        raise ValueError(f"{plan.source}: {error}") from error
    store.write_plan(
        plan.name,
        {
            INDEX_FILE: write_index(compiler, cells),
            "plan.yaml": plan.source.read_bytes(),
            REPORT_FILE: json.dumps(plan.report).encode(),
            FACTS_FILE: json.dumps(
                {"info": facts.info, "stats": facts.stats, "models": list(map(str, facts.models))}
            ).encode(),
        },
    )
    return compiler, cells


def remembered(store: Store, plan: str) -> Facts:
    """The stored facts about the server of the last `plan` or `run`. Raises ValueError if there was none."""

    def read(content: bytes) -> Facts:
        data = json.loads(content)
        return Facts(dict(data["info"]), dict(data["stats"]), [Path(folder) for folder in data["models"]])

    return store.read_plan_file(plan, FACTS_FILE, read)


def files_of(worker: Worker) -> Files:
    """The files of a server that runs: looked at where they are on this machine, else asked for."""
    if worker.server is not None:
        return worker.server.files(worker.facts)
    facts, url = worker.facts, worker.url
    here = any(folder.is_dir() for folder in facts.models)  # a container's folders are not here, whatever its address
    if here and urlsplit(url).hostname in (HOST, "localhost", "::1"):
        return LocalFiles(facts.models, facts.places)

    def get(path: str, query: Any) -> bytes | None:
        async def ask() -> bytes | None:
            async with Client(worker.access) as client:
                return await client.get_bytes(path, **query)

        return asyncio.run(ask())

    return ServerFiles(get)


def end_orphans(store: Store) -> list[str]:
    """End the servers in the store's folders whose runners are gone; a line about each."""
    lines = []
    for file in sorted((store.root / "work").glob("*/server.pid")):
        folder = file.parent
        if not store.claim(folder.name):
            continue
        try:
            if pid := Server(Path(), folder).end_orphan():
                lines.append(f"ended a ComfyUI (process {pid}) that a killed run had left running in {folder}")
        finally:
            store.release(folder.name)
    return lines


@contextlib.asynccontextmanager
async def workers_of(options: Launch, store: Store) -> AsyncIterator[list[Worker]]:
    """The servers that a run uses, not started yet."""
    if options.ray:
        async with ray_servers(options, store) as workers:
            yield workers
    elif options.servers:
        workers = [Worker(access.url, access) for access in options.servers]
        try:
            yield workers
        finally:
            for worker in workers:
                await worker.stop()
    else:
        async with own_servers(options, store, max(1, options.count)) as workers:
            yield workers


@contextlib.asynccontextmanager
async def own_servers(options: Launch, store: Store, count: int) -> AsyncIterator[list[Worker]]:
    """A context with servers of our own on this machine, which are ended afterwards."""
    comfyui = find_comfyui(PACK, options.comfyui)

    def server(name: str) -> Server:
        return Server(comfyui, store.root / "work" / name, options.arguments)

    async with _named(store, "server", count, server) as workers:
        yield workers


@contextlib.asynccontextmanager
async def ray_servers(options: Launch, store: Store, apart: bool = False) -> AsyncIterator[list[Worker]]:
    """Servers on a Ray cluster; ended afterwards. apart: as if this machine were none of the cluster's (for tests).

    Raises ValueError that says what is missing: Ray, or the cluster.
    """
    with connected(options.ray) as nodes:
        count, resources = shares(nodes, options.ray_count)
        comfyui = os.path.abspath(options.comfyui) if options.comfyui else ""
        runner = ("another machine", "") if apart else machine()
        place = (runner, os.path.abspath(store.root), comfyui, str(PACK), list(options.arguments))

        def server(name: str) -> RayServer:
            return RayServer(name, resources, *place)

        async with _named(store, "ray", count, server) as workers:
            yield workers


@contextlib.asynccontextmanager
async def _named(
    store: Store, kind: str, count: int, make: Callable[[str], Server | RayServer]
) -> AsyncIterator[list[Worker]]:
    """A context with that many servers, each with a name and a work folder that no other runner of the store uses."""
    names: list[str] = []
    number = 0
    while len(names) < count:
        number += 1
        if store.claim(f"{kind}-{number}"):
            names.append(f"{kind}-{number}")
    servers = [make(name) for name in names]
    workers = [Worker(name, server=server) for name, server in zip(names, servers)]
    beat = asyncio.create_task(_keep_alive(store, names))
    try:
        yield workers
    finally:
        beat.cancel()
        await asyncio.gather(*(worker.stop() for worker in workers), return_exceptions=True)
        await asyncio.gather(*(asyncio.to_thread(server.tidy) for server in servers), return_exceptions=True)
        for name in names:
            store.release(name)


async def started(workers: Sequence[Worker], progress: SweepProgress) -> list[Worker]:
    """The workers that come up, started side by side. Raises the error of the first one if none does."""
    outcomes = await asyncio.gather(*(worker.start() for worker in workers), return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if len(errors) == len(workers):
        raise errors[0]
    for error in errors:
        progress.log(f"a server failed: {described(error)}")
    return [worker for worker, outcome in zip(workers, outcomes) if not isinstance(outcome, BaseException)]


async def _keep_alive(store: Store, names: list[str]) -> None:
    while True:
        await asyncio.sleep(BEAT)
        await asyncio.to_thread(store.beat, names)
