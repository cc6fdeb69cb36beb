"""An interpreter in which ComfyUI starts in some two seconds of CPU instead of seven, and `python -m sweeps` in a third
of its time: what they import is loaded once.

`Preloaded(folder).python` is the path of a program that takes the place of the Python interpreter:

* `PROGRAM COMFYUI/main.py ...` becomes a fork of a process that has imported AT_FIRST_USE and the libraries of
  scripts/forked_server.py, which forks servers that a script itself starts; these here are started by other programs.
  The fork runs that main.py as the interpreter would, with the arguments, environment, folder and files of the program.
* `PROGRAM -m MODULE ...` becomes such a fork, too. Its sys.executable is the program: what it starts is forked as well.
* Everything else is run by the interpreter itself, and so are these two where an environment variable differs that is
  read at an import (AT_IMPORT), or when the process that is forked is gone.

The program stays as the process that was started. SIGTERM and SIGINT go on to the fork, the program ends as the fork
does, and the fork is killed when the program is. So only what belongs to the process itself is not the fork's: its
memory, limits on it, its threads, its children, and whether it is halted.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from .scripts import load_script

AT_IMPORT = ("PYTHON", "OMP_", "MKL_", "TORCH_", "CUDA_")
# What the pack's nodes import when they are first run.
AT_FIRST_USE = ("timm", "open_clip", "matplotlib.figure", "matplotlib.backends.backend_agg")
LATER = "PYTHONBREAKPOINT"  # is not read at an import, and Ray sets it
# The program: as little of Python as possible.
PROGRAM = """#!{interpreter} -IS
import os, signal, socket, sys
def itself():
    os.execv({interpreter!r}, [{interpreter!r}, *sys.argv[1:]])
if len(sys.argv) < 2 or os.path.basename(sys.argv[1]) not in ("main.py", "-m"):
    itself()
import json
served = {at_import!r}
if {{k: v for k, v in os.environ.items() if k.startswith({prefixes!r}) and k != {later!r}}} != served:
    itself()
line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
try:
    line.connect({address!r})
except OSError:
    itself()
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: line.send(b"%d" % number))
request = json.dumps([os.getcwd(), sys.argv, dict(os.environ)]).encode()
socket.send_fds(line, [request], [0, 1, 2])
status = int(line.recv(16) or b"-9")
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
os._exit(status)
"""


def at_import() -> dict[str, str]:
    """The environment variables that are read at an import."""
    return {name: value for name, value in os.environ.items() if name.startswith(AT_IMPORT) and name != LATER}


def own_interpreter() -> str:
    """The interpreter of this process, which may itself be a fork: then sys.executable is the program, a script."""
    with open(sys.executable, "rb") as file:
        first = file.readline()
    return first[2:].split()[0].decode() if first.startswith(b"#!") else sys.executable


class Preloaded:
    """The process that is forked, as a context manager, and the program. folder: an empty one, with a short path.

    interpreter: that of another environment, whose libraries are loaded.
    """

    def __init__(self, folder: Path, interpreter: str = "") -> None:
        self.folder, self.python, self.interpreter = folder, folder / "python", interpreter or own_interpreter()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Preloaded:
        try:
            self._start()
            subprocess.run([str(self.python), "-c", ""], check=True)
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            # Another system than Linux, or a name that it does not take for a socket or in a script's first line.
            print(f"[tests] no forks here, each interpreter is started: {error}", file=sys.stderr, flush=True)
            self.python = Path(self.interpreter)
        return self

    def _start(self) -> None:
        if not hasattr(os, "pidfd_open"):
            raise RuntimeError("Python cannot wait for a process by a file")
        address = str(self.folder / "socket")
        words = {"at_import": at_import(), "prefixes": AT_IMPORT, "later": LATER, "address": address}
        self.python.write_text(PROGRAM.format(interpreter=self.interpreter, **words))
        self.python.chmod(0o755)
        libraries = (*load_script("forked_server").LIBRARIES, *AT_FIRST_USE)
        command = [self.interpreter, "-m", __spec__.name, address, *libraries]
        root = Path(__file__).resolve().parent.parent
        self._process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{__file__} has ended with {self._process.wait()}")

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.communicate()


def serve(address: str, libraries: list[str]) -> None:
    """Import the libraries, and fork for each request until this process's standard input is closed."""
    for name in libraries:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or each fork's collections would look at all of the libraries, and copy them by that
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that answer
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        line, _ = listener.accept()
        if os.fork():
            line.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        answer(line)


def answer(line: socket.socket) -> None:
    """Fork the process that is asked for, pass signals on to it, and say how it has ended. Does not return."""
    request, files, _, _ = socket.recv_fds(line, 2**20, 3)
    folder, arguments, environment = json.loads(request)
    child = os.fork()
    if not child:
        line.close()
        become(folder, arguments, environment, files)
    for file in files:
        os.close(file)
    process = os.pidfd_open(child)
    while True:
        ready, _, _ = select.select([process, line], [], [])
        if process in ready:
            _, status = os.waitpid(child, 0)
            with contextlib.suppress(OSError):
                line.send(b"%d" % os.waitstatus_to_exitcode(status))
            os._exit(0)
        number = line.recv(16)
        os.kill(child, int(number) if number else signal.SIGKILL)


def become(folder: str, arguments: list[str], environment: dict[str, str], files: list[int]) -> None:
    """Run a Python file or module in this process as the interpreter would, and end. arguments: the program's, with its
    own path. sys.stdout writes into file 1, whatever it is."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    program, first, *others = arguments
    status: Any = 0
    try:
        if first == "-m":
            sys.executable, sys.argv, sys.path[0] = program, others, folder
            runpy.run_module(others[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = [first, *others], os.path.dirname(first)
            runpy.run_path(first, run_name="__main__")
    except SystemExit as error:
        status = error.code or 0
        if not isinstance(status, int):
            raise
    # What the interpreter does at its end, before it takes all of the libraries apart: that would take longer than a
    # short program. There is no public way: joining the threads would leave out what concurrent.futures registers to
    # stop its workers, and atexit has no function that calls the registered ones.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
