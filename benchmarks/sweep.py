"""What a sweep costs beside the work that ComfyUI does for it. Needs aiohttp and PyYAML, which ComfyUI has.

    $(make -s python) benchmarks/sweep.py [cell plan status] [--runs 3] [--cells 1000] [--planned 100000]

sweep.cell      seconds a cell of trivial cells (EmptyImage 64 x 64 -> SaveImage) through the runner into a store,
                beside a loop on the same server that posts a prompt, waits for the websocket and reads the history
sweep.overhead  of the same runs, ms a cell above what ComfyUI says of the executions themselves
sweep.plan      seconds of `sweeps plan` for many cells in a new process (sweep_demo's graph; method x rank x subject x
                prompt x seed), beside a loop that fills the graph of every combination and hashes its JSON
sweep.plan_memory  peak MiB of these processes
sweep.status    seconds of `sweeps status` on a store in which all these cells are done, in a new process, beside a new
                Python process that only lists the folders
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "benchmarks")]
from comfy_server import ComfyServer, find_comfyui  # noqa: E402
from frame import alternate, memory, report, seconds  # noqa: E402

_WORKFLOW = ROOT / "example_workflows" / "api" / "sweep_demo.json"
METHOD_STRENGTHS = {"DEFT": ("deft", 1.0), "PaRa": ("para", 1.0), "LoRA": ("lora", 1.0), "half DEFT": ("deft", 0.5)}
RANKS = (1, 2, 4, 8, 16)
_SUBJECTS = tuple(f"subject {number}" for number in range(10))
_PROMPTS = tuple(f"a sks %class% in place {number}" for number in range(25))
COMBINATIONS = len(METHOD_STRENGTHS) * len(RANKS) * len(_SUBJECTS) * len(_PROMPTS)
LISTING = "import os, sys; print(sum(len(os.listdir(group.path)) for group in os.scandir(sys.argv[1])))"


def load_pack() -> None:
    """Make the pack importable as deft_pack; none of ComfyUI's modules are needed."""
    spec = importlib.util.spec_from_file_location(
        "deft_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["deft_pack"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


# Cells on a server


class Colours:
    """Prompts that no cache of the server has: a new colour each, and a new output folder for every run."""

    def __init__(self, count: int) -> None:
        self.count, self.next = count, 1

    def take(self) -> tuple[str, range]:
        """A prefix of file names, and the colours of one run."""
        first, self.next = self.next, self.next + self.count
        return f"run_{first}/picture", range(first, self.next)


def graph(prefix: str, colour: int = 0) -> dict[str, Any]:
    """The trivial workflow."""
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": colour},
            "_meta": {"title": "Sheet"},
        },
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": prefix},
            "_meta": {"title": "Save"},
        },
    }


async def through_the_runner(server: ComfyServer, colours: Colours, folder: Path) -> tuple[float, float]:
    """Seconds of a run of the plan, from its cells to their records, and those of the executions alone."""
    files, cells_module, runner, store_module, worker_module, progress, plan_module, workflow = (
        importlib.import_module(f"deft_pack.sweeps.{name}")
        for name in ("files", "cells", "runner", "store", "worker", "progress", "plan", "workflow")
    )
    prefix, taken = colours.take()
    source = folder / f"{taken.start}.json"
    source.write_text(json.dumps(graph(prefix)))
    plan_file = folder / f"{taken.start}.yaml"
    plan_file.write_text(
        json.dumps(
            {
                "workflow": source.name,
                "axes": {"color": {"into": "Sheet.color", "seeds": len(taken), "first": taken.start}},
            }
        )
    )
    plan = plan_module.read_plan(plan_file)
    worker = worker_module.Worker("server", server.url)
    await worker.start()
    compiler = cells_module.Compiler(
        plan,
        workflow.read_workflow(source, worker.facts.info),
        worker.facts.info,
        files.LocalFiles(worker.facts.models, worker.facts.places),
    )
    cells = compiler.cells()
    store = store_module.Store.open(folder / f"store {taken.start}", plan.name)
    run = runner.Runner(compiler, cells, store, [worker], progress.SweepProgress(quiet=True))
    started = time.perf_counter()
    result = await run.run()
    took = time.perf_counter() - started
    assert result.counts == {"done": len(taken)}, result
    return took, sum(store.read(cell.key).run.seconds for cell in cells.pictures)


