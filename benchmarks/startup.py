"""What the pack costs at ComfyUI's start-up.

    $(make -s python) benchmarks/startup.py [--runs 3]

startup.server: seconds from the start of the process until the server takes connections, with the pack (ours) and
without (peer). startup.import: seconds to load the pack and its node list (ours) or an empty pack (peer) beside
ComfyUI's own modules; ComfyUI's log says the same with a resolution of 0.1 s only. startup.first_import: the same
where Python has no compiled bytecode yet, as at the first start after an installation.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "benchmarks")]
from comfy_server import ComfyServer, find_comfyui  # noqa: E402
from frame import compare  # noqa: E402

# The import as ComfyUI does it, in a process that has ComfyUI's own modules already.
IMPORT = """
import asyncio, gc, importlib.util, sys, time
comfyui, pack = sys.argv.pop(1), sys.argv.pop(1)
sys.path.insert(0, comfyui)
from comfy.cli_args import args
args.cpu = True
import utils.extra_config, nodes, server, comfy.sd, comfy.weight_adapter
from comfy_api.v0_0_2 import ComfyExtension, io, ui
gc.collect()  # a collection of ComfyUI's own objects takes longer than the pack, and would fall due here or there
started = time.perf_counter()
spec = importlib.util.spec_from_file_location("pack", pack + "/__init__.py", submodule_search_locations=[pack])
module = importlib.util.module_from_spec(spec)
sys.modules["pack"] = module
spec.loader.exec_module(module)
async def load():
    extension = await module.comfy_entrypoint()
    await extension.on_load()
    for node in await extension.get_node_list():
        node.GET_SCHEMA()
asyncio.run(load())
print("seconds", time.perf_counter() - started)
"""
EMPTY_PACK = """
from comfy_api.v0_0_2 import ComfyExtension
class Empty(ComfyExtension):
    async def get_node_list(self):
        return []
async def comfy_entrypoint():
    return Empty()
"""


def server_seconds(comfyui: Path, pack: Path | None) -> float:
    """Start a server in a new folder, wait until it takes connections, end it."""
    with tempfile.TemporaryDirectory() as folder, ComfyServer(comfyui, Path(folder), pack=pack) as server:
        return server.seconds_to_start


def import_seconds(comfyui: Path, pack: Path, bytecode: Path | None) -> float:
    """Load a pack in a new process beside ComfyUI's modules; the seconds of the loading alone.

    bytecode: folder where Python keeps it from run to run; None compiles everything anew.
    """
    variables = {"PYTHONPYCACHEPREFIX": str(bytecode or os.devnull), "PYTHONDONTWRITEBYTECODE": "" if bytecode else "1"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, str(comfyui), str(pack)],
        capture_output=True,
        text=True,
        env=os.environ | variables,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout.split("seconds")[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    comfyui = find_comfyui()
    compare("startup.server", lambda: server_seconds(comfyui, ROOT), lambda: server_seconds(comfyui, None), runs=runs)
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty"
        empty.mkdir()
        (empty / "__init__.py").write_text(EMPTY_PACK)
        # The uncounted first run of each side fills the folder.
        for name, bytecode in (("startup.import", Path(folder) / "bytecode"), ("startup.first_import", None)):

            def seconds(pack: Path, bytecode: Path | None = bytecode) -> float:
                return import_seconds(comfyui, pack, bytecode)

            compare(name, lambda seconds=seconds: seconds(ROOT), lambda seconds=seconds: seconds(empty), runs=runs)


if __name__ == "__main__":
    main()
