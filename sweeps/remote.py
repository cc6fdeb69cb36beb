"""Servers on a Ray cluster: one ComfyUI a GPU, or a share of the CPUs where the cluster has no GPU.

On a machine of the cluster an actor (`ComfyUI`) starts the server, gives its address and ends it. All else goes over
HTTP, as with any server. `RayServer` is such a server as a `Worker` on this machine has it. The machines need ComfyUI
with its packages, Ray in the same Python, and the custom nodes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .errors import ServerLost
from .facts import Facts
from .files import Files, LocalFiles
from .server import HOST, PORTS, Server, find_comfyui

CPUS = 4  # that a ComfyUI gets where the cluster has no GPU
_PATIENCE = 120.0  # seconds to wait for a free GPU or CPUs
_GOODBYE = 20.0  # seconds for an actor to end its server
REACH = 10.0  # seconds for a connection to a server that has just started
OBJECTS = 256 * 2**20  # bytes of Ray's object store of a cluster of our own
UPLOAD = "1000000"  # MiB that a server takes as one file; ComfyUI's own limit, 100, is less than an adapter may have


class ComfyUI:
    """The actor. Ray sends it by value, with what it uses of this folder: of other packages it needs psutil alone."""

    def __init__(
        self, gpu: bool, name: str, runner: tuple[str, str], store: str, comfyui: str, pack: str, arguments: list[str]
    ) -> None:
        """runner: `machine()` of the runner. store, comfyui ("" for none), pack: folders as the runner names them."""
        import psutil

        if gpu and "OMP_NUM_THREADS" not in psutil.Process().environ():  # Ray sets it to 1 for an actor without CPUs
            os.environ.pop("OMP_NUM_THREADS", None)
        self.host = HOST if machine() == runner else machine()[1]
        self.in_store = self.host == HOST and os.access(store, os.W_OK)
        digest = hashlib.sha256("\0".join((*runner, store, str(Path.home()))).encode()).hexdigest()[:16]
        # The next actor of that name on this machine works there again, and ends what a dead one has left.
        place = Path(store, "work") if self.in_store else Path(tempfile.gettempdir(), "deft_sweeps", digest)
        self.work, self.pack = place / name, Path(pack)
        self.comfyui = Path(comfyui) if comfyui and Path(comfyui, "main.py").is_file() else None
        self.arguments = ["--max-upload-size", UPLOAD, *arguments]
        self.server: Server | None = None

    def name(self) -> str:
        """The name of its machine. The first answer says that the actor is there."""
        return socket.gethostname()

    def start(self) -> str:
        """Start ComfyUI, and give its address. Raises ValueError, OSError or RuntimeError that says what is wrong."""
        if self.server is None:
            self.work.mkdir(parents=True, exist_ok=True)
            comfyui = find_comfyui(self.pack, self.comfyui)
            self.server = Server(comfyui, self.work, self.arguments, host=self.host)
        self.server.start()
        return self.server.url

    def wait(self) -> None:
        """Return as soon as ComfyUI has ended."""
        if self.server is not None and self.server.process is not None:
            self.server.process.wait()

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the server."""
        return getattr(self.server, method)(*arguments)

    def digest(self, models: Sequence[Path], places: Mapping[str, Path], name: str) -> str:
        """The digest of a file in ComfyUI's folders, "" if there is none of that name."""
        return LocalFiles(models, places).look_up(name)

    def tidy(self) -> None:
        """Remove what the server has made, all of it where it is not in the store."""
        if self.in_store and self.server is not None:
            self.server.tidy()
        elif not self.in_store:
            shutil.rmtree(self.work, ignore_errors=True)
            with contextlib.suppress(OSError):  # there are other servers
                self.work.parent.rmdir()


def machine() -> tuple[str, str]:
    """This machine's name, and its address in the cluster."""
    import ray

    return socket.gethostname(), ray.util.get_node_ip_address()


