"""Disturb real ComfyUI servers while they work, and look at what is left: make faults, or
faults.py [--interruptions N] [--kills N] [--prompts N] [--minutes N] [--seed N] [KIND...]

    interruptions   samplings and trainings are stopped at any moment; every picture and every training afterwards is
                    bit for bit an undisturbed one
    kills           the server is killed (SIGKILL) while it trains; every file is whole, and what goes on ends with the
                    same bits
    servers         two servers train into one folder
    disks           files cannot be written (a limit on their size): each node names the file, nothing half is left
    memory          the process may have no more memory in the midst of a training: it says so, and goes on later
    soak            many prompts in a row: memory stays flat

The demo's model, on the CPU. A line a kind, and one for each fault; exit status 1 when there is one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from comfy_server import ComfyServer, PromptError, find_comfyui
from fault_prompts import CHECKPOINT_EVERY, FaultPrompt, enlarged, exported, node, picture, saved, scored, training
from forked_server import ForkedServer

STEPS, RUNS = 40, 2  # of the trainings that are killed; how many different ones
_FEW = 10  # steps of larger batches
MIB, SOAK_GROWTH = 2**20, 40.0  # bytes, MiB
SAMPLED, TRAINED = 6, 12  # pictures and trainings that are compared


# ------------------------------------------------------------------------------------------------------------- servers


class Campaign:
    """A kind of fault: where it works, its random numbers, and what went wrong."""

    def __init__(self, kind: str, folder: Path, seed: int, minutes: float = math.inf) -> None:
        self.kind, self.folder, self.random = kind, folder, random.Random(f"{kind} {seed}")
        self.faults: list[str] = []
        self.last = time.monotonic() + 60 * minutes

    def each(self, count: int) -> Iterator[int]:
        """The numbers below `count`, until the time is over."""
        return itertools.takewhile(lambda number: time.monotonic() < self.last, range(count))

    def check(self, right: bool, what: str) -> None:
        """Write a fault down."""
        if not right:
            self.faults.append(what)

    def server(self, name: str = "base", kind: type[ComfyServer] = ComfyServer) -> ComfyServer:
        """A server in a folder of its own."""
        return kind(find_comfyui(), self.folder / name)


def pixels(server: ComfyServer, prompt: FaultPrompt) -> bytes:
    """The picture of a prompt."""
    from PIL import Image

    ran: set[str | None] = set()
    finished = server.run(prompt, lambda kind, data: ran.add(data.get("node")) if kind == "executing" else None)
    if "sample" not in ran:
        raise RuntimeError("the picture came from the cache")
    return Image.open(BytesIO(server.image(finished.outputs["show"]["images"][0]))).tobytes()


def tensors(file: Path) -> dict[str, bytes]:
    """What an adapter file holds, bit for bit."""
    from safetensors.numpy import load_file

    return {name: value.tobytes() for name, value in load_file(file).items()}


def adapter_of(server: ComfyServer, prompt: FaultPrompt) -> dict[str, bytes]:
    """The adapter that a prompt saves."""
    finished = server.run(prompt)
    name = next(item for item in finished.outputs["save"]["files"] if item["filename"].endswith(".safetensors"))
    return tensors(server.base / "output" / name["subfolder"] / name["filename"])


def disturbed(server: ComfyServer, prompt: FaultPrompt, events: int, delay: float, act: Callable[[], object]) -> str:
    """Run a prompt and disturb it some time after its n-th progress; returns the server's error, or ""."""
    seen = 0
    timers: list[threading.Timer] = []

    def count(kind: str, data: dict[str, Any]) -> None:
        nonlocal seen
        seen += kind == "progress"
        if seen == events and not timers:
            timers.append(threading.Timer(delay, act))
            timers[0].start()

    try:
        server.run(prompt, count)
    except PromptError as error:
        return str(error).partition("\n")[0]
    finally:
        for timer in timers:
            timer.cancel()
            timer.join()
    return ""


