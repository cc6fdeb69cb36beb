"""The scores of a sweep beside a published table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...scoring.published import PUBLISHED
from ...scoring.scores import Score, Scores
from ..published_page import OF_MEANS, Section, beside
from ..tables import tabulate
from .material import SEED, SweepMaterial


def published_sections(material: SweepMaterial) -> list[Section]:
    """What compares the scores with the layout's published table; nothing where it names none, or there are no scores.

    The published numbers are of the same prompts and photos, so what is open is how another training would have come
    out: with several seeds the intervals are over these, and not over the prompts as in the other tables. What cannot
    be tabulated is one of the material's problems already.
    """
    scores = material.once(material.scores)
    if not material.layout.published or not scores.rows:
        return []
    try:
        return list(_sections(scores, material.layout.published))
    except ValueError:
        return []


def _sections(scores: Scores, name: str) -> Iterator[Section]:
    published = PUBLISHED[name]
    seeds = {row.provenance.get(SEED, "") for row in scores.rows}
    brackets = OF_MEANS
    if "" not in seeds and len(seeds) > 1:
        scores = replace(scores, rows=_by_seed(scores.rows))
        brackets = f"{OF_MEANS}, over {len(seeds)} seeds"
    table = tabulate(scores, "label x subject" if published.by_subject else "label")
    yield from beside(table, published, brackets)


def _by_seed(rows: Sequence[Score]) -> tuple[Score, ...]:
    """The scores with their seed in the place of their prompts, by which values are grouped."""
    return tuple(replace(row, texts=(row.provenance[SEED],) * len(row.values)) for row in rows)