class RayServer:
    """A server that an actor starts. Ray makes the actor anew, maybe on another machine, when its process dies."""

    work = None  # its folder cannot be written from here

    def __init__(self, name: str, resources: Mapping[str, float], *arguments: Any) -> None:
        """resources: "num_gpus" and "num_cpus" of the actor. arguments: of `ComfyUI`, after the name."""
        self.name, self.resources, self.arguments = name, dict(resources), arguments
        self.url = self.machine = ""
        self.actor: Any = None
        self._ended: Any = None  # what Ray will answer when the server or the actor is gone

    def start(self, timeout: float = _PATIENCE) -> None:
        """Start the server. Raises RuntimeError if it cannot be had: no room for it, no ComfyUI, no way to it."""
        import ray

        if self.actor is None:
            gpu = self.resources["num_gpus"] > 0
            options = {**self.resources, "max_restarts": -1, "max_concurrency": 8, "scheduling_strategy": "SPREAD"}
            self.actor = ray.remote(ComfyUI).options(**options).remote(gpu, self.name, *self.arguments)
        try:
            name = self.actor.name.options(max_task_retries=-1).remote()
            self.machine = str(ray.get(name, timeout=timeout))
            self.url = ray.get(self.actor.start.remote())
            self._ended = self.actor.wait.remote()
            address = urlsplit(self.url)
            socket.create_connection((address.hostname, address.port or 0), REACH).close()
        except BaseException as error:
            self.kill()
            if isinstance(error, ray.exceptions.GetTimeoutError):
                cpus = self.resources["num_cpus"]
                what = "GPU" if self.resources["num_gpus"] else f"{cpus:g} CPU{'s' if cpus > 1 else ''}"
                text = f"{self.name}: the Ray cluster had no {what} free for {timeout:.0f} s"
            elif isinstance(error, ray.exceptions.RayError):
                text = f"{self.name} on {self.machine or 'the Ray cluster'}: {reason(error)}"
            elif isinstance(error, OSError):
                text = (
                    f"{self.name} on {self.machine}: {self.url} cannot be reached from here ({error}): the machines "
                    f"of the cluster must accept connections from this one on their ports {PORTS[0]} to {PORTS[-1]}"
                )
            else:
                raise
            raise RuntimeError(text) from error

    @property
    def alive(self) -> bool:
        """Whether server and actor are there."""
        import ray

        return self._ended is not None and not ray.wait([self._ended], timeout=0)[0]

    def stop(self) -> None:
        """End the server; the actor stays."""
        if self.alive:
            self._ask("stop")
        self._ended = None

    def tidy(self) -> None:
        """Remove what the server has made, and end the actor."""
        if self.machine:
            with contextlib.suppress(ServerLost):
                self._get("tidy")
        self.kill()

    def kill(self) -> None:
        """End the actor, and by that its server."""
        import ray

        actor, self.actor, self._ended = self.actor, None, None
        if actor is not None:
            with contextlib.suppress(Exception):  # Ray itself may be gone
                ray.kill(actor, no_restart=True)

    def memory(self) -> float:
        """The server's resident memory in MiB, 0 if it is gone."""
        return float(self._ask("memory") or 0.0)

    def remove(self, files: Sequence[str]) -> None:
        """Remove files of the server's output folder."""
        self._ask("remove", files)

    def drop_checkpoints(self, before: float) -> None:
        """Remove checkpoints of trainings that have ended."""
        self._ask("drop_checkpoints", before)

    def files(self, facts: Facts) -> Files:
        """The files of the server's folders, which the actor looks at."""
        return RayFiles(self, facts)

    def digest(self, facts: Facts, name: str) -> str:
        """The digest of a file in its folders, "" if there is none of that name. Raises ServerLost."""
        return str(self._get("digest", facts.models, facts.places, name, timeout=None))

    def _ask(self, method: str, *arguments: Any) -> Any:
        """A method of the server there; None if it cannot be asked: what runs on it is not lost by that."""
        with contextlib.suppress(ServerLost):
            return self._get("ask", method, *arguments)

    def _get(self, method: str, *arguments: Any, timeout: float | None = _GOODBYE) -> Any:
        """The result of a method of the actor. Raises ServerLost if there is no answer."""
        import ray

        if self.actor is None:
            raise ServerLost(f"{self.name} has been ended")
        try:
            return ray.get(getattr(self.actor, method).remote(*arguments), timeout=timeout)
        except ray.exceptions.RayError as error:
            raise ServerLost(f"the Ray actor on {self.machine} gives no answer ({reason(error)})") from error


class RayFiles(Files):
    """The files of a server that an actor has started."""

    def __init__(self, server: RayServer, facts: Facts) -> None:
        super().__init__()
        self.server, self.facts = server, facts

    def look_up(self, name: str) -> str:
        """The actor looks into its folders."""
        return self.server.digest(self.facts, name)


def reason(error: Any) -> str:
    """The message of an error of Ray: that of what the actor has raised, or the first line."""
    return str(getattr(error, "cause", None) or str(error).strip().partition("\n")[0] or type(error).__name__)


@contextlib.contextmanager
def connected(address: str) -> Iterator[list[Mapping[str, float]]]:
    """A Ray cluster, while the block runs: the resources of each of its machines.

    address: "auto" is the cluster that runs on this machine or that RAY_ADDRESS names, else one that is started here.

    Raises ValueError that says what is missing: Ray, or the cluster.
    """
    # Ray reads these when it is imported or started.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it prints a page about its future
    if address != "auto":  # it would try for 15 minutes where something else than Ray answers
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    try:
        import ray
    except ImportError:
        raise ValueError("--ray needs the package ray: install it with `pip install ray`.") from None
    ours = not ray.is_initialized()
    if ours:
        _connect(address)
    by_value = sys.modules[__package__]
    ray.cloudpickle.register_pickle_by_value(by_value)
    try:
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.cloudpickle.unregister_pickle_by_value(by_value)
        if ours:
            ray.shutdown()


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
    """The number of workers in a cluster, at most `count`, and the share of each: {"num_gpus"} or {"num_cpus"}.

    nodes: resources of each machine. Raises ValueError if it has neither GPUs nor CPUs.
    """
    nodes = list(nodes)
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus:
        return max(1, min(gpus, count or gpus)), {"num_gpus": 1, "num_cpus": 0}
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if not sum(cpus):
        raise ValueError("the Ray cluster has neither GPUs nor CPUs.")
    workers = min(count, sum(cpus)) if count else max(1, sum(each // CPUS for each in cpus))
    workers = max(1, workers)
    share = next(
        share
        for share in range(max(cpus), 0, -1)
        if sum(each // share for each in cpus) >= workers and (share <= CPUS or count)
    )
    return workers, {"num_gpus": 0, "num_cpus": share}
