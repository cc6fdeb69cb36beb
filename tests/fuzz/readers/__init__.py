"""The kinds of file that the fuzzer knows, a line each."""

from __future__ import annotations

from ..kit import Reader
from . import adapters, beside, checkpoints, peft_folders, pickled, runs, scorers, scores, sweeps

READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        adapters.READER,
        peft_folders.READER,
        pickled.READER,
        runs.READER,
        checkpoints.READER,
        scores.READER,
        scorers.READER,
        beside.RECORDS,
        beside.PICTURES,
        sweeps.PLANS,
        sweeps.WORKFLOWS,
        sweeps.CELLS,
        sweeps.PNG,
    )
}
