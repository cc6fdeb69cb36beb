"""Files of trainings and scores as tests compare them: without what is measured anew each time."""

from __future__ import annotations

import json
from pathlib import Path

# Of the cost of a training, in a score file.
MEASURED = {"training_seconds", "seconds_a_step", "peak_bytes", "memory"}


def but_cost(file: Path) -> bytes:
    """A safetensors file without the header's entry of what its training has cost, which is measured anew each time."""
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    content = json.loads(data[8:end])
    content.get("__metadata__", {}).pop("training_cost", None)
    return json.dumps(content, sort_keys=True).encode() + data[end:]


def but_measured(file: Path) -> bytes:
    """A score file without what was measured of the training of an adapter; other files' content as it is."""
    if file.suffix != ".jsonl":
        return but_cost(file) if file.suffix == ".safetensors" else file.read_bytes()
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return json.dumps([{key: line[key] for key in sorted(line.keys() - MEASURED)} for line in lines]).encode()
