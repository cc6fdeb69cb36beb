"""A published table as data, and which measured row is which of its rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..scores import Cost

RowKey = tuple[str, int | None, str]
ALIASES = {"ti": "textualinversion", "textureinversion": "textualinversion"}


@dataclass(frozen=True)
class PublishedTable:
    """A published table. values[method, rank, subject][metric]: rank None where none is stated, subject "" for a mean.

    protocol: the name of ours that measures what the table does, or comes nearest to it (see the oddities). scale:
    factor on the cosine. oddities: what a reader should know before comparing, in sentences. costs: of the adapters, as
    far as they are published. also: other protocols of ours that compare with it.
    """

    name: str
    source: str
    protocol: str
    scale: float
    metrics: tuple[str, ...]
    values: Mapping[RowKey, Mapping[str, float]]
    oddities: tuple[str, ...]
    costs: Mapping[RowKey, Cost] = field(default_factory=dict)
    also: tuple[str, ...] = ()

    @property
    def by_subject(self) -> bool:
        """Whether the rows are of single subjects."""
        return any(subject for _, _, subject in self.values)

    @property
    def decimals(self) -> int:
        """The decimals of the most exact number."""
        return max(len(repr(value).partition(".")[2]) for row in self.values.values() for value in row.values())

    def matches(self, key: RowKey, label: str, method: str, rank: int | None, subject: str) -> bool:
        """Whether a measured row is the published one, by label or method, rank and subject.

        Case, spaces, punctuation and a remark in brackets do not count, and a label may carry the rank ("DEFT r4"). A
        published row that states no rank matches every rank.
        """
        written, of_label = split_rank(label)
        rank = of_label if rank is None else rank
        return (
            plain(key[0]) in {plain(written), plain(method)}
            and key[1] in (None, rank)
            and plain(key[2]) == plain(subject)
        )


def plain(name: str) -> str:
    """The letters and digits of a name, in lower case; a short form becomes the long one."""
    letters = "".join(re.findall(r"[^\W_]+", name.casefold()))
    return ALIASES.get(letters, letters)


def split_rank(label: str) -> tuple[str, int | None]:
    """A label without its rank, and its rank: ("DEFT", 4) for "DEFT r4", "DEFT (r=4)"; None if it ends in no rank.

    A remark in brackets at the end does not count: "DEFT r4 (one prompt)".
    """
    match = re.fullmatch(r"(.*?)[\W_]+(?:r|rank)[\W_]*(\d+)[\W_]*", label, re.IGNORECASE)
    if match:
        return match[1], int(match[2])
    remarked = re.fullmatch(r"(.*\S)\s*\([^()]*\)", label)
    return split_rank(remarked[1]) if remarked else (label, None)
