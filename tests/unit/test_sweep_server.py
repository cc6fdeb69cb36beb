"""A server of our own and the process that has started it, with a small program in ComfyUI's place."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from deft_pack.sweeps.launch import end_orphans
from deft_pack.sweeps.server import Server
from deft_pack.sweeps.store import Store

MAIN = """
import socket, sys, time
words = dict(zip(sys.argv, sys.argv[1:]))
time.sleep(float(words.get("--sleep", 0)))
with socket.create_server((words["--listen"], int(words["--port"]))) as listening:
    while True:
        listening.accept()[0].close()
"""
ROOT = Path(__file__).resolve().parent.parent.parent
STARTER = """
import importlib.util, pathlib, sys, time
spec = importlib.util.spec_from_file_location("pack", {root!r} + "/__init__.py", submodule_search_locations=[{root!r}])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
from pack.sweeps.server import Server
server = Server(pathlib.Path({folder!r}), pathlib.Path({folder!r}) / "work", {arguments!r})
server.start()
time.sleep(100)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "main.py").write_text(MAIN)
    return tmp_path


def guards(pid: int | None = None) -> list[psutil.Process]:
    """The guards that a process has started, this one by default."""
    return [child for child in psutil.Process(pid).children() if "readline" in " ".join(child.cmdline())]


def killed_after_start(folder: Path, arguments: list[str], guard_too: bool = False) -> psutil.Process:
    """The server of a process that was killed as soon as the server's process was there."""
    source = STARTER.format(root=str(ROOT), folder=str(folder), arguments=arguments)
    starter = subprocess.Popen([sys.executable, "-c", source])
    pid = folder / "work" / "server.pid"
    end = time.monotonic() + 60
    while not (pid.is_file() and pid.read_text()):
        assert time.monotonic() < end
        assert starter.poll() is None
        time.sleep(0.02)
    server = psutil.Process(int(pid.read_text().split()[0]))
    assert server.is_running()
    if guard_too:
        (guard,) = guards(starter.pid)
        guard.kill()
    starter.kill()
    starter.wait()
    return server


@pytest.mark.parametrize("arguments", [[], ["--sleep", "60"]], ids=["running", "starting"])
def test_a_server_ends_with_who_has_started_it(folder: Path, arguments: list[str]) -> None:
    server = killed_after_start(folder, arguments)
    psutil.wait_procs([server], timeout=30)
    assert not server.is_running()


def test_a_server_whose_guard_was_killed_stays_until_the_next_one(folder: Path) -> None:
    orphan = killed_after_start(folder, [], guard_too=True)
    time.sleep(0.3)
    assert orphan.is_running()
    server = Server(folder, folder / "work")
    server.start()
    try:
        assert not orphan.is_running()
        assert server.alive
        assert server.memory() > 1
    finally:
        server.stop()


def test_orphans_of_a_store_are_ended_and_named(folder: Path) -> None:
    """Servers that a living runner holds are left alone."""
    store = Store.open(folder / "store", "ducks")
    (folder / "store" / "work").mkdir()
    orphans = {}
    for name in ("server-1", "server-2"):
        orphans[name] = killed_after_start(folder, [], guard_too=True)
        (folder / "work").rename(folder / "store" / "work" / name)
    other = Store(folder / "store")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        other.owner = replace(other.owner, pid=living.pid)
        assert other.claim("server-2")
        (line,) = end_orphans(store)
        living.communicate(b"\n")
    psutil.wait_procs([orphans["server-1"]], timeout=10)
    assert [orphan.is_running() for orphan in orphans.values()] == [False, True]
    assert f"process {orphans['server-1'].pid}" in line
    assert line.endswith(str(folder / "store" / "work" / "server-1"))
    assert [f"process {orphans['server-2'].pid}" in line for line in end_orphans(store)] == [True]


def test_the_guard_goes_with_its_server(folder: Path) -> None:
    """A server that is stopped or started again leaves no guard, which might kill another process of that id later."""
    server = Server(folder, folder / "work")
    try:
        for _ in range(2):
            server.start()
            assert len(guards()) == 1
            server.process.kill()  # type: ignore[union-attr]
    finally:
        server.stop()
    assert guards() == []


def test_it_listens_on_its_address_alone(folder: Path) -> None:
    server = Server(folder, folder / "work", host="127.0.0.2")
    server.start()
    try:
        assert server.url == f"http://127.0.0.2:{server.port}"
        assert {each.laddr.ip for each in psutil.Process(server.process.pid).net_connections()} == {"127.0.0.2"}  # type: ignore[union-attr]
    finally:
        server.stop()
    assert not server.alive
    assert server.memory() == 0
