"""ComfyUI servers that start in a fourth of the time: each is a process of its own that is forked from one which has
imported PyTorch and the other large libraries, and nothing of ComfyUI's or the pack's, and then runs ComfyUI's main.py.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any

from comfy_server import ComfyServer
from rooms import ROOT

# What takes long to import of what ComfyUI and the pack import.
LIBRARIES = (
    *("torch", "torchvision", "torchaudio", "torchsde", "transformers", "comfy_kitchen", "spandrel", "kornia"),
    *("scipy.integrate", "scipy.stats", "scipy.signal", "scipy.ndimage", "sqlalchemy.orm", "alembic.command"),
    *("pydantic_settings", "aiohttp.web", "requests", "psutil", "av"),
)


def run_main(comfyui: Path, command: list[str], environment: dict[str, str], log: Path) -> None:
    """What a forked process does: main.py with its arguments, as a Python that is started anew does it."""
    os.setsid()  # or Ctrl-C would end it, too
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.update(environment)
    os.chdir(comfyui)
    sys.argv = command[1:]
    sys.path[:] = [str(comfyui), *(folder for folder in sys.path if not Path(folder).is_relative_to(ROOT))]
    for name, module in list(sys.modules.items()):  # what had to be imported to get here
        if Path(getattr(module, "__file__", None) or os.devnull).is_relative_to(ROOT):
            del sys.modules[name]
    runpy.run_path(command[1], run_name="__main__")


class Forked:
    """A forked process with the part of subprocess.Popen's interface that a server needs."""

    def __init__(self, process: Any) -> None:
        self.process, self.pid = process, process.pid

    def poll(self) -> int | None:
        """The exit status, None while it runs; that of a killed one is minus the signal's number."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked ComfyUI", timeout or 0.0)
        return self.process.exitcode

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    def terminate(self) -> None:
        """SIGTERM."""
        self.process.terminate()


class ForkedServer(ComfyServer):
    """A ComfyServer whose process is forked."""

    def launch(self, log: IO[bytes]) -> Any:
        """Fork a process from the one with the libraries, which the first call starts."""
        context = get_context("forkserver")
        context.set_forkserver_preload(list(LIBRARIES))
        arguments = (self.comfyui, self.command(), self.environment, self.log_file)
        process = context.Process(target=run_main, args=arguments, daemon=True)
        process.start()
        return Forked(process)
