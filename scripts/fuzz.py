"""Give every reader damaged and hostile files, and print a line for each: make fuzz, or
fuzz.py [--count N] [--seed N] [--jobs N] [--save FOLDER] [READER...].

A fault is anything but a file that is read well, or an error of the reader's own that names the file. What was read is
used: an adapter is applied to a small model, a checkpoint is loaded. Exit status 1 when there is a fault.
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import os
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def load() -> Any:
    """The fuzzer's modules, with ComfyUI and the pack loaded as the tests load them."""
    # Not by sys.path: the pack's folders have names that ComfyUI's modules have, too.
    package = types.ModuleType("tests")
    package.__path__ = [str(ROOT / "tests")]
    sys.modules["tests"] = package
    import tests.comfy.conftest
    import tests.conftest  # noqa: F401
    from tests.fuzz import campaign, readers

    return campaign, readers


def run_one(name: str, count: int, seed: int) -> dict[str, Any]:
    """The counts of one reader, in this process."""
    campaign, readers = load()
    logging.disable(logging.WARNING)
    reader = readers.READERS[name]
    started = time.process_time()
    tally = campaign.run(reader, count, seed)
    faults = [
        {
            "place": place,
            "count": number,
            "message": tally.messages[place],
            "files": {file: base64.b64encode(content).decode() for file, content in tally.smallest[place].items()},
        }
        for place, number in tally.faults.most_common()
    ]
    return {
        "inputs": tally.inputs,
        "read": tally.read,
        "refused": tally.refused,
        "faults": faults,
        "seconds": time.process_time() - started,
    }


def in_a_process(name: str, count: int, seed: int) -> dict[str, Any]:
    """The same in a process of its own, which a file may bring down."""
    command = [sys.executable, __file__, "--here", "--count", str(count), "--seed", str(seed), name]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        message = " ".join(done.stderr.split())[-600:]
        fault = {"place": f"the process ended with {done.returncode}", "count": 1, "message": message, "files": {}}
        return {"inputs": 0, "read": 0, "refused": 0, "faults": [fault], "seconds": 0.0}
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def shares(count: int, names: list[str]) -> dict[str, int]:
    """The number of inputs of each reader."""
    _, readers = load()
    weights = {name: readers.READERS[name].share for name in names or readers.READERS}
    return {name: max(2, count * weight // sum(weights.values())) for name, weight in weights.items()}


def main() -> None:
    """Run the readers, each in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", help="kinds of file; all without one")
    parser.add_argument("--count", type=int, default=100_000, help="inputs of all readers together (100,000)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same inputs (1)")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="processes at a time")
    parser.add_argument("--save", type=Path, help="write the smallest input of each fault into this folder")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(run_one(options.readers[0], options.count, options.seed)))
        return
    counts = shares(options.count, options.readers)
    print(f"[fuzz] seed {options.seed}, {sum(counts.values()):,} inputs, {options.jobs} processes", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = {name: pool.submit(in_a_process, name, count, options.seed) for name, count in counts.items()}
        results = {}
        for name, job in jobs.items():
            results[name] = job.result()
            show(name, results[name])
            if options.save:
                save(options.save, name, results[name]["faults"])
    total = sum(sum(fault["count"] for fault in result["faults"]) for result in results.values())
    inputs = sum(result["inputs"] for result in results.values())
    print(f"[fuzz] {inputs:,} inputs, {total:,} faults at {sum(len(r['faults']) for r in results.values())} places")
    sys.exit(1 if total else 0)


def show(name: str, result: dict[str, Any]) -> None:
    """One line a reader, and one for each place of a fault."""
    faults = sum(fault["count"] for fault in result["faults"])
    print(
        f"[fuzz] {name}: {result['inputs']:,} inputs, {result['read']:,} read, {result['refused']:,} refused, "
        f"{faults:,} faults at {len(result['faults'])} places, {result['seconds']:.0f} s",
        flush=True,
    )
    for fault in result["faults"]:
        print(f"    {fault['count']:6} {fault['place']} | {fault['message'][:160]!r}", flush=True)


def save(folder: Path, reader: str, faults: list[dict[str, Any]]) -> None:
    """The smallest input of each fault as a line of the corpus (tests/fuzz/corpus)."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"was": fault["place"], "files": fault["files"]}) + "\n" for fault in faults if fault["files"]]
    (folder / f"{reader}.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    main()
