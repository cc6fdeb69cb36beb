"""Runs one cell at a time on one ComfyUI server: sends what it needs, waits, and brings what it has given."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..disk.errors import named
from .access import Access
from .answers import Finished
from .client import Client
from .cutting import SAVER
from .errors import Interrupted, NodeFailed, Refused, ServerLost, TooLong
from .facts import Facts, facts_of
from .files import SWEEPS_FOLDER
from .plan import Outputs, PlanNumber
from .planned import adapter_name
from .png import with_text
from .records import Cell, CellRun, Kind, StoredFile
from .remote import RayServer
from .server import Server
from .waiting import OnEvent
from .workflow import Prompt
from .writing import link

ADAPTER_FILE = "adapter.safetensors"
SAMPLE_SECONDS = 1.0
PATTERN_SECONDS = 5.0  # to find a number in a node's text


@dataclass(frozen=True)
class Job:
    """A cell as a server runs it.

    prompt: what is sent. whole: the workflow that the pictures restore. adapters: training key -> file. embeddings:
    those of them, and of the cell itself, that are embeddings. uploads: name on the server -> file or folder here.
    titles: node id -> title, of the nodes of the prompt. time_limit: seconds that it may run.
    """

    key: str
    kind: Kind
    plan: str
    labels: dict[str, str]
    needs: tuple[str, ...]
    prompt: Prompt
    whole: Prompt
    outputs: Outputs
    titles: dict[str, str]
    adapters: dict[str, Path] = field(default_factory=dict)
    uploads: dict[str, Path] = field(default_factory=dict)
    embeddings: frozenset[str] = frozenset()
    time_limit: float | None = None

    @property
    def saves_adapter(self) -> bool:
        """Whether a Save Adapter was put into the prompt."""
        return any(node_id not in self.whole and node["class_type"] == SAVER for node_id, node in self.prompt.items())


class Worker:
    """A ComfyUI server at an address, or one of our own that is started, and started anew when it has died."""

    slots = 2  # cells that are with the server at a time: while one runs, the next one waits there

    def __init__(self, name: str, access: Access | None = None, server: Server | RayServer | None = None) -> None:
        self.name, self.access, self.server = name, access or Access(""), server
        self.client: Client = None  # type: ignore[assignment]
        self.facts: Facts = None  # type: ignore[assignment]
        self.holds: set[str] = set()  # keys of adapters that are on the server
        self.sent: set[str] = set()  # names of uploads that are on the server
        self._stuck = False  # whether a prompt goes on there that was interrupted
        self._running: dict[str, dict[str, float]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._last_files: dict[str, set[str]] = {}  # of each node, below the server's output folder
        self._sending = asyncio.Lock()

    @property
    def url(self) -> str:
        """The server's address."""
        return self.access.url

    async def start(self) -> None:
        """Start the server if it is our own, and connect, unless that is done. Raises RuntimeError if it stays away."""
        if self.client is not None:
            return
        if self.server is not None:
            await asyncio.to_thread(self.server.start)
            self.access = Access(self.server.url)
        self.client = await Client(self.access).__aenter__()
        self.facts = await facts_of(self.client)
        self.holds, self.sent, self._last_files = set(), set(), {}
        self._tasks = [asyncio.create_task(self._sample())]
        if self.server is not None:
            self._tasks.append(asyncio.create_task(self._watch(self.server)))

    async def stop(self) -> None:
        """Disconnect, and end the server if it is our own."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.client is not None:
            await self.client.__aexit__()
            self.client = None  # type: ignore[assignment]
        if self.server is not None:
            await asyncio.to_thread(self.server.stop)

    async def restart(self) -> None:
        """Start a new server of our own, or connect to the same address again, after the server was lost.

        Raises RuntimeError if it stays away, or has a prompt that it does not end.
        """
        if self._stuck and self.server is None:
            raise RuntimeError(f"{self.url} still runs a cell that was interrupted: restart that server")
        self._stuck = False
        await self.stop()
        await self.start()

    async def _watch(self, server: Server | RayServer) -> None:
        while server.alive:
            await asyncio.sleep(0.1)
        self.client.give_up()

    async def run(self, job: Job, scratch: Path, on_event: OnEvent) -> tuple[Cell, CellRun]:
        """Run a cell and put its files into `scratch`. What fails on the server is in the record, not raised.

        Raises ServerLost if the server is gone, OSError if files cannot be written here.
        """
        peaks: dict[str, float] = {}

        def event(kind: str, data: dict[str, Any]) -> None:
            if kind == "execution_start":
                self._running[job.key] = peaks
            on_event(kind, data)

        files: tuple[StoredFile, ...] = ()
        texts: dict[str, list[str]] = {}
        numbers: dict[str, float] = {}
        status: Any = "done"
        error, finished = "", Finished({}, 0.0)
        try:
            await self._send(job)
            finished = await self.client.run(job.prompt, event, job.time_limit)
            await self._measure()
            texts = self._texts(job, finished)
            files = await self._bring(job, finished, scratch)
            with contextlib.suppress(ServerLost, Refused):  # it is here, and can be sent again
                await self._keep_adapter(job, files, scratch)
            if job.kind == "training" and self.server is not None:
                await asyncio.to_thread(self.server.drop_checkpoints, finished.ended)
            numbers = _numbers(job, texts)
            if job.kind == "training" and not any(file.name == ADAPTER_FILE for file in files) and job.saves_adapter:
                raise NodeFailed("the training wrote no adapter file: see ComfyUI's log", "")
        except (Refused, Interrupted) as reason:
            status, error = "cancelled" if isinstance(reason, Interrupted) else "failed", str(reason)
        except NodeFailed as reason:
            status, error = "failed", f"{reason}\n{reason.traceback}".rstrip()
            if isinstance(reason, TooLong) and not reason.stopped:  # all that is sent there would wait behind it
                self._stuck = True
                self.client.give_up()
        finally:
            self._running.pop(job.key, None)
        if status != "done":
            for path in scratch.iterdir():
                path.unlink()
            files = ()
        cell = Cell(job.key, job.kind, job.labels, job.needs, job.whole, files, numbers)
        return cell, CellRun(
            status,
            error,
            round(finished.seconds, 3),
            {node: round(seconds, 3) for node, seconds in finished.node_seconds.items()},
            {name: round(value, 1) for name, value in peaks.items()},
            self.facts.versions,
            f"{self.name} on {self.server.machine}" if self.server and self.server.machine else self.name,
            finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            texts=texts,
        )

    # What a cell needs on the server

    async def _send(self, job: Job) -> None:
        async with self._sending:
            for key, path in job.adapters.items():
                if key not in self.holds:
                    await self._send_adapter(key, path, key in job.embeddings)
            for name, path in job.uploads.items():
                if name not in self.sent:
                    inside = [item for item in sorted(path.rglob("*")) if item.is_file()] if path.is_dir() else []
                    parent = str(Path(name).parent.as_posix())
                    for item in inside:
                        place = (Path(name) / item.relative_to(path).parent).as_posix()
                        await self.client.upload(item, place, item.name, "input")
                    if not path.is_dir():
                        await self.client.upload(path, parent, Path(name).name, "input")
                    self.sent.add(name)

    async def _send_adapter(self, key: str, path: Path, embedding: bool) -> None:
        """Put an adapter or an embedding where the server's loaders find it. Raises Refused if there is no place."""
        name = adapter_name(key)
        if self.server is not None and self.server.work is not None:
            folder = self.server.work / "output" / ("embeddings" if embedding else "loras")
            await asyncio.to_thread(link, path, folder / name)
        else:
            place, folder_there = (self.facts.embeddings if embedding else ("output", "loras")) or ("", "")
            if place:
                await self.client.upload(path, f"{folder_there}/{SWEEPS_FOLDER}", Path(name).name, place)
            if embedding and not await self.client.get_bytes("/view_metadata/embeddings", filename=name):
                raise Refused(
                    f"the server {self.url} cannot be given an embedding: it has no folder of embeddings inside its "
                    "output or input folder (docs/sweeps.md says how to name one)"
                )
        self.holds.add(key)

    # What a cell has given

    def _texts(self, job: Job, finished: Finished) -> dict[str, list[str]]:
        texts: dict[str, list[str]] = {}
        for node_id, shown in finished.outputs.items():
            lines = [str(line) for line in shown.get("text") or () if line is not None]
            if lines:
                texts.setdefault(job.titles.get(node_id, node_id), []).extend(lines)
        return texts

    async def _bring(self, job: Job, finished: Finished, scratch: Path) -> tuple[StoredFile, ...]:
        """Fetch all files that output nodes have named, pictures with the workflow in them."""
        stored = []
        for node_id in sorted(finished.outputs):
            here: set[str] = set()
            title = job.titles.get(node_id, "")
            class_type = job.prompt[node_id]["class_type"] if node_id in job.prompt else ""
            items = [
                item
                for values in finished.outputs[node_id].values()
                if isinstance(values, list)
                for item in values
                if isinstance(item, Mapping) and item.get("filename")
            ]
            for number, item in enumerate(items):
                if item.get("type") == "temp" and not job.outputs.previews:
                    continue
                name = _file_name(job, node_id, title, number, str(item["filename"]))
                with named(scratch / name):
                    await self.client.fetch(item, scratch / name)
                if name.lower().endswith(".png"):
                    await asyncio.to_thread(_label_png, scratch / name, job)
                stored.append(StoredFile(name, node_id, title, class_type))
                if self.server is not None and item.get("type") == "output":
                    here.add(f"{item.get('subfolder') or '.'}/{item['filename']}")
            # ComfyUI may show the last files of a node again, so only older ones can go.
            if self.server is not None and here:
                old = self._last_files.get(node_id, set()) - here
                if old:
                    await asyncio.to_thread(self.server.remove, sorted(old))
                self._last_files[node_id] = here
        return tuple(stored)

    async def _keep_adapter(self, job: Job, files: Sequence[StoredFile], scratch: Path) -> None:
        """Leave a trained adapter where the loaders of a server of our own find it: its pictures may be made there."""
        if self.server is not None and job.kind == "training" and any(file.name == ADAPTER_FILE for file in files):
            await self._send_adapter(job.key, scratch / ADAPTER_FILE, job.key in job.embeddings)

    # Memory

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            if self._running:
                with contextlib.suppress(ServerLost):
                    await self._measure()

    async def _measure(self) -> None:
        """Keep the highest values seen while each of the running cells ran."""
        seen: dict[str, float] = {}
        if self.server is not None:
            memory = await asyncio.to_thread(self.server.memory)
            seen |= {"process": memory} if memory else {}
        if (self.facts.stats.get("devices") or [{}])[0].get("type") != "cpu":
            stats = await self.client.get("/system_stats")
            devices = (stats or {}).get("devices") or []
            if devices:
                seen["torch"] = devices[0].get("torch_vram_total", 0) / 2**20
        for peaks in self._running.values():
            for name, value in seen.items():
                peaks[name] = max(value, peaks.get(name, 0.0))


