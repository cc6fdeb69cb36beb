"""Scores as records: each carries what is needed to compare it fairly with another, and to make it again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .metrics import Role, role_of

# What is counted as the references of a score, where it is no photo of the subject.
COUNTED: dict[Role | None, str] = {"text": "texts", "base": "pictures of the base"}


@dataclass(frozen=True)
class Score:
    """One metric of one batch of pictures.

    metric: a name of `metrics.METRICS`, or of a custom model. values: one number a picture (a pair, for drift and
    diversity), already scaled. texts: the prompt of each value, "" where none was given; for CLIP-T what was scored
    against. pictures: a digest of the content of each picture. label, method, rank, subject: which row of a table this
    is; what is not known is empty. pairing: of the metric's comparison, such as `all`. provenance: weights (file and
    SHA-256), seeds, model files and versions, as far as they are known.
    """

    metric: str
    values: tuple[float, ...]
    label: str
    subject: str
    images: int
    references: int
    protocol: str
    pairing: str
    scale: float
    backbone: str
    preprocessing: str
    texts: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    method: str = ""
    rank: int | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The mean of `values`."""
        return math.fsum(self.values) / len(self.values)

    @property
    def measurement(self) -> str:
        """The way the number was measured; numbers that differ in this cannot be compared."""
        return f"{self.backbone}, {self.pairing} pairs, scale {self.scale:g}, {self.preprocessing}"

    @property
    def place(self) -> tuple[Any, ...]:
        """The place of the score: two scores of one place are two measurements of the same number."""
        return (
            self.label,
            self.method,
            self.rank,
            self.subject,
            self.metric,
            self.protocol,
            self.measurement,
            self.texts,
            tuple(self.provenance.get("seeds", ())),
        )


@dataclass(frozen=True)
class Cost:
    """The cost of the adapter behind a label: seconds of training, values, bytes of its file's tensors.

    None is what is not known. seconds_a_step: the median. peak_bytes: the most memory while it was trained. memory:
    whose, "GPU" or "process".
    """

    label: str
    training_seconds: float | None
    values: int | None
    bytes: int | None
    method: str = ""
    rank: int | None = None
    subject: str = ""
    seconds_a_step: float | None = None
    peak_bytes: float | None = None
    memory: str = ""


@dataclass(frozen=True)
class Scores:
    """Scores of one or more batches (the DEFT_SCORES socket), and what the adapters behind them have cost, if known.

    remarks: what the user should know of the measurement (texts that were cut, metrics that were skipped).
    """

    rows: tuple[Score, ...]
    costs: tuple[Cost, ...] = ()
    remarks: tuple[str, ...] = ()

    def value(self, metric: str) -> float:
        """The mean of a metric over all its values, or NaN where there is none."""
        values = [value for row in self.rows if row.metric == metric for value in row.values]
        return math.fsum(values) / len(values) if values else math.nan

    def report(self) -> str:
        """A few lines to read."""
        lines = [
            f"{row.label or 'images'}{' of ' + row.subject if row.subject else ''}: {row.metric} {row.value:.4f} "
            f"({row.images} images{_against(row)}; {row.protocol}: {row.measurement})"
            for row in self.rows
        ]
        return "\n".join([*lines, *self.remarks])

    def jsonl(self) -> str:
        """The scores as JSON lines: scores, then costs, then remarks. `from_jsonl` reads them back."""
        lines = [{"metric": row.metric, "value": row.value} | asdict(row) for row in self.rows]
        lines += [asdict(cost) for cost in self.costs] + [{"remark": remark} for remark in self.remarks]
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _against(row: Score) -> str:
    return f", {row.references} {COUNTED.get(role_of(row.pairing), 'references')}" if row.references else ""


def score_text(value: float, like: float | None = None) -> str:
    """Three decimals for cosines, two for values of 100 times that; `like` says which of them it is, if given."""
    return f"{value:.3f}" if abs(value if like is None else like) < 10 else f"{value:.2f}"


def join(parts: Iterable[Scores]) -> Scores:
    """All rows of several Scores, in order."""
    parts = list(parts)
    return Scores(
        tuple(row for part in parts for row in part.rows),
        tuple(c for part in parts for c in part.costs),
        tuple(dict.fromkeys(remark for part in parts for remark in part.remarks)),
    )


def merge(old: Scores, new: Scores) -> Scores:
    """Old and new scores without duplicates, in order of first appearance.

    Two scores of one place (label, method, rank, subject, metric, protocol, prompts, seeds) replace each other if the
    seeds are known, or if the pictures are the same: the newer one stays. Without known seeds other pictures are more
    samples of the same thing, and both stay. Costs of one adapter's place replace each other.
    """
    rows: dict[Any, Score] = {}
    for row in (*old.rows, *new.rows):
        rows[(row.place, () if row.provenance.get("seeds") else row.pictures or row.values)] = row
    costs = {(cost.label, cost.method, cost.rank, cost.subject): cost for cost in (*old.costs, *new.costs)}
    return Scores(tuple(rows.values()), tuple(costs.values()), tuple(dict.fromkeys((*old.remarks, *new.remarks))))


