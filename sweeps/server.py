"""A ComfyUI server of our own, without a screen, as a child process."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from .facts import Facts
from .files import Files, LocalFiles

HOST = "127.0.0.1"
PORTS = range(20000, 32000)
# Kills the process whose id is the first line of its pipe when whoever has started this one is gone, however it went:
# the pipe's other end is closed then. A second line ends this one alone. It is there before the process is, so that
# none is without it for longer than a line takes.
GUARD = "import os, sys; pid = sys.stdin.readline(); pid and not sys.stdin.readline() and os.kill(int(pid), 9)"


def free_port(host: str = HOST) -> int:
    """A port of that address that nobody listens on, and below those that systems give to outgoing connections: ComfyUI
    listens some seconds later only, and one of them could have taken the port by then."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(1000):
        port = random.SystemRandom().choice(PORTS)
        with socket.socket(family) as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port
    raise RuntimeError(f"no port of {host} between {PORTS[0]} and {PORTS[-1]} is free for a ComfyUI server.")


def find_comfyui(pack: Path, named: Path | None = None) -> Path:
    """The ComfyUI folder: the named one, COMFYUI_DIR, or the one whose custom_nodes folder holds the pack.

    Raises ValueError that says how to name it.
    """
    folder = named or (Path(os.environ["COMFYUI_DIR"]) if os.environ.get("COMFYUI_DIR") else None)
    if folder is not None:
        if not (folder / "main.py").is_file():
            raise ValueError(f"{folder} is not a ComfyUI folder: it has no main.py.")
        return folder.resolve()
    above = pack.resolve().parent.parent
    if pack.resolve().parent.name == "custom_nodes" and (above / "main.py").is_file():
        return above
    raise ValueError("no ComfyUI is found: name its folder with --comfyui, or a running one with --server.")


class Server:
    """A ComfyUI process. comfyui: its folder. work: a folder for its output, temporary and user files and its log.

    arguments: more of ComfyUI's own, such as --base-directory or --cpu. python: the interpreter, "" for that of the
    process in which this is made. host: the address that it listens on, and no other. It ends when this process ends,
    however that happens. Not started until `start`.
    """

    machine = ""  # this one

    def __init__(
        self,
        comfyui: Path,
        work: Path,
        arguments: Sequence[str] = (),
        python: str = "",
        environment: dict[str, str] | None = None,
        host: str = HOST,
    ) -> None:
        self.comfyui, self.work, self.arguments, self.python = comfyui, work, list(arguments), python or sys.executable
        self.environment, self.host = environment or {}, host
        self.port = free_port(host)
        self.process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self.seconds_to_start = 0.0

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    @property
    def log_file(self) -> Path:
        """The file with what the server prints."""
        return self.work / "server.log"

    def command(self) -> list[str]:
        """The command line of the process."""
        folders = []
        for option, name in (("--output-directory", "output"), ("--temp-directory", "."), ("--user-directory", "user")):
            if option not in self.arguments:
                folders += [option, str(self.work / name)]
        return [
            self.python,
            str(self.comfyui / "main.py"),
            "--listen",
            self.host,
            "--port",
            str(self.port),
            "--disable-auto-launch",
            *folders,
            "--extra-model-paths-config",
            str(self.work / "models.yaml"),
            "--database-url",
            f"sqlite:///{self.work / 'comfyui.db'}",
            *self.arguments,
        ]

    def launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """The process, just started, in a session of its own, or Ctrl-C would end it, too."""
        return subprocess.Popen(
            self.command(),
            cwd=self.comfyui,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | self.environment,
            start_new_session=True,
        )

    def start(self, timeout: float = 300.0) -> None:
        """Start the process and wait for its first answer. Raises RuntimeError with the log's end when none comes."""
        for name in ("output", "user"):
            (self.work / name).mkdir(parents=True, exist_ok=True)
        # ComfyUI looks into output/loras by itself, but not for embeddings.
        (self.work / "models.yaml").write_text(
            json.dumps({"sweeps": {"base_path": str(self.work / "output"), "embeddings": "embeddings"}})
        )
        self.end_orphan()
        self.port = free_port(self.host)
        started = time.monotonic()
        self._dismiss_guard()
        guard = [sys.executable, "-I", "-S", "-c", GUARD]
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True)
        assert self._guard.stdin is not None
        try:
            with open(self.log_file, "wb") as log:
                self.process = self.launch(log)
            self._guard.stdin.write(b"%d\n" % self.process.pid)
            self._guard.stdin.flush()
            self.pid_file.write_text(f"{self.process.pid} {_created(self.process.pid)}")
            while not self._answers():
                if self.process.poll() is not None:
                    raise RuntimeError(f"ComfyUI ended at start-up; the end of {self.log_file}:\n{self.log_tail()}")
                if time.monotonic() - started > timeout:
                    raise RuntimeError(
                        f"ComfyUI gave no answer in {timeout:.0f} s; the end of {self.log_file}:\n{self.log_tail()}"
                    )
                time.sleep(0.05)
            self.seconds_to_start = time.monotonic() - started
        except BaseException:
            self.stop()
            raise

    @property
    def pid_file(self) -> Path:
        """The file with the id of the process that works in this folder."""
        return self.work / "server.pid"

    def end_orphan(self) -> int:
        """End the server that a runner has left in this folder which was killed together with its guard; its id, 0 for
        none."""
        import psutil

        ended = 0
        try:
            pid, created = self.pid_file.read_text().split()
            if _created(int(pid)) == created:
                orphan = psutil.Process(int(pid))
                orphan.kill()
                ended = orphan.pid
                orphan.wait(10)
        except (OSError, ValueError, psutil.Error):
            pass
        self.pid_file.unlink(missing_ok=True)
        return ended

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=1):
                return True
        except OSError:
            return False

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """End the process and wait for it."""
        if self.process is None:
            self._dismiss_guard()
            return
        self.pid_file.unlink(missing_ok=True)
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:  # busy inside a long native call
                self.process.kill()
                self.process.wait()
        self._dismiss_guard()

    def _dismiss_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            with contextlib.suppress(OSError):
                guard.communicate(b"end\n")

    def memory(self) -> float:
        """The process's resident memory in MiB, 0 if it is gone."""
        import psutil

        try:
            return psutil.Process(self.process.pid).memory_info().rss / 2**20 if self.process is not None else 0.0
        except psutil.Error:
            return 0.0

    def files(self, facts: Facts) -> Files:
        """The files of the server's folders."""
        return LocalFiles(facts.models, facts.places)

    def remove(self, files: Iterable[str]) -> None:
        """Remove files of the output folder."""
        for name in files:
            (self.work / "output" / name).unlink(missing_ok=True)

    def drop_checkpoints(self, before: float) -> None:
        """Remove checkpoints of trainings that have ended: folders in which nothing was written since `before` (s)."""
        for folder in {path.parent for path in (self.work / "output").rglob("checkpoint_*.pt")}:
            try:
                ended = all(path.stat().st_mtime < before for path in folder.iterdir())
            except FileNotFoundError:  # renamed or removed in between: a training is at work there
                continue
            if ended:
                shutil.rmtree(folder, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what the server has made, but its log, and checkpoints of trainings that were not finished."""
        for name in ("temp", "user", "output/loras", "output/embeddings", "output/deft_sweeps"):
            shutil.rmtree(self.work / name, ignore_errors=True)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the log."""
        try:
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


def _created(pid: int) -> str:
    """The start time of a process, so that another one of the same number is not taken for it; "" if there is none."""
    import psutil

    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return ""