def _file_name(job: Job, node_id: str, title: str, number: int, original: str) -> str:
    """The name of a file in the store: by title, node and number, whatever the server's counter says."""
    suffix = Path(original).suffix.lower()
    if job.kind == "training" and suffix == ".safetensors" and node_id not in job.whole:
        return ADAPTER_FILE
    words = re.sub(r"[^\w.-]+", "_", title).strip("._")[:40] or "output"
    return f"{words}-{re.sub(r'[^0-9A-Za-z-]+', '_', node_id)}-{number}{suffix}"


def _label_png(path: Path, job: Job) -> None:
    """Write the whole workflow and the cell into a picture's text, whatever its saver has written."""
    note = {"cell": job.key, "plan": job.plan, "axes": job.labels}
    data = with_text(path.read_bytes(), {"prompt": json.dumps(job.whole), "deft_sweep": json.dumps(note)})
    with named(path):
        path.write_bytes(data)


def _numbers(job: Job, texts: Mapping[str, list[str]]) -> dict[str, float]:
    """The numbers that the plan's output rules take from the texts. Raises NodeFailed where there is none."""
    shown = {number: texts.get(job.titles.get(number.node, number.node), ()) for number in job.outputs.numbers}
    return {number.name: number_in(number, "\n".join(lines)) for number, lines in shown.items()}


def number_in(number: PlanNumber, text: str) -> float:
    """The number that a node's text holds. Raises NodeFailed where it holds none, or where the pattern takes longer
    than PATTERN_SECONDS.
    """
    import regex  # Python's own expressions, with a time limit

    try:
        match = regex.search(number.pattern.pattern, text, timeout=PATTERN_SECONDS)
        if match is None:
            raise ValueError
        return float(match.group(1) if match.re.groups else match.group())
    except (TimeoutError, regex.error) as error:
        why = str(error) if isinstance(error, regex.error) else f"it takes more than {PATTERN_SECONDS:g} s"
        raise NodeFailed(
            f"{number.node}: the pattern {number.pattern.pattern!r} of {number.name!r} cannot be matched with its text "
            f"({why}): write it without repeats in repeats",
            "",
        ) from None
    except (ValueError, TypeError):
        raise NodeFailed(
            f"{number.node} shows no number {number.name!r} ({number.pattern.pattern}), but {text[:200]!r}", ""
        ) from None
