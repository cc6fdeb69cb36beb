"""The files of a run, and what tells runs apart: the digest of their settings, data and base."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...deft_ops.settings import FileName, Number, Switch, Text, described, entry


@dataclass(frozen=True)
class Run:
    """The files that a run writes and goes on from; this does not change its result."""

    run_name: str = entry(
        Text(
            words="Folder in the output folder for log and checkpoints; a hash of the settings is"
            " added, so that runs do not mix.",
        ),
        "training/adapter",
    )
    checkpoint_every: int = entry(
        Number(
            shown=1_000_000,
            words="Steps between checkpoints; one more is written at the end and when the run is interrupted. 0: none.",
        ),
        250,
    )
    keep: int = entry(Number(low=1, shown=1000, words="How many checkpoints are kept."), 2)
    resume: bool = entry(
        Switch(
            words="Continue from the newest checkpoint with the same settings, pictures and model. Off: start again."
        ),
        True,
    )
    name: str = entry(
        FileName(
            later=True,
            suffix=".safetensors",
            words="With a name, such as my_dog, Train Adapter also writes the finished adapter to "
            "models/loras/my_dog.safetensors, where loaders list it, with the last preview beside it. The file of "
            "another training is never replaced.",
        ),
        "",
    )

    @classmethod
    def of(cls, **values: Any) -> Run:
        """The run of the widgets' values.

        Raises:
            ValueError: a value that is out of range, or no file's name.
        """
        for name, (setting, _) in described(cls).items():
            if name in values:
                setting.check(name, values[name])
                values[name] = setting.stored(values[name])
        return cls(**values)


def digest(*parts: Mapping[str, Any]) -> str:
    """A short name for a run: the same for the same settings, data and base."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:10]


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The names of what differs between two records."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