async def through_a_loop(server: ComfyServer, colours: Colours) -> tuple[float, float]:
    """The same cells by the fewest requests that tell when a prompt has ended and what it has given."""
    import aiohttp

    prefix, taken = colours.take()
    client, executed = uuid.uuid4().hex, 0.0
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{server.url}/ws?clientId={client}") as events:
        started = time.perf_counter()
        for colour in taken:
            async with session.post(
                f"{server.url}/prompt", json={"prompt": graph(prefix, colour), "client_id": client}
            ) as answer:
                prompt_id = (await answer.json())["prompt_id"]
            async for event in events:
                if event.type is not aiohttp.WSMsgType.TEXT:
                    continue
                message = json.loads(event.data)
                if (
                    message["type"] == "executing"
                    and message["data"].get("prompt_id") == prompt_id
                    and (message["data"]["node"] is None)
                ):
                    break
            async with session.get(f"{server.url}/history/{prompt_id}") as answer:
                entry = (await answer.json())[prompt_id]
            assert entry["outputs"]["2"]["images"]
            times = {kind: data["timestamp"] for kind, data in entry["status"]["messages"]}
            executed += (times["execution_success"] - times["execution_start"]) / 1000
        return time.perf_counter() - started, executed


def measure_cells(options: argparse.Namespace) -> None:
    """Measure and print the lines sweep.cell and sweep.overhead."""
    load_pack()
    overheads: dict[str, list[float]] = {"ours": [], "peer": []}
    colours = Colours(options.cells)
    with tempfile.TemporaryDirectory() as folder, ComfyServer(find_comfyui(), Path(folder) / "base") as server:

        def side(name: str, work: Callable[[], Any]) -> Callable[[], float]:
            def measure() -> float:
                took, executed = asyncio.run(work())
                overheads[name].append((took - executed) / options.cells * 1000)
                return took / options.cells

            return measure

        ours = side("ours", lambda: through_the_runner(server, colours, Path(folder)))
        peer = side("peer", lambda: through_a_loop(server, colours))
        report("sweep.cell", *alternate(ours, peer, options.runs), "s", options.runs)
    counted = [statistics.median(overheads[name][-options.runs :]) for name in ("ours", "peer")]
    report("sweep.overhead", counted[0], counted[1], "ms", options.runs)


# Plans


def plan_of(seeds: int) -> dict[str, Any]:
    """The large plan."""
    return {
        "name": "large",
        "workflow": str(_WORKFLOW),
        "set": {"Captions.text": "a photo of sks %class%"},
        "axes": {
            "method": {
                "values": {
                    label: {"Train.method": method, "Apply.strength_model": strength}
                    for label, (method, strength) in METHOD_STRENGTHS.items()
                }
            },
            "rank": {"into": "Train.method.rank", "values": list(RANKS)},
            "subject": {"into": "%class%", "values": list(_SUBJECTS)},
            "prompt": {"into": ["Prompt.text", "Score.text"], "values": list(_PROMPTS)},
            "seed": {"into": "Sample.seed", "seeds": seeds, "first": 42},
        },
        "outputs": {"only": ["Save picture"]},
    }