def damaged(folder: Path, since: float = 0.0) -> list[str]:
    """The files below a folder that are not whole, of those that were written after a time (seconds since 1970).

    Temporary ones of a write that was killed may lie there.
    """
    import torch
    from PIL import Image

    readers: dict[str, Callable[[Path], object]] = {
        ".safetensors": tensors,
        ".pt": lambda file: torch.load(file, weights_only=True),
        ".json": lambda file: json.loads(file.read_bytes()),
        ".jsonl": lambda file: [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]],
        ".jpg": lambda file: Image.open(file).load(),
        ".png": lambda file: Image.open(file).load(),
        ".lock": lambda file: None,
        ".md": lambda file: file.read_text(),
        ".csv": lambda file: file.read_text(),
        ".tex": lambda file: file.read_text(),
    }
    wrong = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_mtime >= since):
        if file.name.startswith(".") and file.suffix in (".tmp", ".lock"):
            continue
        try:
            readers[file.suffix](file)
        except Exception as error:
            wrong.append(f"{file.relative_to(folder)}: {type(error).__name__}: {error}")
    return wrong


@contextmanager
def limited(server: ComfyServer, what: int, most: int) -> Iterator[None]:
    """A context in which the server's process may have no more than so much of something."""
    assert server.process is not None
    before = resource.prlimit(server.process.pid, what)
    resource.prlimit(server.process.pid, what, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(server.process.pid, what, before)


# --------------------------------------------------------------------------------------------------------------- kinds


def interruptions(campaign: Campaign, options: argparse.Namespace) -> str:
    """Stop samplings and trainings, and compare what comes next."""
    stopped = 0
    with campaign.server() as server:
        # Two in turn are never the same, so that none comes from the cache.
        pictures = [pixels(server, picture(seed)) for seed in range(SAMPLED)]
        trainings: dict[int, dict[str, bytes]] = {}
        long: list[Callable[[int], FaultPrompt]] = [
            lambda seed: picture(1000 + seed, steps=1000),
            lambda seed: picture(1000 + seed, steps=1000, stacking="from_base"),
            lambda seed: training(1000 + seed, 2000),
            lambda seed: training(1000 + seed, 2000, method="lora", gradient_checkpointing=True),
            lambda seed: training(1000 + seed, 2000, run=f"stopped/{seed}"),
        ]
        compared = 0
        for number in campaign.each(options.interruptions):
            prompt = long[number % len(long)](number)
            interrupt = lambda: server.post("/interrupt", {})  # noqa: E731
            events, delay = campaign.random.randint(1, 4), campaign.random.uniform(0, 0.3)
            error = disturbed(server, prompt, events, delay, interrupt)
            campaign.check("cancelled" in error, f"{number}: interrupted, but it says {error!r}")
            stopped += bool(error)
            seed = number % SAMPLED
            campaign.check(pixels(server, picture(seed)) == pictures[seed], f"{number}: the picture {seed} is another")
            compared += 1
            if number % len(long) == len(long) - 1:  # a training is stopped, goes on, and is the one that was not
                seed = number // len(long) % (TRAINED // 4)
                if seed not in trainings:
                    trainings[seed] = adapter_of(server, saved(training(seed, STEPS), "whole"))
                prompt = saved(training(seed, STEPS, run=f"resumed/{number}"), "resumed")
                disturbed(server, prompt, campaign.random.randint(1, STEPS // 2), 0, interrupt)
                stopped += 1
                same = adapter_of(server, prompt) == trainings[seed]
                campaign.check(same, f"{number}: the training {seed} that was resumed is another")
        campaign.faults += damaged(server.base / "output")
    return f"{stopped} interruptions, {compared} of {options.interruptions} pictures compared"


def kills(campaign: Campaign, options: argparse.Namespace) -> str:
    """Kill servers that train, look at all files, and go on until the training is there."""
    with campaign.server("whole") as server:
        whole = [adapter_of(server, saved(training(seed, STEPS), "whole")) for seed in range(RUNS)]
    killed = ended = 0
    server, seed = campaign.server(kind=ForkedServer), 0  # one is started for each kill
    while killed < options.kills and time.monotonic() < campaign.last:
        run = f"killed/{ended}"
        prompt = saved(training(seed, STEPS, run=run), f"saved/{ended}")
        started = time.time()
        with server:
            process = server.process
            assert process is not None
            events, delay = campaign.random.randint(1, STEPS // 3), campaign.random.uniform(0, 0.2)
            try:
                error = disturbed(server, prompt, events, delay, process.kill)
                if error:
                    process.wait(30)
                    killed += 1
                else:
                    same = (
                        adapter_of(server, prompt | {"again": node("PreviewAny", source=["train", 0])}) == whole[seed]
                    )
                    campaign.check(same, f"after {killed} kills: the adapter of the run {ended} is another")
                    ended, seed = ended + 1, (seed + 1) % RUNS
            except OSError as error:  # the connection went before the client had it
                campaign.check(process.poll() is not None, f"after {killed} kills: {error}")
                killed += 1
        campaign.faults += [f"after {killed} kills: {each}" for each in damaged(server.base / "output", started)]
    with server:  # the last one to its end
        same = adapter_of(server, saved(training(seed, STEPS, run=f"killed/{ended}"), "last")) == whole[seed]
        campaign.check(same, "the adapter after the last kill is another")
    campaign.faults += damaged(server.base / "output")
    left = sum(1 for _ in (server.base / "output").rglob(".*.tmp"))
    return (
        f"{killed} of {options.kills} kills, {ended + 1} trainings end with the same bits, {left} temporary files left"
    )


def servers(campaign: Campaign, options: argparse.Namespace) -> str:
    """Two servers with one output folder and one run."""
    prompt = training(1, 150, run="shared/run")
    with campaign.server("one") as one, campaign.server("two") as two_alone:
        two_alone.stop()
        two = campaign.server("two")
        two.arguments += ["--output-directory", str(one.base / "output")]
        with two:
            said: list[str] = []

            def second() -> None:
                try:
                    two.run(prompt)
                except PromptError as error:
                    said.append(str(error).partition("\n")[0])

            error = disturbed(one, prompt, 2, 0, second)
            campaign.check(not error, f"the first server fails: {error}")
            named = (
                bool(said)
                and "Another training is writing into" in said[0]
                and f"process {one.process.pid} on" in said[0]
            )
            campaign.check(named, f"the second server says {said}")
            report = "\n".join(two.run(prompt).outputs["report"]["text"])
            campaign.check("trained before" in report or "not trained again" in report, f"afterwards: {report}")
            (log,) = (one.base / "output").rglob("log.jsonl")
            steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
            campaign.check(steps == list(range(1, 151)), f"the log's steps are not 1 to 150 but {steps[:5]} ...")
    return "the second one names the first one, and takes its adapter afterwards"


class Unlogged(ComfyServer):
    """A server that writes no log, whose size would be limited, too."""

    log_file = Path(os.devnull)


def disks(campaign: Campaign, options: argparse.Namespace) -> str:
    """No file may be longer than some bytes, as on a full disk."""
    named = 0
    with Unlogged(find_comfyui(), campaign.folder / "base") as server:
        output = server.base / "output"
        server.run(scored("first", append_to="table/scores"))
        full: dict[str, Callable[[int], FaultPrompt]] = {
            "Save Adapter": lambda seed: saved(training(seed, 3), "adapter/full"),
            "Export LoRA": lambda seed: exported(training(seed + 10, 3), "export/full"),
            "Training Settings": lambda seed: training(seed + 20, 8, run="run/full"),
            "Score Table": lambda seed: scored(str(seed), append_to="table/scores", filename_prefix="table/table"),
            "Save Scores": lambda seed: scored(str(seed), filename_prefix="scores/full"),
        }
        for name, prompt in full.items():
            before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
            with limited(server, resource.RLIMIT_FSIZE, 200):
                try:
                    said = "\n".join(server.run(prompt(1)).outputs["report"]["text"])
                except PromptError as error:
                    said = str(error).partition("\n")[0]
            words = "could not be written" in said and "free some space" in said and str(output) in said
            campaign.check(words, f"{name} says {said[-400:]!r}")
            named += words
            after = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
            new = {path for path in after if path not in before and path.name != "log.jsonl"}
            campaign.check(not new, f"{name} leaves {sorted(map(str, new))}")
            changed = [str(path.relative_to(output)) for path, content in before.items() if after.get(path) != content]
            campaign.check(not changed, f"{name} changes {changed}")
            try:
                for seed in (1, 2):
                    server.run(prompt(seed))
            except PromptError as error:
                campaign.check(False, f"{name} fails with room again: {error}"[:500])
        campaign.faults += damaged(output)
    return f"{named} of {len(full)} nodes name the file and what to do; all work with room again"


def memory(campaign: Campaign, options: argparse.Namespace) -> str:
    """The process gets no more memory in the midst of a training."""
    import psutil

    # Each larger block is one of its own for the system, as on a real base, so that the next step asks for memory.
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "2"}
    prompt = saved(enlarged(training(1, _FEW, run="memory/run")), "memory/adapter")
    with ComfyServer(find_comfyui(), campaign.folder / "base", environment=allocator) as server:
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        whole = adapter_of(server, saved(enlarged(training(1, _FEW)), "whole"))
        before = resource.prlimit(process.pid, resource.RLIMIT_AS)

        def limit() -> None:
            resource.prlimit(process.pid, resource.RLIMIT_AS, (process.memory_info().vms + 8 * MIB, before[1]))

        error = disturbed(server, prompt, CHECKPOINT_EVERY + 1, 0, limit)
        resource.prlimit(process.pid, resource.RLIMIT_AS, before)
        campaign.check("There is not enough memory for this training" in error, f"it says {error[:600]!r}")
        kept = sorted(path.name for path in (server.base / "output").rglob("checkpoint_*"))
        campaign.check(bool(kept), "no checkpoint is kept")
        campaign.faults += damaged(server.base / "output")
        seen = server.run(prompt).outputs["report"]["text"]
        campaign.check("resumed at step" in "\n".join(seen), f"it does not go on: {seen}")
        file = next((server.base / "output").rglob(f"adapter_{_FEW:08}.safetensors"))
        campaign.check(tensors(file) == whole, "the adapter is another")
    return f"the node says so, {len(kept)} checkpoints are kept, the next run goes on with the same bits"


def soak(campaign: Campaign, options: argparse.Namespace) -> str:
    """Prompts in a row, of all kinds, and the process's memory after each."""
    sizes: list[float] = []
    with campaign.server() as server:
        kinds: list[Callable[[int], FaultPrompt]] = [
            lambda number: picture(number, steps=2),
            lambda number: picture(number, steps=2, stacking="from_base"),
            lambda number: training(number, 2),
            lambda number: scored(f"label {number % 7}", append_to="soak/scores"),
            lambda number: saved(training(number, 2, method="lora"), f"soak/{number % 3}"),
        ]
        for number in campaign.each(options.prompts):
            server.run(kinds[number % len(kinds)](number))
            sizes.append(server.memory())
    third = max(1, len(sizes) // 3)
    early, late = max(sizes[third : 2 * third] or sizes), max(sizes[-third:])
    campaign.check(late - early < SOAK_GROWTH, f"memory grows from {early:,.0f} to {late:,.0f} MiB")
    sizes_of = f"{early:,.0f} MiB in the second third and {late:,.0f} in the last at most"
    return f"{len(sizes)} of {options.prompts} prompts, {sizes_of}"


FAULT_KINDS = {each.__name__: each for each in (interruptions, kills, servers, disks, memory, soak)}


def run(kind: str, options: argparse.Namespace) -> list[str]:
    """Run a kind in a folder of its own, print its lines, and return its faults."""
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"deft-faults-{kind}-"))
    campaign = Campaign(kind, folder, options.seed, options.minutes)
    try:
        line = FAULT_KINDS[kind](campaign, options)
    except Exception as error:
        line = "not finished"
        campaign.faults.append(f"{type(error).__name__}: {error}".partition("\n")[0])
    print(f"[faults] {kind}: {line}; {len(campaign.faults)} faults, {time.monotonic() - started:.0f} s", flush=True)
    for fault in campaign.faults[:20]:
        print(f"    {' '.join(fault.split())[:600]}", flush=True)
    if campaign.faults:
        print(f"    what is left is in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return campaign.faults


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(FAULT_KINDS)}; all without one")
    parser.add_argument("--interruptions", type=int, default=200, help="of samplings and trainings (200)")
    parser.add_argument("--kills", type=int, default=100, help="of servers (100)")
    parser.add_argument("--prompts", type=int, default=500, help="in a row (500)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed disturbs at the same moments (1)")
    minutes = "the most that a kind goes on disturbing, whatever it has done by then (no limit)"
    parser.add_argument("--minutes", type=float, default=math.inf, help=minutes)
    options = parser.parse_args()
    if unknown := set(options.kinds) - set(FAULT_KINDS):
        parser.error(f"unknown kind {', '.join(sorted(unknown))}; there are: {', '.join(FAULT_KINDS)}")
    faults = [fault for kind in options.kinds or FAULT_KINDS for fault in run(kind, options)]
    print(f"[faults] {len(faults)} faults", flush=True)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
