"""The actor of Ray servers without a cluster: sent by value into a process that has nothing of this pack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from deft_pack import sweeps
from deft_pack.sweeps import remote

MAIN = """
import socket, sys
words = dict(zip(sys.argv, sys.argv[1:]))
assert "--max-upload-size" in words and words["--cpu"] == "last"
with socket.create_server((words["--listen"], int(words["--port"]))) as listening:
    while True:
        listening.accept()[0].close()
"""
THERE = """
import socket, sys
from pathlib import Path
from ray import cloudpickle
before = set(sys.modules)
sys.executable = sys.argv[2]
ComfyUI = cloudpickle.loads(sys.stdin.buffer.read())
actor = ComfyUI(False, "ray-1", ("elsewhere", ""), "/nowhere", sys.argv[1], "/", ["--cpu", "last"])
url = actor.start()
assert actor.server.command()[0] == sys.executable
host, port = url.removeprefix("http://").split(":")
assert host != "127.0.0.1" or actor.host == "127.0.0.1"
socket.create_connection((host, int(port))).close()
assert actor.ask("memory") > 1
(actor.work / "output" / "old.png").write_text("x")
actor.ask("remove", ["./old.png"])
assert not (actor.work / "output" / "old.png").exists()
actor.ask("drop_checkpoints", 1.0)
print(actor.digest([Path(sys.argv[1])], {}, "main.py"))
actor.ask("stop")
actor.wait()
actor.tidy()
assert not actor.work.exists()
new = {name.split(".")[0] for name in set(sys.modules) - before}
assert not new & {"deft_pack", "aiohttp", "torch", "yaml"}, new
"""


def test_the_actor_takes_nothing_of_this_pack_along(tmp_path: Path) -> None:
    """An actor starts a server by its own Python, removes files and tells them apart, with what was sent and psutil."""
    (tmp_path / "main.py").write_text(MAIN)
    cloudpickle.register_pickle_by_value(sweeps)
    try:
        sent = cloudpickle.dumps(remote.ComfyUI)
    finally:
        cloudpickle.unregister_pickle_by_value(sweeps)
    assert len(sent) < 100_000
    python = tmp_path / "python of that machine"
    python.symlink_to(sys.executable)
    done = subprocess.run(
        [sys.executable, "-c", THERE, tmp_path, python], input=sent, capture_output=True, cwd=tmp_path, timeout=100
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip() == remote.LocalFiles([tmp_path], {}).look_up("main.py") != ""


@pytest.mark.parametrize(
    ("nodes", "count", "expected"),
    [
        ([{"GPU": 8, "CPU": 64}, {"GPU": 4, "CPU": 8}, {"CPU": 4}], None, (12, {"num_gpus": 1, "num_cpus": 0})),
        ([{"GPU": 2, "CPU": 64}], 1, (1, {"num_gpus": 1, "num_cpus": 0})),
        ([{"GPU": 2, "CPU": 64}], 5, (2, {"num_gpus": 1, "num_cpus": 0})),
        ([{"CPU": 6}, {"CPU": 9}], None, (3, {"num_gpus": 0, "num_cpus": 4})),
        ([{"CPU": 2}, {"CPU": 1}], None, (1, {"num_gpus": 0, "num_cpus": 2})),
        ([{"CPU": 2}], 2, (2, {"num_gpus": 0, "num_cpus": 1})),
        ([{"CPU": 2}], 9, (2, {"num_gpus": 0, "num_cpus": 1})),
        ([{"CPU": 16}, {"CPU": 4}], 2, (2, {"num_gpus": 0, "num_cpus": 8})),
    ],
)
def test_shares(nodes: list[dict[str, float]], count: int | None, expected: Any) -> None:
    assert remote.shares(nodes, count) == expected
