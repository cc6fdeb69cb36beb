"""The cluster's side of a Ray worker: one ComfyUI and a `Worker` inside an actor. remote.py is the other side."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .client import Facts, ServerLost
from .files import LocalFiles
from .records import Cell, Run
from .server import Server, find_comfyui
from .worker import Job, Worker

# Ends the server (argument) when the actor is gone, however it went: its end of the pipe is closed then.
WATCHDOG = "import os, sys; sys.stdin.readline() or os.kill(int(sys.argv[1]), 9)"

Sent = dict[str, list[tuple[str, bytes]]]  # name -> files in it: path below it ("" for the file itself), content


@dataclass(frozen=True)
class Place:
    """Where things are, as this machine says it.

    store: the store's folder. host: this machine. token: name of a file in the store's tmp folder that holds `secret`,
    "" if the folder is not to be used. comfyui: ComfyUI's folder, "" if none is named. pack: the pack's folder.
    """

    store: str
    host: str
    token: str
    secret: str
    comfyui: str
    pack: str
    arguments: list[str]


@dataclass
class Outcome:
    """How a cell has ended there. files: what has to be written here. holds: adapters that are there.

    lost: why the server is lost, "" if it is not. error: the disk could not be written.
    """

    holds: set[str]
    cell: Cell | None = None
    run: Run | None = None
    files: list[tuple[str, bytes]] = field(default_factory=list)
    lost: str = ""
    error: OSError | None = None


@dataclass
class _Call:
    task: asyncio.Task[tuple[Cell, Run]]
    scratch: Path
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Node:
    """The inside of an actor: one ComfyUI and its Worker."""

    def __init__(self, name: str, place: dict[str, Any], gpu: bool) -> None:
        self.name, self.place = name, Place(**place)
        self.calls: dict[str, _Call] = {}
        self.worker: Worker = None  # type: ignore[assignment]
        self.watchdog: subprocess.Popen[bytes] | None = None
        self.shared = self._sees_store()
        self.work = work_folder(name, self.place, self.shared)
        if gpu:
            _free_threads()

    def _sees_store(self) -> bool:
        """Whether the store's folder is here, too, and can be written."""
        tmp = Path(self.place.store) / "tmp"
        try:
            if not self.place.token or (tmp / self.place.token).read_text() != self.place.secret:
                return False
            with tempfile.TemporaryFile(dir=tmp):
                return True
        except OSError:
            return False

    async def host(self) -> str:
        """The name of this machine; the first answer says that the actor is there."""
        return socket.gethostname()

    async def start(self) -> tuple[str, Facts | None, bool]:
        """Start ComfyUI: what went wrong ("" if nothing), its facts, whether the store's folder is here."""
        named = Path(self.place.comfyui) if self.place.comfyui else None
        try:
            comfyui = find_comfyui(Path(self.place.pack), named if named and (named / "main.py").is_file() else None)
            self.work.mkdir(parents=True, exist_ok=True)
            server = Server(comfyui, self.work, self.place.arguments)
            self.worker = Worker(f"{self.name} on {socket.gethostname()}", server=server)
            await self.worker.start()
        except (ValueError, OSError, RuntimeError) as error:
            return str(error), None, self.shared
        assert server.process is not None
        self.watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", WATCHDOG, str(server.process.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        return "", self.worker.facts, self.shared

    async def stop(self) -> None:
        """End ComfyUI, and tidy up."""
        for ticket in list(self.calls):
            await self.cancel(ticket)
        if self.watchdog is not None:
            with contextlib.suppress(OSError):
                self.watchdog.communicate(b"end\n")
        if self.worker is not None:
            await self.worker.stop()
            self.worker.server.tidy()  # type: ignore[union-attr]
        if self.work.is_relative_to(Path(self.place.store)):
            for name in ("scratch", "sent"):
                shutil.rmtree(self.work / name, ignore_errors=True)
        else:
            shutil.rmtree(self.work, ignore_errors=True)
            with contextlib.suppress(OSError):  # other workers are there still
                self.work.parent.rmdir()

    async def look_up(self, name: str) -> str:
        """The digest of a file of ComfyUI's folders."""
        return await asyncio.to_thread(LocalFiles(self.worker.facts.models, self.worker.facts.places).look_up, name)

    async def lacks(self, names: list[str]) -> set[str]:
        """Those of these adapters and uploads that the server does not have."""
        return set(names) - self.worker.holds - self.worker.sent

    async def begin(self, ticket: str, job: Job, adapters: Sent, uploads: Sent, scratch: str) -> None:
        """Begin a cell. adapters, uploads: files that were sent with it."""
        folder = Path(scratch) if self.shared else self.work / "scratch" / ticket

        def event(kind: str, data: dict[str, Any]) -> None:
            call.events.append((kind, data))
            call.news.set()

        async def run() -> tuple[Cell, Run]:
            sent = self.work / "sent" / ticket
            here: list[dict[str, Path]] = []
            for files in (adapters, uploads):
                here.append({name: sent / str(number) / Path(name).name for number, name in enumerate(files)})
            try:
                await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
                for files, paths in zip((adapters, uploads), here):
                    for name, path in paths.items():
                        await asyncio.to_thread(unpack, files[name], path)
                there = replace(job, adapters=job.adapters | here[0], uploads=job.uploads | here[1])
                return await self.worker.run(there, folder, event)
            finally:
                await asyncio.to_thread(shutil.rmtree, sent, ignore_errors=True)

        call = _Call(asyncio.create_task(run()), folder)
        call.task.add_done_callback(lambda _: call.news.set())
        self.calls[ticket] = call

    async def follow(self, ticket: str) -> tuple[list[tuple[str, dict[str, Any]]], Outcome | None]:
        """Wait for news of a cell: events of its server, and at the end how it has ended."""
        call = self.calls[ticket]
        await call.news.wait()
        call.news.clear()
        done = call.task.done()
        events, call.events = call.events, []
        if not done:
            return events, None
        self.calls.pop(ticket, None)
        return events, await self._outcome(call)

    async def _outcome(self, call: _Call) -> Outcome:
        try:
            cell, run = await call.task
            files = [] if self.shared else await asyncio.to_thread(pack, call.scratch)
            return Outcome(set(self.worker.holds), cell, run, files)
        except ServerLost as error:
            return Outcome(set(self.worker.holds), lost=str(error))
        except OSError as error:
            if self.shared:
                return Outcome(set(self.worker.holds), error=error)
            return Outcome(set(self.worker.holds), lost=f"files cannot be written there ({error})")
        finally:
            if not self.shared:
                await asyncio.to_thread(shutil.rmtree, call.scratch, ignore_errors=True)

    async def cancel(self, ticket: str) -> None:
        """End a cell: its prompt is taken from the server."""
        call = self.calls.pop(ticket, None)
        if call is not None:
            call.task.cancel()
            await asyncio.gather(call.task, return_exceptions=True)
            if not self.shared:
                await asyncio.to_thread(shutil.rmtree, call.scratch, ignore_errors=True)


