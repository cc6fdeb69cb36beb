"""What a run's folder says of the run beside its log: settings and state in run.json, and each preview as a picture."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from PIL import Image
from torch import Tensor

from ...deft_ops.version import VERSION
from ...models.titles import title_of
from .checkpoints import RunFolder
from .history import LARGEST, PREVIEW, RECORD, SESSION, read_bytes, read_object
from .trainer import Trainer

_SIDE = 2048  # of a stored preview, at most


def facts_of(trainer: Trainer, identity: dict[str, Any]) -> dict[str, Any]:
    """What is known of a run before its first step."""
    settings = trainer.settings
    return {
        "title": trainer.title(),
        "method": settings.method,
        "base": title_of(trainer.model.model),
        "base_hash": identity["base"],
        "steps": settings.steps,
        "pictures": len(trainer.dataset.examples),
        "settings": settings.record(),
        "version": VERSION,
    }


@contextmanager
def recorded(folder: RunFolder | None, trainer: Trainer, identity: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Keep run.json for the time of a run: two small writes, before its first step and at its end. What is put into
    the dictionary that is given stands in the second one.

    Previews of later steps than the one that the run begins at are removed, as the log's lines are.
    """
    more: dict[str, Any] = {}
    if folder is None:
        yield more
        return
    for step, file in previews(folder.path):
        if step > trainer.step:
            with suppress(OSError):
                file.unlink()
    earlier = read_object(read_bytes(folder.path / RECORD, LARGEST) or b"")
    now = time.time()
    created = earlier.get("created")
    facts = facts_of(trainer, identity) | {
        "created": created if isinstance(created, float) else now,
        "started": now,
        "first_step": trainer.step,
        "session": SESSION,
    }

    def keep(state: str, **ended: Any) -> None:
        record = {"format": 1, **facts, "state": state, "step": trainer.step, **ended, **more}
        text = json.dumps(record, indent=1, default=str)
        folder.write("the record of the run", {RECORD: text.encode()})

    keep("running")
    try:
        yield more
    except comfy.model_management.InterruptProcessingException:
        keep("stopped", ended=time.time())
        raise
    except BaseException as error:
        keep("failed", ended=time.time(), message=str(error)[:1000])
        raise
    keep("finished", ended=time.time())


def previews(folder: Path) -> list[tuple[int, Path]]:
    """Steps and files of a run's previews, in the order of the steps."""
    if not folder.is_dir():
        return []
    matches = [(match, file) for file in folder.iterdir() if (match := PREVIEW.fullmatch(file.name))]
    return sorted((int(match[1]), file) for match, file in matches)


def preview_name(step: int) -> str:
    """The file name of a step's preview."""
    return f"preview_{step:08}.jpg"


def has_preview(folder: RunFolder, step: int) -> bool:
    """Whether the picture of a step is in the run's folder."""
    return (folder.path / preview_name(step)).is_file()


def broken_off(folder: RunFolder) -> bool:
    """Whether the run that was here before was interrupted or killed, by its record: neither finished nor failed."""
    state = read_object(read_bytes(folder.path / RECORD, LARGEST) or b"").get("state")
    return state in ("running", "stopped")


def keep_preview(folder: RunFolder | None, step: int, pictures: Tensor) -> None:
    """Write the pictures of a step [n, h, w, 3] in 0 to 1 as one JPEG, side by side."""
    if folder is None:
        return
    row = torch.cat(list(pictures), dim=1).clamp(0, 1).mul(255).round().byte()
    picture, target = Image.fromarray(row.cpu().numpy()), BytesIO()
    picture.thumbnail((_SIDE, _SIDE))
    picture.save(target, "JPEG", quality=90)
    folder.write(f"the preview of step {step}", {preview_name(step): target.getvalue()})
