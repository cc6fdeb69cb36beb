"""The checkpoints of a training: the adapters of a run, or of a folder of models/loras, in the order of their steps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import folder_paths

from ..deft_ops import files
from ..deft_ops.adapter import Adapter
from ..deft_ops.files import native
from ..models.fingerprint import compare, tolerance
from ..patches.apply import apply
from ..trainers.run import history
from .sockets import RUNS, adapter_files, adapter_path

BASE = "base"
_NUMBER = re.compile(r"(\d+)(?!.*\d)")


@dataclass(frozen=True)
class CheckpointFile:
    """An adapter of a training. name: in a table, "step 300" or the file's. file: as the file widgets have it."""

    name: str
    step: int
    file: str
    path: Path
    adapter: Adapter


@dataclass(frozen=True)
class Row:
    """A row of the grid: a checkpoint at a strength, or the model without an adapter. content: a hash of its file."""

    name: str = BASE
    checkpoint: CheckpointFile | None = None
    strength: float = 0.0
    content: str = ""

    @property
    def about(self) -> dict[str, Any]:
        """What distinguishes the row's pictures from those of other rows."""
        return {"adapter": self.content, "strength": self.strength}

    def applied(self, model: Any, clip: Any) -> tuple[Any, Any]:
        """MODEL and CLIP with the row's adapter."""
        if self.checkpoint is None:
            return model, clip
        adapter, name = self.checkpoint.adapter, self.checkpoint.path.name
        of_text = any(key.startswith(("text_encoders.", "lora_te", "text_model.")) for key in adapter)
        model, changed, _ = apply(
            adapter,
            model,
            clip if of_text else None,
            strength_model=self.strength,
            strength_clip=self.strength,
            source=name,
        )
        return model, changed if of_text else clip


def rows_of(checkpoints: Sequence[CheckpointFile], strengths: Sequence[float], with_base: bool) -> list[Row]:
    """The rows: the base, then each checkpoint at each strength."""
    from ..trainers.run.kept_pictures import content_of

    rows = [Row()] if with_base else []
    for item in checkpoints:
        content = content_of(item.path)
        for strength in strengths:
            more = f", strength {strength:g}" if len(strengths) > 1 else ""
            rows.append(Row(item.name + more, item, strength, content))
    return rows


def _folders() -> dict[str, list[str]]:
    """The names of the adapter files by their folder; those that lie in models/loras itself are of no one training."""
    folders: dict[str, list[str]] = {}
    for name in adapter_files():
        folder = PurePosixPath(name.replace("\\", "/")).parent.as_posix()
        if folder != ".":
            folders.setdefault(folder, []).append(name)
    return folders


def checkpoint_folders() -> list[str]:
    """The names of the folders that the widget offers: runs of this pack, then folders of models/loras."""
    return sorted(_folders(), key=lambda name: (not name.startswith(RUNS), name))


def names_in(folder: object) -> list[str]:
    """The names of the adapter files of a folder; none of what is no folder's name."""
    return _folders().get(folder, []) if isinstance(folder, str) else []


def run_of(adapter: Adapter) -> tuple[str, Path]:
    """The run that has made an adapter: its folder as the widget names it, and the folder.

    Raises:
        ValueError: no training of this workflow has made it, or one that keeps nothing in the output folder.
    """
    root, run = Path(folder_paths.get_output_directory()).resolve(), getattr(adapter, "run", None)
    if run is None or not run.is_relative_to(root):
        raise ValueError(
            "adapter: it does not come from Train Adapter. Connect that node's adapter, or none and choose the run in "
            "`checkpoints`."
        )
    return f"{RUNS}{run.relative_to(root).as_posix()}", run


def checkpoints_of(folder: str, run: Path | None = None) -> list[CheckpointFile]:
    """The adapters of a folder that the widget names. run: that of a training which may have just ended; the lists for
    the widgets are kept for a moment, so it is looked into.

    Raises:
        ValueError: none, only one, or a damaged file; files of different methods or bases.
    """
    names = [(name, adapter_path(name)) for name in names_in(folder)]
    if run is not None:
        names = [
            (f"{folder}/{entry.name}", run / entry.name) for _, entry in history.numbered(run, history.ADAPTER_NAME)
        ]
    if not names:
        raise ValueError(
            f"checkpoints: there are no adapter files in {folder!r}. Train with checkpoint_every in Training Settings, "
            "or choose another folder (press R to refresh the list)."
        )
    checkpoints = [_read(name, path) for name, path in names]
    if len(checkpoints) == 1:
        raise ValueError(
            f"checkpoints: {folder} has only {checkpoints[0].path.name}, and nothing to compare it with. Train "
            "with a smaller checkpoint_every and a larger keep in Training Settings."
        )
    first = checkpoints[0]
    for other in checkpoints[1:]:
        one, two = (item.adapter.metadata.get("method", "unknown") for item in (first, other))
        if one != two:
            raise ValueError(
                f"checkpoints: {first.path.name} is of the method {one}, {other.path.name} of {two}. Checkpoints of "
                "one training are compared; for methods use Score Table."
            )
        bases = [item.adapter.metadata.get("base_hash", "") for item in (first, other)]
        apart = compare(*bases)
        if apart is not None and apart > tolerance(*bases):
            raise ValueError(
                f"checkpoints: {first.path.name} and {other.path.name} were trained on different base models. Put "
                "those of one base into a folder of their own."
            )
    checkpoints.sort(key=lambda item: (item.step, item.file))
    return (
        checkpoints
        if len({item.name for item in checkpoints}) == len(checkpoints)
        else [_by_file(item) for item in checkpoints]
    )


def _read(name: str, path: Path) -> CheckpointFile:
    """A file with its step: as its header has it, otherwise the last number of its name."""
    adapter = files.read(path)
    step = native.settings_of(adapter.metadata.get("training", "")).get("steps")
    if not isinstance(step, int) or isinstance(step, bool):
        match = _NUMBER.search(path.stem)
        step = int(match[1]) if match else None
    if step is None:
        return CheckpointFile(path.stem, 1 << 62, name, path, adapter)  # such as kohya's last file, behind the others
    return CheckpointFile(f"step {step}", step, name, path, adapter)


def _by_file(item: CheckpointFile) -> CheckpointFile:
    return CheckpointFile(item.path.stem, item.step, item.file, item.path, item.adapter)
