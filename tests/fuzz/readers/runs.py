"""The folder of a training: its log and its record, as the runs page and a resumed training read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ..kit import Files, Reader
from ..structures import encoded, near

FOLDER = "duck_0123456789"
LOG, RECORD = f"{FOLDER}/log.jsonl", f"{FOLDER}/run.json"
STEPS = 3


def lines() -> list[dict[str, Any]]:
    """The lines of a log."""
    return [
        {"step": step, "loss": 0.5 / step, "rate": 1e-4, "grad_norm": 1.0, "seconds": 0.25}
        for step in range(1, STEPS + 1)
    ]


def record() -> dict[str, Any]:
    """The record of a run."""
    facts = {"format": 1, "title": "deft rank 4", "method": "deft", "base": "SDXL", "base_hash": "v1", "steps": STEPS}
    times = {
        "created": 5.0,
        "started": 6.0,
        "ended": 7.0,
        "first_step": 0,
        "pictures": 3,
        "session": "x",
        "version": "1",
    }
    return (
        facts
        | times
        | {"state": "finished", "settings": {"rank": 4, "options": {"alpha": 16}, "layers": ["a"]}, "step": STEPS}
    )


def written(values: list[Any]) -> bytes:
    """Values as JSON lines."""
    return b"".join(encoded(value) + b"\n" for value in values)


def samples() -> list[Files]:
    """A run's folder."""
    return [{LOG: written(lines()), RECORD: encoded(record())}]


@st.composite
def structures(draw: Any) -> Files:
    """A run's folder whose lines or record are near those of a training."""
    which = draw(st.sampled_from(("log", "record", "both")))
    log = draw(near(lines())) if which != "record" else lines()
    return {
        LOG: written(log if isinstance(log, list) else [log]),
        RECORD: encoded(draw(near(record())) if which != "log" else record()),
    }


def use(folder: Path) -> None:
    """List the run, show it, take its losses as a finished run's, and go on with its log."""
    from deft_pack.trainers.run import history
    from deft_pack.trainers.run.checkpoints import RunFolder

    for run in history.runs(folder).values():
        json.dumps(history.detail(folder, run), allow_nan=False)
    run = RunFolder(folder / FOLDER, 1)
    kept = run.lines(STEPS)
    sum(line["seconds"] for line in kept)
    json.dumps([(float(line["loss"]), float(line["rate"])) for line in kept], allow_nan=False)
    run.start_log(2)
    run.log(lines()[2])
    run.lines(STEPS)
    if run.problems:
        raise ValueError(" ".join(run.problems))


READER = Reader("runs", samples, structures, use, share=2)
