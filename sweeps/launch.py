"""Servers for a run, and the cells of a plan on them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .cells import Cells, Compiler
from .client import Client, Facts
from .files import Files, LocalFiles, ServerFiles
from .index import INDEX_FILE, write_index
from .plan import Plan
from .progress import Progress
from .server import HOST, Server, find_comfyui
from .store import BEAT, Store
from .worker import Worker
from .workflow import read_workflow

PACK = Path(__file__).resolve().parent.parent
FACTS_FILE, REPORT_FILE = "facts.json", "report.json"


@dataclass(frozen=True)
class Launch:
    """Which servers a run uses.

    servers: addresses of running ones; without them, `count` are started: comfyui is their folder (None: found by
    itself), arguments more words of their command line. ray: a cluster's address ("auto": as Ray finds it), "" for
    none; ray_count: how many there at most.
    """

    servers: Sequence[str] = ()
    comfyui: Path | None = None
    arguments: Sequence[str] = ()
    count: int = 1
    ray: str = ""
    ray_count: int | None = None


def compiled(plan: Plan, facts: Facts, url: str, store: Store, files: Files | None = None) -> tuple[Compiler, Cells]:
    """The cells of a plan on a server, kept in the store for `status` and `report`.

    files: how to tell the server's files apart, if it is neither here nor at a URL.

    Raises ValueError that names the plan and what is wrong with it.
    """
    try:
        files = files or _files(facts, url)
        compiler = Compiler(plan, read_workflow(plan.workflow, facts.info), facts.info, files, not url)
        cells = compiler.cells()
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
    """What the store knows of the server of the last `plan` or `run`. Raises ValueError if there was none."""
    data = json.loads(store.plan_file(plan, FACTS_FILE))
    return Facts(data["info"], data["stats"], [Path(folder) for folder in data["models"]])


def _files(facts: Facts, url: str) -> Files:
    """How to tell the server's files apart: by looking at them where they are here, else by asking."""
    here = any(folder.is_dir() for folder in facts.models)  # a container's folders are not here, whatever its address
    if not url or (here and urlsplit(url).hostname in (HOST, "localhost", "::1")):
        return LocalFiles(facts.models, facts.places)

    def get(path: str, query: Any) -> bytes | None:
        async def ask() -> bytes | None:
            async with Client(url) as client:
                return await client.get_bytes(path, **query)

        return asyncio.run(ask())

    return ServerFiles(get)


@contextlib.asynccontextmanager
async def workers_of(options: Launch, store: Store) -> AsyncIterator[list[Any]]:
    """The servers that a run uses, not started yet."""
    if options.ray:
        from .remote import ray_workers

        async with ray_workers(options.ray, options.comfyui, options.arguments, store.root, options.ray_count) as found:
            yield found
    elif options.servers:
        given = [Worker(url, url) for url in options.servers]
        try:
            yield given
        finally:
            for worker in given:
                await worker.stop()
    else:
        async with own_servers(options, store, max(1, options.count)) as own:
            yield own


@contextlib.asynccontextmanager
async def own_servers(options: Launch, store: Store, count: int) -> AsyncIterator[list[Worker]]:
    """Servers of our own, each in a work folder that no other runner uses; ended afterwards."""
    comfyui = find_comfyui(PACK, options.comfyui)
    names: list[str] = []
    number = 0
    while len(names) < count:
        number += 1
        if store.claim(f"server-{number}"):
            names.append(f"server-{number}")
    workers = [Worker(name, server=Server(comfyui, store.root / "work" / name, options.arguments)) for name in names]
    beat = asyncio.create_task(_keep_alive(store, names))
    try:
        yield workers
    finally:
        beat.cancel()
        for worker in workers:
            await worker.stop()
            if worker.server is not None:
                worker.server.tidy()
        for name in names:
            store.release(name)


async def started(workers: Sequence[Any], progress: Progress) -> list[Any]:
    """Those workers that come up, started side by side. Raises what the first one says if none does."""
    outcomes = await asyncio.gather(*(worker.start() for worker in workers), return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if len(errors) == len(workers):
        raise errors[0]
    for error in errors:
        progress.say(f"a server is out: {error}")
    return [worker for worker, outcome in zip(workers, outcomes) if not isinstance(outcome, BaseException)]


async def _keep_alive(store: Store, names: list[str]) -> None:
    while True:
        await asyncio.sleep(BEAT)
        store.beat(names)