def from_jsonl(text: str, what: str = "the score file", first: int = 1) -> Scores:
    """The scores that `Scores.jsonl` has written. Raises ValueError that names the line for anything else.

    first: the number of the text's first line.
    """
    rows, costs, remarks = [], [], []
    for number, line in enumerate(text.split("\n"), first):  # prompts may hold other separators of lines
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            json.dumps(record, ensure_ascii=False).encode()  # half of a surrogate pair is in no file of UTF-8
            if not isinstance(record, dict):
                raise ValueError("not a JSON object")
            if "metric" in record:
                rows.append(_read(Score, record))
            elif "remark" in record:
                remarks.append(str(record["remark"]))
            else:
                costs.append(_read(Cost, record))
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
            raise ValueError(
                f"{what}, line {number}, is not a score that this pack has written ({error}); "
                "repair or remove the line, or choose another file."
            ) from error
    return Scores(tuple(rows), tuple(costs), tuple(remarks))


def from_bytes(data: bytes, what: str = "the score file", first: int = 1) -> Scores:
    """The scores in a file's content. Raises ValueError that names the line for anything else."""
    try:
        text = data.decode("utf-8-sig")  # Windows' editors write a mark of the encoding first
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + first
        raise ValueError(
            f"{what}, line {number}, is not UTF-8; repair or remove the line, or choose another file."
        ) from error
    return from_jsonl(text, what, first)


@dataclass(frozen=True)
class Whole:
    """What is whole in a score file. damaged: its other lines, and problems: an error message about each."""

    scores: Scores
    damaged: tuple[bytes, ...] = ()
    problems: tuple[str, ...] = ()


def whole_lines(data: bytes, what: str = "the score file") -> Whole:
    """The scores in the whole lines of a file's content. Raises ValueError where there are others only."""
    try:
        return Whole(from_bytes(data, what))
    except ValueError:
        parts, damaged, errors = [], [], []
        for number, line in enumerate(data.split(b"\n"), 1):
            try:
                if line.strip():
                    parts.append(from_bytes(line, what, number))
            except ValueError as error:
                damaged.append(line)
                errors.append(error)
        if not parts:  # a file of another kind
            raise errors[0] from None
    return Whole(join(parts), tuple(damaged), tuple(f"{error} It is skipped." for error in errors))


# What a field of a record may hold; text where nothing is listed.
NUMBER, MAYBE_NUMBER = (int, float), (int, float, type(None))
_KINDS: dict[str, Any] = {
    "images": int,
    "references": int,
    "scale": NUMBER,
    "texts": tuple,
    "pictures": tuple,
    "rank": (int, type(None)),
    "provenance": dict,
    "training_seconds": MAYBE_NUMBER,
    "bytes": MAYBE_NUMBER,
    "seconds_a_step": MAYBE_NUMBER,
    "peak_bytes": MAYBE_NUMBER,
}


def _read(kind: type[Any], record: Any) -> Any:
    """A record of that kind. Lists become tuples; numbers must be finite."""
    declared = {item.name: item for item in fields(kind)}
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items() if name in declared
    }
    result = kind(**values)
    kinds = _KINDS | {"values": object if kind is Score else MAYBE_NUMBER}
    wrong = [name for name in declared if not isinstance(getattr(result, name), kinds.get(name, str))]
    wrong += [name for name in declared if _is_huge(getattr(result, name)) or _is_no_text(getattr(result, name))]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: not of the right kind")
    if kind is Score:
        if not all(isinstance(text, str) for text in (*result.texts, *result.pictures)) or not isinstance(
            result.provenance.get("seeds", ()), (list, tuple)
        ):
            raise ValueError("texts, pictures and seeds must be lists")
        if any(isinstance(seed, (list, dict)) for seed in result.provenance.get("seeds", ())):
            raise ValueError("seeds must be numbers")
        numbers = result.values
        if (
            not isinstance(numbers, tuple)
            or not numbers
            or not all(isinstance(value, (int, float)) and math.isfinite(value) for value in numbers)
        ):
            raise ValueError("values must be finite numbers")
    return result


def _is_no_text(value: Any) -> bool:
    """Whether a value is or holds a text that cannot be written: half of a pair of UTF-16, as JSON may escape it."""
    if isinstance(value, dict):
        return any(_is_no_text(key) or _is_no_text(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return any(_is_no_text(item) for item in value)
    return isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_huge(value: Any) -> bool:
    """Whether a value is a whole number that no float can hold."""
    return isinstance(value, int) and abs(value) > 10**300