def print_naive_plan(seeds: int) -> None:
    """The peer, in a process of its own: every combination as a whole graph, identified by the hash of its JSON."""
    prompt = json.loads(_WORKFLOW.read_text())
    keys = []
    for (method, strength), rank, subject, text, seed in itertools.product(
        METHOD_STRENGTHS.values(), RANKS, _SUBJECTS, _PROMPTS, range(42, 42 + seeds)
    ):
        filled = {node_id: {**node, "inputs": dict(node["inputs"])} for node_id, node in prompt.items()}
        filled["20"]["inputs"] |= {"method": method, "method.rank": rank}
        filled["12"]["inputs"]["text"] = f"a photo of sks {subject}"
        filled["40"]["inputs"]["text"] = filled["60"]["inputs"]["text"] = text.replace("%class%", subject)
        filled["21"]["inputs"]["strength_model"] = strength
        filled["50"]["inputs"]["seed"] = seed
        keys.append(hashlib.sha256(json.dumps(filled, sort_keys=True).encode()).hexdigest()[:32])
    assert len(set(keys)) == COMBINATIONS * seeds
    print(memory("VmHWM"))


def print_plan(plan: str, store: str) -> None:
    """Our side, in a process of its own: the command, then its peak."""
    load_pack()
    importlib.import_module("deft_pack.sweeps.command").main(["plan", plan, "--store", store, "--offline"])
    print(memory("VmHWM"))


def child(*words: str) -> str:
    """Run this file in a new process; returns the last line that it prints."""
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


def prepare_plan(folder: Path, seeds: int) -> tuple[Path, Path]:
    """The plan and a store that remembers a server, so that no other process needs one."""
    plan, store = folder / "large.yaml", folder / "store"
    plan.write_text(json.dumps(plan_of(1)))
    with ComfyServer(find_comfyui(), folder / "base") as server:
        sweeps("plan", plan, "--store", store, "--server", server.url)
    plan.write_text(json.dumps(plan_of(seeds)))
    return plan, store


def sweeps(*words: object, status: int = 0) -> None:
    """Run the command line in a new process. status: what it has to end with."""
    done = subprocess.run(
        [sys.executable, "-m", "sweeps", *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert done.returncode == status, done.stdout


def measure_plans(chosen: list[str], options: argparse.Namespace) -> None:
    """Measure and print the lines sweep.plan, sweep.plan_memory and sweep.status."""
    seeds = max(1, options.planned // COMBINATIONS)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        plan, store = prepare_plan(folder, seeds)
        if "plan" in chosen:
            peaks: dict[str, list[float]] = {"ours": [], "peer": []}
            times = alternate(
                seconds(lambda: peaks["ours"].append(float(child("--plan", str(plan), str(store))))),
                seconds(lambda: peaks["peer"].append(float(child("--naive", str(seeds))))),
                options.runs,
                warm_up=0,
            )
            report("sweep.plan", *times, "s", options.runs)
            report("sweep.plan_memory", *map(statistics.median, peaks.values()), "MiB", options.runs)
        if "status" in chosen:
            sweeps("plan", plan, "--store", store, "--offline")
            lines = (store / "plan" / "large" / "cells.jsonl").read_text().splitlines()[1:]
            keys = {json.loads(line)[0] for line in lines}
            assert len(keys) > COMBINATIONS * seeds  # the trainings, too
            for key in keys:
                os.makedirs(store / "done" / key[:2] / key)
            report(
                "sweep.status",
                *alternate(
                    seconds(lambda: sweeps("status", plan, "--store", store)),
                    seconds(
                        lambda: subprocess.run(
                            [sys.executable, "-c", LISTING, str(store / "done")], stdout=subprocess.PIPE, check=True
                        )
                    ),
                    options.runs,
                ),
                "s",
                options.runs,
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ("cell", "plan", "status")
    parser.add_argument("what", nargs="*", help=f"which of {', '.join(kinds)} (all)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cells", type=int, default=1000, help="trivial cells a run")
    parser.add_argument("--planned", type=int, default=100_000, help=f"cells of the large plan, in {COMBINATIONS}s")
    parser.add_argument("--plan", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--naive", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plan:
        print_plan(*options.plan)
        return
    if options.naive:
        print_naive_plan(options.naive)
        return
    chosen = options.what or list(kinds)
    if set(chosen) - set(kinds):
        parser.error(f"choose from {', '.join(kinds)}")
    if "cell" in chosen:
        measure_cells(options)
    if {"plan", "status"} & set(chosen):
        measure_plans(chosen, options)


if __name__ == "__main__":
    main()
