"""What the tests of sweeps share: workflows cut down from an example, plans, the command line as a process."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from ..measured import but_measured
from ..preloaded import Preloaded

ROOT = Path(__file__).resolve().parent.parent.parent
TRIVIAL = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 32, "height": 32, "batch_size": 1, "color": 0},
        "_meta": {"title": "Paint"},
    },
    "2": {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "sweeps/trivial"},
        "_meta": {"title": "Save picture"},
    },
}


def trained(steps: int = 3, sampling: int = 2) -> dict[str, Any]:
    """example_workflows/api/sweep_demo.json with few steps, and what the trainer says of its loss beside it."""
    prompt = json.loads((ROOT / "example_workflows" / "api" / "sweep_demo.json").read_text())
    ids = {node["_meta"]["title"]: node_id for node_id, node in prompt.items()}
    prompt[ids["Train"]]["inputs"]["steps"] = steps
    prompt[ids["Sample"]]["inputs"]["steps"] = sampling
    prompt["loss"] = {"class_type": "PreviewImage", "inputs": {"images": [ids["Train"], 3]}, "_meta": {"title": "Loss"}}
    return prompt


def write_plan(folder: Path, workflow: dict[str, Any], text: str, name: str = "plan") -> Path:
    """A workflow and a plan beside each other; the plan's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workflow.json").write_text(json.dumps(workflow))
    path = folder / f"{name}.yaml"
    path.write_text(f"name: {name}\nworkflow: workflow.json\n{text}")
    return path


def own(base: Path) -> list[str]:
    """Options for servers of the runner's own, with the pack in this base folder."""
    return ["--comfyui-args", f"--cpu --disable-api-nodes --base-directory {shlex.quote(str(base))}"]


# `python -m sweeps` in an interpreter of its own, whose servers are started by another program.
SWEEPS = "import runpy, sys; sys.executable = sys.argv.pop(1); runpy.run_module('sweeps', run_name='__main__')"


@cache
def servers_python() -> Path:
    """The program that starts sweeps and servers of this process (tests/preloaded.py)."""
    folder = tempfile.TemporaryDirectory(prefix="deft-python-")
    made = Preloaded(Path(folder.name)).__enter__()
    atexit.register(lambda: (made.__exit__(), folder.cleanup()))
    return made.python


def start(*words: str | Path, **options: Any) -> subprocess.Popen[str]:
    """A running `python -m sweeps` whose servers are forks, both of its outputs in one pipe."""
    return subprocess.Popen(
        [sys.executable, "-c", SWEEPS, str(servers_python()), *map(str, words)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def sweeps(*words: str | Path, status: int = 0, timeout: float = 200, **options: Any) -> str:
    """Run `python -m sweeps` to its end, with this exit status; what it has printed. It is a fork, as its servers are:
    `start` has one whose process is its own."""
    done = subprocess.run(
        [str(servers_python()), "-m", "sweeps", *map(str, words)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        **options,
    )
    assert done.returncode == status, f"exit status {done.returncode}:\n{done.stdout}"
    return done.stdout


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """What a process prints up to the line that has the word in it."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if word in line:
            return "".join(seen)
    raise AssertionError(f"{word!r} was not printed:\n{''.join(seen)}")


def contents(store: Path, status: str = "done") -> dict[str, str]:
    """Every file of the cells of a store with a hash of its content, without what differs between equal runs: run.json,
    and of a training the seconds and the memory that were measured.
    """
    return {
        path.relative_to(store).as_posix(): hashlib.sha256(but_measured(path)).hexdigest()
        for path in sorted((store / status).rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def runs(store: Path, status: str = "done") -> dict[str, dict[str, Any]]:
    """run.json of every cell, by its key."""
    return {path.parent.name: json.loads(path.read_text()) for path in (store / status).rglob("run.json")}


def cells(store: Path, status: str = "done") -> dict[str, dict[str, Any]]:
    """cell.json of every cell, by its key."""
    return {path.parent.name: json.loads(path.read_text()) for path in (store / status).rglob("cell.json")}


def environment(**variables: str) -> dict[str, str]:
    """This process's environment with these variables."""
    return os.environ | variables
