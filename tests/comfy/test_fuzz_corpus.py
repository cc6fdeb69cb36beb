"""What was a fault of a reader once is none any more: scripts/fuzz.py gives the readers many more inputs."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pytest

from ..fuzz.corpus import CORPUS
from ..fuzz.kit import outcome
from ..fuzz.readers import READERS


@functools.cache
def imported(reader: str) -> None:
    """Whoever reads first also imports, which costs more than a file may."""
    make = next(make for name, _, _, make in CORPUS if name == reader)
    with tempfile.TemporaryDirectory() as folder:
        outcome(READERS[reader], make(), Path(folder) / "input", limit=False)


@pytest.mark.parametrize("reader, expected, make", [pytest.param(r, e, m, id=f"{r}: {n}") for r, e, n, m in CORPUS])
def test_an_input_of_the_corpus(tmp_path: Path, reader: str, expected: str, make) -> None:
    imported(reader)
    assert outcome(READERS[reader], make(), tmp_path / "input") == expected