def work_folder(name: str, place: Place, shared: bool) -> Path:
    """Where the server of a worker works on this machine: in the store, if it is on this disk, else in the folder of
    temporary files. The next actor of that name on this machine uses it again, and ends what a dead one has left there.
    """
    if shared and socket.gethostname() == place.host:
        return Path(place.store) / "work" / name
    store = hashlib.sha256(f"{place.host}\0{place.store}\0{Path.home()}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / "deft_sweeps" / store / name


def _free_threads() -> None:
    """Undo what Ray does to OMP_NUM_THREADS (1 for an actor without CPUs), unless the machine itself has set it."""
    import psutil

    if "OMP_NUM_THREADS" not in psutil.Process().environ():
        os.environ.pop("OMP_NUM_THREADS", None)


def pack(path: Path) -> list[tuple[str, bytes]]:
    """A file, or all that is in a folder."""
    if not path.is_dir():
        return [("", path.read_bytes())]
    inside = [item for item in sorted(path.rglob("*")) if item.is_file()]
    return [(item.relative_to(path).as_posix(), item.read_bytes()) for item in inside]


def unpack(files: Iterable[tuple[str, bytes]], target: Path) -> None:
    """Write what `pack` has read: a file, or all that was in a folder."""
    for name, content in files:
        path = target / name if name else target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
