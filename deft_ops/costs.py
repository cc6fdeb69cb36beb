"""What a training has cost, as the trainer has measured it: kept beside an adapter and in its file's header.

It is no part of what identifies an adapter: the same training again takes other seconds and gives the same tensors, and
all of the header but this entry.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields

COST_KEY = "training_cost"  # of the header
GPU, PROCESS = "GPU", "process"  # whose memory was measured


@dataclass(frozen=True)
class TrainingCost:
    """The cost of a training up to a step. None, and "" for `memory`, is what could not be measured.

    seconds: of all steps. seconds_a_step: their median. peak_bytes: the most memory while it trained, previews left
    out; of the GPU what PyTorch had allocated, otherwise what the process had in memory. memory: GPU or PROCESS.
    values: how many numbers were trained. bytes: the adapter's tensors in its file.
    """

    seconds: float | None = None
    seconds_a_step: float | None = None
    peak_bytes: int | None = None
    memory: str = ""
    values: int | None = None
    bytes: int | None = None

    def text(self) -> str:
        """The entry of a header."""
        entries = {name: value for name, value in asdict(self).items() if value not in (None, "")}
        return json.dumps(entries, sort_keys=True)


def from_text(text: str) -> TrainingCost | None:
    """The cost in a header's entry; None without one, and for one that is damaged or of another program."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    entries = {item.name: record.get(item.name) for item in fields(TrainingCost)}
    memory = entries.pop("memory")
    whole = {name: entries.pop(name) for name in ("peak_bytes", "values", "bytes")}
    values = {name: value for name, value in entries.items() if _is_amount(value)}
    values |= {name: value for name, value in whole.items() if _is_amount(value) and isinstance(value, int)}
    if not values:
        return None
    return TrainingCost(**values, memory=memory if memory in (GPU, PROCESS) else "")


def _is_amount(value: object) -> bool:
    """Whether a value is a finite number of zero or more that a table can show."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 <= value < 1e18 and math.isfinite(value)
