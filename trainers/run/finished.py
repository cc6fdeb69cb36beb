"""Adapter files of finished runs, known by the mark in their headers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...deft_ops.files import native, safe
from ..settings.settings import Settings, digest


def header_of(file: Path) -> dict[str, str]:
    """The header of an adapter file; empty where there is none, or another kind of file."""
    try:
        return safe.read_metadata(file)
    except (OSError, ValueError):
        return {}


def mark_of(file: Path) -> str:
    """The mark of the run that wrote this file under its name; empty for any other file."""
    return header_of(file).get(native.RUN, "")


def check_free(file: Path, identity: Mapping[str, Any], settings: Settings) -> None:
    """Check that a run may write this file: there is none, or one of the same run.

    Raises:
        ValueError: there is a file of another training, or any other one.
    """
    if not file.exists() or mark_of(file) == digest(identity):
        return
    header = header_of(file)
    names = changed(native.settings_of(header.get("training", "")), header.get("base_hash", ""), identity, settings)
    other = f"of a training with another {', '.join(names)}" if names else "of something else"
    raise ValueError(
        f"The file {file} is there already, {other}: choose another name in Training Settings, or move that file away."
    )


def changed(record: Mapping[str, Any], base: str, identity: Mapping[str, Any], settings: Settings) -> list[str]:
    """What differs between the record in a file's header and a run, in the order of the settings; none without one."""
    if not record:
        return []
    own = settings.record() | {"text_encoder": identity["text_encoder"]}
    if "steps" not in identity:
        del own["steps"]
    names = [name.replace("_", " ") for name, value in own.items() if name in record and record[name] != value]
    names += ["set of pictures or captions"] * (record.get("dataset_hash") != identity["data"])
    return names + ["model"] * (base != identity["base"])
