"""The runs that lie below a folder, as numbers and short texts; reads only, and believes nothing that it reads.

A run is a folder whose name ends with the mark of its settings and in which its log lies. Links are not followed, other
files are not opened, and what is damaged is left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import stat
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# Of this process, in the records of its runs: what another one left as running has been broken off.
SESSION = uuid.uuid4().hex
LOG, RECORD = "log.jsonl", "run.json"
CHECKPOINT = re.compile(r"checkpoint_(\d{1,12})\.pt")
ADAPTER_NAME = re.compile(r"adapter_(\d{1,12})\.safetensors")
PREVIEW = re.compile(r"preview_(\d{1,12})\.jpg")
_MARKED = re.compile(r".*_[0-9a-f]{10}")
_NUMBERS = ("created", "started", "ended", "first_step", "steps", "pictures")
_TEXTS = ("title", "method", "base", "base_hash", "message", "version", "early_stop")
_STATES = ("running", "stopped", "failed", "finished")
DEPTH, FOLDERS, RUNS = 6, 20_000, 500  # how deep, in how many folders runs are looked for, and how many are listed
LARGEST, LARGEST_LOG, LARGEST_PICTURE = 1 << 20, 256 << 20, 32 << 20  # bytes
TAIL = 8192  # bytes of a log's end, in which its last line lies
POINTS = 2000  # of a curve
TEXT_LENGTH = 500  # characters
_LONGEST = 2000  # bytes of a log's line
_SCORED = b'{"preview":'  # how the lines of scored previews begin


def read_bytes(path: Path, most: int, tail: int = 0) -> bytes | None:
    """The content of a regular file of at most `most` bytes, or its last `tail` ones; None for anything else."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # Windows has no O_NOFOLLOW
            return None
        with os.fdopen(os.open(path, flags), "rb") as file:
            size = os.fstat(file.fileno())
            if not stat.S_ISREG(size.st_mode) or size.st_size > most:
                return None
            if tail:
                file.seek(max(0, size.st_size - tail))
            return file.read(most)
    except OSError:
        return None


def read_object(data: bytes) -> dict[str, Any]:
    """The JSON object in the bytes; empty for anything else."""
    try:
        value = json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):  # also numbers of too many digits, and brackets too deep
        return {}
    return value if isinstance(value, dict) else {}


def number(value: Any) -> float | int | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return value if math.isfinite(value) and abs(value) < 1e300 else None
    except OverflowError:
        return None


def text(value: Any) -> str:
    """A text of bounded length; empty for anything else."""
    return value[:TEXT_LENGTH] if isinstance(value, str) else ""


def simple(value: Any, depth: int = 3) -> Any:
    """A value of JSON with finite numbers, cut in length and depth."""
    if isinstance(value, (bool, type(None))):
        return value
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        return {text(key): simple(item, depth - 1) for key, item in list(value.items())[:200]} if depth else None
    if isinstance(value, list):
        return [simple(item, depth - 1) for item in value[:200]] if depth else None
    return number(value)


