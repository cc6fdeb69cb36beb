"""Many inputs for one reader from a seed: half of them mutated bytes of valid files, half of them structures."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from .kit import Fault, Files, Reader, outcome
from .mutation import mutated


@dataclass
class Tally:
    """The counts of one reader; `faults` by place, `smallest` an input for each place."""

    inputs: int = 0
    read: int = 0
    refused: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    smallest: dict[str, Files] = field(default_factory=dict)

    def add(self, result: str | Fault, files: Files) -> None:
        """Count what became of an input."""
        self.inputs += 1
        if isinstance(result, Fault):
            self.faults[result.place] += 1
            if result.place not in self.smallest or size(files) < size(self.smallest[result.place]):
                self.smallest[result.place], self.messages[result.place] = files, result.message
        else:
            self.read += result == "read"
            self.refused += result == "refused"


def size(files: Files) -> int:
    """The bytes of an input."""
    return sum(map(len, files.values()))


def folder_for_inputs() -> tempfile.TemporaryDirectory[str]:
    """A folder of its own, in memory where there is one: each input is written and removed."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(prefix="deft-fuzz-", dir=memory if memory.is_dir() else None)


def run(reader: Reader, count: int, seed: int) -> Tally:
    """Give a reader that many inputs. The same seed and count give the same inputs on one version of the libraries."""
    import hypothesis
    from hypothesis import HealthCheck, Phase

    warnings.simplefilter("ignore")
    tally = Tally()
    with folder_for_inputs() as parent:
        folder = Path(parent) / "input"
        samples = reader.samples()
        for sample in samples:  # whoever reads first also imports
            result = outcome(reader, sample, folder, limit=False)
            if isinstance(result, Fault):
                tally.add(result, sample)
        random = Random(f"{seed} {reader.name}")
        for _ in range(count // 2):
            files = mutated(random.choice(samples), random)
            tally.add(outcome(reader, files, folder), files)

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=count - count // 2,
            database=None,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(reader.structures())
        def give(files: Files) -> None:
            tally.add(outcome(reader, files, folder), files)

        give_all: Any = give
        give_all()
    return tally
