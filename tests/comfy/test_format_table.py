"""The table of formats in docs/file_formats.md: each row is tried as it says, and names the test of its numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from . import models
from .format_files import FORMATS
from .pack import Pack

ROOT = Path(__file__).resolve().parent.parent.parent
COLUMNS = ["format", "weights", "activations", "exported as LoRA", "equal to", "test"]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def table() -> dict[str, dict[str, str]]:
    """The rows by the format's name."""
    lines = (ROOT / "docs" / "file_formats.md").read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if cells(line) == COLUMNS)
    rows: dict[str, dict[str, str]] = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        row = dict(zip(COLUMNS, cells(line), strict=True))
        rows[row["format"]] = row
    return rows


def test_the_table_has_all_formats_and_its_count_is_true() -> None:
    rows = table()
    assert list(rows) == list(FORMATS)
    text = (ROOT / "docs" / "file_formats.md").read_text()
    (count,) = re.findall(r"(\d+) formats, each compared", text)
    assert int(count) == len(rows)


@pytest.mark.parametrize("name", FORMATS)
def test_the_test_that_a_row_names_is_there(name: str) -> None:
    references = re.findall(r"`(tests/\S+\.py)::(\w+)`", table()[name]["test"])
    assert references
    for file, test in references:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_says_what_happens(pack: Pack, name: str, tmp_path: Path) -> None:
    row, made = table()[name], FORMATS[name]
    model = made.model()
    path, options = made.write(tmp_path, model)
    adapter = pack.files.read(path, **options)
    base = models.weights(model)
    patched, _, report = pack.apply(adapter, model)
    assert report.matched
    assert not report.unmatched
    weights = models.patched_weights(patched)
    changed = [key for key in base if not torch.equal(weights[key], base[key])]
    assert row["weights"] == "yes"
    assert changed
    assert pack.inspect(adapter, model).changes

    if row["activations"] == "yes":
        pack.apply(adapter, model, mode="activations")
    else:
        assert row["activations"] == "no"
        with pytest.raises(ValueError, match="choose weights"):
            pack.apply(adapter, model, mode="activations")

    lora, written = pack.export(adapter, model)
    assert "exact" in written.text()
    again = models.patched_weights(pack.apply(lora, model)[0])
    for key in changed:
        if weights[key].shape == base[key].shape:
            assert models.relative(again[key] - base[key], weights[key] - base[key]) < 1e-4, key
        else:  # BFL's control LoRA enlarges a layer
            assert torch.equal(again[key], weights[key]), key
    rank = max(written.ranks, default=0)  # 0: carried over as it is
    kept = {0: "as it is", 2: "its rank", 4: "its rank", 8: "twice its rank"}.get(rank, "full rank")
    assert row["exported as LoRA"] == kept
