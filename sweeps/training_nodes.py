"""The nodes of a workflow that train: for the seeds of scores, and for batch runs that train once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TrainingNode:
    """A type of training node. used: slot that other nodes use. saved: slot of the tensors. embedding: `used` is a text
    that names the tensors.
    """

    used: int
    saved: int
    embedding: bool = False


# By class type: those that batch runs cut out. A further one is a further line; the pack's own also stand in
# web/deft/node.mjs, which a test compares.
TRAINERS = {
    "DEFTTrainAdapter": TrainingNode(0, 0),
    "TrainLoraNode": TrainingNode(0, 0),
    "DEFTTrainTextualInversion": TrainingNode(0, 4, embedding=True),
}
_NAMED = re.compile(r"Train(?!ing)")  # not DEFTTrainingSettings


def trains(node: Mapping[str, Any]) -> bool:
    """Whether a node of a workflow in ComfyUI's API form trains. Other packs' are known by their name or their rate."""
    kind = str(node.get("class_type", ""))
    return kind in TRAINERS or bool(_NAMED.search(kind)) or "learning_rate" in (node.get("inputs") or ())