def run_id(root: Path, folder: Path) -> str:
    """The name that programs ask for a run by: a digest of its place below the root."""
    return hashlib.sha256(folder.relative_to(root).as_posix().encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _folders(root: Path) -> Iterator[tuple[Path, float]]:
    """The folders of runs below a root, each with the time of its log's last line."""
    waiting, seen = [(root, 0)], 0
    while waiting and seen < FOLDERS:
        folder, depth = waiting.pop()
        seen += 1
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if depth < DEPTH and not entry.name.startswith("."):
                            waiting.append((folder / entry.name, depth + 1))
                    elif entry.name != LOG or not depth or not _MARKED.fullmatch(folder.name):
                        continue
                    elif entry.is_file(follow_symlinks=False):
                        yield folder, entry.stat(follow_symlinks=False).st_mtime
        except OSError:
            continue


def runs(root: Path) -> dict[str, Path]:
    """The folders of the runs below a root by their ids, the newest first."""
    newest = sorted(_folders(root), key=lambda pair: pair[1], reverse=True)[:RUNS]
    return {run_id(root, folder): folder for folder, _ in newest}


def lines(folder: Path, tail: int = 0) -> Iterator[dict[str, float | int | None]]:
    """The whole lines of a run's log, or of its end: step, loss, rate, gradient norm and seconds."""
    for line in (read_bytes(folder / LOG, LARGEST_LOG, tail) or b"").splitlines():
        values = read_object(line[:_LONGEST])
        step = number(values.get("step"))
        if isinstance(step, int) and step > 0:
            yield {"step": step} | {name: number(values.get(name)) for name in ("loss", "rate", "grad_norm", "seconds")}


def preview_scores(folder: Path) -> list[list[Any]]:
    """The scored previews of a run, [step, values by metric] in the order of the steps: those that were measured as
    the last one was.
    """
    previews = []
    for line in (read_bytes(folder / LOG, LARGEST_LOG) or b"").splitlines():
        if line.startswith(_SCORED):  # of many steps few are previews
            values = read_object(line[:_LONGEST])
            step, scores, measured = (values.get(name) for name in ("preview", "scores", "measured"))
            if number(step) is not None and isinstance(step, int) and isinstance(scores, dict):
                previews.append((step, {text(name): number(value) for name, value in scores.items()}, measured))
    alike = {step: scores for step, scores, measured in previews if measured == previews[-1][2]}
    return [[step, alike[step]] for step in sorted(alike)]


def summary(root: Path, folder: Path) -> dict[str, Any]:
    """A run in few words."""
    record = read_object(read_bytes(folder / RECORD, LARGEST) or b"")
    last = next(reversed(list(lines(folder, TAIL))), {})
    state = record.get("state") if record.get("state") in _STATES else "unknown"
    if state == "running" and record.get("session") != SESSION:
        state = "broken off"
    fields: dict[str, Any] = {"id": run_id(root, folder), "name": text(folder.relative_to(root).as_posix())}
    fields |= {name: text(record.get(name)) for name in _TEXTS} | {name: number(record.get(name)) for name in _NUMBERS}
    if fields["created"] is None:
        with contextlib.suppress(OSError):
            fields["created"] = (folder / LOG).lstat().st_mtime
    step, loss, seconds = (last.get(name) for name in ("step", "loss", "seconds"))
    return fields | {"state": state, "step": step or 0, "loss": loss, "seconds": seconds}


def curve(folder: Path) -> dict[str, list[Any]]:
    """The steps of a run and their losses and rates.

    Of more than POINTS steps, the lowest and the highest loss of each stretch are left, so that no peak is lost.
    """
    points = list(lines(folder))
    if len(points) > POINTS:
        stretch = math.ceil(2 * len(points) / POINTS)
        kept = []
        for start in range(0, len(points), stretch):
            part = sorted(points[start : start + stretch], key=_loss)
            kept += sorted({point["step"]: point for point in (part[0], part[-1])}.values(), key=_step)
        points = kept
    return {name: [point[name] for point in points] for name in ("step", "loss", "rate")}


def _loss(point: dict[str, Any]) -> float:
    return math.inf if point["loss"] is None else float(point["loss"])


def _step(point: dict[str, Any]) -> int:
    return int(point["step"])


def numbered(folder: Path, form: re.Pattern[str]) -> list[tuple[int, os.DirEntry[str]]]:
    """The regular files of a run whose names have such a form, by their steps."""
    try:
        with os.scandir(folder) as entries:
            pairs = [(match, entry) for entry in entries if (match := form.fullmatch(entry.name))]
            return sorted(
                ((int(match[1]), entry) for match, entry in pairs if entry.is_file(follow_symlinks=False)),
                key=lambda pair: pair[0],
            )
    except OSError:
        return []


def problems(folder: Path) -> list[str]:
    """What in a run's folder is damaged, and was skipped. A log's last line may be one that is being written."""
    texts = []
    data = read_bytes(folder / LOG, LARGEST_LOG)
    if data is None:
        texts.append(f"{LOG} cannot be read.")
    wrong = [number for number, line in enumerate((data or b"").split(b"\n")[:-1], 1) if not _is_step(line)]
    if wrong:
        texts.append(f"{skipped(wrong)}.")
    if (folder / RECORD).exists() and not read_object(read_bytes(folder / RECORD, LARGEST) or b""):
        texts.append(f"{RECORD} is damaged and is skipped.")
    return texts


def skipped(numbers: Sequence[int]) -> str:
    """What is said of damaged lines of a log, by their numbers from 1."""
    if len(numbers) == 1:
        return f"{LOG}: damaged line {numbers[0]} is skipped"
    places = ", ".join(map(str, numbers[:5])) + (" and others" if len(numbers) > 5 else "")
    return f"{LOG}: {len(numbers)} damaged lines are skipped ({places})"


def _is_step(line: bytes) -> bool:
    values = read_object(line[:_LONGEST])
    return not line.strip() or any(isinstance(number(values.get(name)), int) for name in ("step", "preview"))


def detail(root: Path, folder: Path) -> dict[str, Any]:
    """All that a run's folder says of it: summary, curve, settings, steps of the checkpoints and of the previews, the
    previews' scores, and what of it is damaged."""
    record = read_object(read_bytes(folder / RECORD, LARGEST) or b"")
    settings = record.get("settings")
    return summary(root, folder) | {
        "curve": curve(folder),
        "settings": simple(settings) if isinstance(settings, dict) else {},
        "checkpoints": [step for step, _ in numbered(folder, CHECKPOINT)],
        "adapters": [{"step": step, "file": entry.name} for step, entry in numbered(folder, ADAPTER_NAME)],
        "previews": [step for step, _ in numbered(folder, PREVIEW)],
        "preview_scores": preview_scores(folder),
        "problems": problems(folder),
    }


def preview(folder: Path, step: int) -> bytes | None:
    """The JPEG of a step's preview; None where there is none."""
    for number_of, entry in numbered(folder, PREVIEW):
        if number_of == step:
            data = read_bytes(folder / entry.name, LARGEST_PICTURE)
            return data if data is not None and data.startswith(b"\xff\xd8\xff") else None
    return None
