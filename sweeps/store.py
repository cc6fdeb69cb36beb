"""The store: a folder that holds what every cell has given. Any number of runners may share it.

    store.json                  whose plan it is
    plan/                       the cells of the plan as it was last run, its YAML, the layout of its report
    done/ab/abcd.../            a cell: cell.json (what it is), run.json (how it was run), its files
    failed/, cancelled/         the same for cells that ended otherwise
    claims/abcd...              which runner is at that cell now
    tmp/, work/                 what is being written; the folders of the servers
    report/                     what `sweeps report` has written

A cell's folder is written whole in tmp/ and then renamed, so it is there entirely or not at all. The names of the
folders are the index: nothing else has to be read, or kept in step, to know what is done.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from ..disk.errors import named, reason
from .records import CELL_FILE, RUN_FILE, Cell, CellRun, Record, Status, read_record, to_json
from .writing import is_left, sync, tidy, write, write_synced

_FORMAT = 1
STALE = 60.0  # seconds without a sign of life after which a claim of another machine is taken over
BEAT = 10.0  # seconds between signs of life
SERVERS = ("server-", "ray-")  # how claims of the folders of servers begin; all others are of cells
T = TypeVar("T")
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class Owner:
    """The holder of a claim. token: unlike that of any other runner."""

    host: str
    pid: int
    token: str

    def __str__(self) -> str:
        return f"{self.host} (process {self.pid})"


class Store:
    """The store in a folder.

    Raises ValueError from `open` for a folder that is something else, or the store of another plan.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.owner = Owner(socket.gethostname(), os.getpid(), uuid.uuid4().hex)

    @classmethod
    def open(cls, root: Path, plan: str = "", join: bool = False) -> Store:
        """The store in that folder, made if it is not there yet (with `plan`, the name of whose plan it is).

        join: the plan may use the store of another plan; equal cells are the same cell.
        """
        store, marker = cls(root), root / "store.json"
        if not plan and not marker.is_file():
            raise ValueError(f"{root} is not the store of a sweep: name the folder that `sweeps run` has made.")
        if plan:
            with named(marker):
                cls._make(marker, plan)
        try:
            content = json.loads(marker.read_bytes())
            plans = list(content["plans"])
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']}")
        except OSError as error:
            raise ValueError(f"{marker} cannot be read ({reason(error)}): check its permissions.") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{marker} cannot be read ({error}): it was written by another version or is damaged; "
                "name another folder with --store."
            ) from error
        if plan and plan not in plans:
            if not join:
                raise ValueError(
                    f"{root} is the store of the plan {' and '.join(map(repr, plans))}, not of {plan!r}: "
                    "name another folder with --store, or let both plans use it with --join."
                )
            write(marker, json.dumps(content | {"plans": [*plans, plan]}).encode())
        return store

    @staticmethod
    def _make(marker: Path, plan: str) -> None:
        """The file that makes a folder a store, where there is none yet."""
        root = marker.parent
        if marker.is_file():
            return
        foreign = root.exists() and any(not path.name.startswith(".store.json.") for path in root.iterdir())
        if not foreign:
            write(marker, json.dumps({"format": _FORMAT, "plans": [plan]}).encode())
        elif not marker.is_file():  # another runner may just have made it
            raise ValueError(f"{root} is not empty and not the store of a sweep: name another folder with --store.")

    def folder(self, key: str, status: Status = "done") -> Path:
        """The folder of a cell of that key and status."""
        return self.root / status / key[:2] / key

    def keys(self, status: Status = "done") -> set[str]:
        """The keys of all cells of that status."""
        keys: set[str] = set()
        try:
            with os.scandir(self.root / status) as groups:
                for group in groups:
                    if not group.is_dir():  # what a system puts into folders, such as Thumbs.db
                        continue
                    with os.scandir(group.path) as cells:
                        keys.update(cell.name for cell in cells if not cell.name.startswith(".") and cell.is_dir())
        except FileNotFoundError:
            pass
        return keys

    def status(self, key: str) -> Status | None:
        """The status of a cell; None if it was not run."""
        return next((status for status in STATUSES if self.folder(key, status).is_dir()), None)

    def read(self, key: str) -> Record | None:
        """The record of a cell; None if it was not run. Raises ValueError for a damaged record."""
        status = self.status(key)
        return read_record(self.folder(key, status)) if status else None

    def scratch(self) -> Path:
        """A new empty folder, to be filled and then given to `put`."""
        folder = self.root / "tmp" / f"{self.owner.token[:12]}-{uuid.uuid4().hex}"
        with named(folder):
            folder.mkdir(parents=True)
        return folder

    def put(self, cell: Cell, run: CellRun, scratch: Path) -> bool:
        """Keep a cell whose files are in `scratch`, which is gone afterwards. False if another runner was first.

        Raises NotWritten, which is an OSError, if the disk is full; then nothing of the cell is kept.
        """
        try:
            for file in scratch.iterdir():
                sync(file)
            write_synced(scratch / CELL_FILE, to_json(cell))
            write_synced(scratch / RUN_FILE, to_json(run))
            target = self.folder(cell.key, run.status)
            if run.status != "done":
                self.forget(cell.key, ("failed", "cancelled"))
            try:
                with named(target):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.rename(scratch, target)
            except OSError:
                if not target.is_dir():
                    raise
                return False
            if run.status == "done":
                self.forget(cell.key, ("failed", "cancelled"))
            return True
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def forget(self, key: str, statuses: Iterable[Status] = STATUSES) -> None:
        """Remove a cell. The folder goes out of the way first, so that no half of a cell is ever seen."""
        for status in statuses:
            folder = self.folder(key, status)
            if folder.is_dir():
                away = self.root / "tmp" / f"away-{uuid.uuid4().hex}"
                with named(folder):
                    away.parent.mkdir(parents=True, exist_ok=True)
                    os.rename(folder, away)
                shutil.rmtree(away, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what killed runners have left behind a day ago or earlier. (`sweeps clean` removes all of it.)"""
        for folder in (self.root, self.root / "claims", *(self.root / "plan").glob("*")):
            tidy(folder)
        living = {owner.token[:12] for _, owner in self.claims() if owner} | {self.owner.token[:12]}
        for folder in (self.root / "tmp").glob("*"):
            with contextlib.suppress(OSError):
                if folder.name.partition("-")[0] not in living and is_left(folder):
                    shutil.rmtree(folder, ignore_errors=True)

    # Claims

    def claim(self, name: str) -> bool:
        """Take a cell (or anything of that name) for this runner. False while another living runner holds it."""
        path = self._claim_path(name)
        data = json.dumps({"host": self.owner.host, "pid": self.owner.pid, "token": self.owner.token}).encode()
        if _made(path, data):
            return True
        seen = self._read_claim(path)
        if seen == self.owner:
            return True
        # One that cannot be read is being written at this moment, unless it is old.
        if not (self._dead(path, seen) if seen else _age(path) > STALE):
            return False
        # Only one may take over: who makes this file. It is removed again at once.
        lock = path.with_name(f"{name}.takeover")
        if not _made(lock):
            if _age(lock) > STALE:
                lock.unlink(missing_ok=True)
            return False
        try:
            if self._read_claim(path) != seen:
                return False
            write(path, data)
            return True
        finally:
            lock.unlink(missing_ok=True)

    def release(self, name: str) -> None:
        """Give a claim back."""
        path = self._claim_path(name)
        if self._read_claim(path) == self.owner:
            path.unlink(missing_ok=True)

    def beat(self, names: Iterable[str]) -> None:
        """A sign of life of the holder of these claims."""
        for name in names:
            try:
                os.utime(self._claim_path(name))
            except OSError:
                continue

    def holder(self, name: str) -> Owner | None:
        """The living runner that holds a claim, if any."""
        path = self._claim_path(name)
        owner = self._read_claim(path)
        return None if owner is None or self._dead(path, owner) else owner

    def claims(self) -> Iterator[tuple[str, Owner | None]]:
        """All claims; None for those whose holder is dead."""
        folder = self.root / "claims"
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix != ".takeover" and not path.name.startswith("."):
                yield path.name, self.holder(path.name)

    def _claim_path(self, name: str) -> Path:
        return self.root / "claims" / name

    def _read_claim(self, path: Path) -> Owner | None:
        """The owner that a claim names; None where it names none that there can be."""
        try:
            owner = Owner(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        is_whole = isinstance(owner.host, str) and isinstance(owner.token, str) and type(owner.pid) is int
        return owner if is_whole and 0 < owner.pid < 2**31 else None

    def _dead(self, path: Path, owner: Owner) -> bool:
        """Whether a holder is gone: its process here, or no sign of life elsewhere."""
        if owner.host == self.owner.host and owner.pid != self.owner.pid:
            import psutil

            if not psutil.pid_exists(owner.pid):
                return True
        return _age(path) > STALE

    # The plan

    def write_plan(self, name: str, files: dict[str, bytes]) -> None:
        """Keep what `status` and `report` need of a plan."""
        for file, data in files.items():
            write(self.root / "plan" / name / file, data)

    def plan_file(self, name: str, file: str) -> bytes:
        """A file that `write_plan` has kept. Raises ValueError if there is none."""
        try:
            return (self.root / "plan" / name / file).read_bytes()
        except FileNotFoundError as error:
            raise ValueError(
                f"{self.root} does not hold the cells of the plan {name!r}: run `sweeps plan` or `sweeps run` first."
            ) from error
        except OSError as error:
            where = self.root / "plan" / name / file
            raise ValueError(f"{where} cannot be read ({reason(error)}): check its permissions.") from error

    def read_plan_file(self, name: str, file: str, read: Callable[[bytes], T]) -> T:
        """The content of a file that `write_plan` has kept. Raises ValueError if there is none, or it is damaged."""
        data = self.plan_file(name, file)
        try:
            return read(data)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{self.root / 'plan' / name / file} is damaged ({type(error).__name__}: {error}): `sweeps plan` and "
                "`sweeps run` write it again."
            ) from error

    def plans(self) -> list[str]:
        """The names of the plans that use the store, the first one first."""
        content: dict[str, Any] = json.loads((self.root / "store.json").read_bytes())
        return list(content["plans"])


def _made(path: Path, content: bytes = b"") -> bool:
    """Make a file, and its folder. False if there is one. Raises NotWritten."""
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(path, "xb") as file:
                file.write(content)
        except FileExistsError:
            return False
    return True


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
