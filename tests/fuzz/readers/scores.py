"""Score files: read, joined with others, drawn as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ..kit import Files, Reader
from ..structures import encoded, near
from .runs import written

FILE = "scores.jsonl"


def valid() -> list[dict[str, Any]]:
    """The lines of a score file."""
    score = {
        "metric": "clip_i",
        "value": 0.5,
        "values": [0.5, 0.25],
        "label": "DEFT",
        "subject": "dog",
        "images": 2,
        "references": 3,
        "protocol": "dreambooth",
        "pairing": "all",
        "scale": 1.0,
        "backbone": "CLIP ViT-B/32",
        "preprocessing": "resize 224",
        "texts": ["a dog", ""],
        "pictures": ["00", "11"],
        "method": "deft",
        "rank": 4,
        "provenance": {"seeds": [1, 2], "weights": {"file": "a", "sha256": "b"}},
    }
    cost = {
        "label": "DEFT",
        "training_seconds": 3.5,
        "values": 1024,
        "bytes": 4096,
        "method": "deft",
        "rank": 4,
        "subject": "dog",
    }
    return [score, score | {"metric": "dino", "label": "LoRA", "provenance": {}}, cost, {"remark": "a text was cut"}]


def samples() -> list[Files]:
    """A score file."""
    return [{FILE: written(valid())}]


@st.composite
def structures(draw: Any) -> Files:
    """Lines that are near those of a score file."""
    value = draw(near(valid()))
    return {FILE: written(value) if isinstance(value, list) else encoded(value)}


def use(folder: Path) -> None:
    """Read it, add it to itself, write it, and make tables of it."""
    from deft_pack.nodes.tables import read_scores
    from deft_pack.reports.tables.csv_file import csv_file
    from deft_pack.reports.tables.latex import latex
    from deft_pack.reports.tables.markdown import markdown
    from deft_pack.reports.tables.scores import tabulate
    from deft_pack.scoring.scores import from_jsonl, join, merge

    scores = read_scores(folder / FILE).scores
    merged = merge(scores, join([scores]))
    assert merge(from_jsonl(merged.jsonl()), merged) == merged
    merged.report()
    if merged.rows:
        table = tabulate(merged)
        for form in (csv_file, latex, markdown):
            form(table)


READER = Reader("scores", samples, structures, use)
