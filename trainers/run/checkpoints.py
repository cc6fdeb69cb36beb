"""The folder of a run: a log line a step, and checkpoints from which the run goes on as if it had not stopped."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...deft_ops import adapter as adapters
from ...deft_ops.files import lock, native, safe
from ...deft_ops.wording import one_line
from ...disk.errors import advice, named
from ..settings.run import differences, digest
from . import preview_scores
from .history import LARGEST_LOG, LOG, read_bytes, read_object, skipped
from .preview_scores import PREVIEW
from .state import FORMAT, finite, read

LOCK = "run.lock"
_NUMBERS = {"loss", "rate", "seconds"}  # of a line
_CHECKPOINT = re.compile(r"checkpoint_(\d+)\.pt")


@dataclass
class RunFolder:
    """The folder of a run's log and newest checkpoints. Disk errors are reported, and do not end the training.

    spared: the step of a checkpoint that stays beside the newest ones; 0: none does.
    """

    path: Path
    every: int = 0
    keep: int = 2
    resume: bool = True
    problems: list[str] = field(default_factory=list)
    spared: int = 0

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A context in which no other process writes into the folder.

        Raises:
            ValueError: another one does, or another part of this one.
            NotWritten: a name that the system refuses, in which nothing can be looked for either; it is an OSError.
        """
        with named(self.path / LOCK):
            (self.path / LOCK).exists()
        with ExitStack() as stack:
            try:
                self._guarded(LOCK, lambda: stack.enter_context(lock.holding(self.path / LOCK)))
            except lock.Held as held:
                raise ValueError(
                    f"Another training is writing into {self.path} ({held.owner}): wait until it has ended and run "
                    "this "
                    "again, which continues from its result, or choose another run name."
                ) from held
            yield

    def checkpoints(self) -> list[tuple[int, Path]]:
        """Steps and files, oldest first."""
        if not self.path.is_dir():
            return []
        matches = [(match, file) for file in self.path.iterdir() if (match := _CHECKPOINT.fullmatch(file.name))]
        return sorted((int(match[1]), file) for match, file in matches)

    def checkpoint(self, step: int) -> Path:
        """The file of the checkpoint of a step."""
        return self.path / f"checkpoint_{step:08}.pt"

    def adapter(self, step: int) -> Path:
        """The file of the adapter as it was at a step."""
        return self.path / f"adapter_{step:08}.safetensors"

    def save(self, state: dict[str, Any], adapter: adapters.Adapter) -> None:
        """Write a checkpoint and the adapter as it is, then remove all but the newest up to this step."""
        step = state["step"]
        self._guarded(f"the checkpoint of step {step}", lambda: self._save(state, adapter))

    def _save(self, state: dict[str, Any], adapter: adapters.Adapter) -> None:
        step = state["step"]
        # The adapter first: a checkpoint is there only if both are.
        native.write(adapter, self.adapter(step), {**adapter.metadata, native.RUN: digest(state["identity"])})
        buffer = io.BytesIO()  # torch turns a full disk into an error of its own
        torch.save({"format": FORMAT, **state}, buffer)
        safe.write_files(self.path, {self.checkpoint(step).name: buffer.getvalue()})
        # Later ones are of a run that went further: not in the way, and not to be lost.
        for old, file in [entry for entry in self.checkpoints() if self.spared != entry[0] <= step][: -self.keep]:
            file.unlink()
            self.adapter(old).unlink(missing_ok=True)

    def newest(
        self, identity: dict[str, Any], steps: int, misfit: Callable[[dict[str, Any]], str] = lambda state: ""
    ) -> dict[str, Any] | None:
        """The newest readable checkpoint of at most `steps` steps; None if there is none or resume is off.

        misfit: what of a checkpoint cannot be loaded, if anything; such a one is damaged and passed over.

        Raises:
            ValueError: it was made with other settings, data or base.
        """
        if not self.resume:
            return None
        for step, file in reversed(self.checkpoints()):
            if step > steps:
                continue
            try:
                state = read(file)
            except (ValueError, OSError) as error:
                self.problem(f"{one_line(str(error))}; it was skipped")
                continue
            if names := differences(state["identity"], identity):
                raise ValueError(
                    f"The checkpoint {file} was made with another {', '.join(names)}: restore it, choose another run "
                    "name, or switch resume off."
                )
            said = state.get("step")
            wrong = misfit(state) if isinstance(said, int) and said == step else f"its number of steps, {said}"
            if wrong:
                self.problem(f"{file.name} is damaged ({one_line(wrong)}) and was skipped")
                continue
            return state
        return None

    def start_log(self, step: int) -> None:
        """Keep the log's whole lines up to a step, from which the run goes on; 0 begins a new log."""
        lines = self._lines() if step else []
        kept = [line for line, record in lines if record.get("step", record.get(PREVIEW, 0)) <= step]
        text = b"".join(line + b"\n" for line in kept)
        self._guarded("the log", lambda: safe.write_files(self.path, {LOG: text}))

    def write(self, what: str, contents: dict[str, bytes]) -> None:
        """Write files of the run, all of them complete before any has its name; `what` names them in a warning."""
        self._guarded(what, lambda: safe.write_files(self.path, contents))

    def lines(self, steps: int) -> list[dict[str, Any]]:
        """The log's whole lines of the first `steps` steps, in their order and one a step; damaged ones are missing."""
        by_step = {
            record["step"]: record for _, record in self._lines() if "step" in record and record["step"] <= steps
        }
        return [by_step[step] for step in sorted(by_step)]

    def preview_lines(self) -> list[dict[str, Any]]:
        """The log's lines of scored previews."""
        return [record for _, record in self._lines() if "step" not in record]

    def _lines(self) -> list[tuple[bytes, dict[str, Any]]]:
        """The whole lines of the log and what they say; none where it is too long or cannot be read.

        Damaged ones are reported, but for a last one that has no end: a run that was killed leaves it.
        """
        file = self.path / LOG
        data = read_bytes(file, LARGEST_LOG) if file.is_file() else b""
        if data is None:
            self.problem(f"the log {file} cannot be read")
        *ended, last = (data or b"").split(b"\n")
        records = [(line, read_object(line)) for line in (*ended, last)]
        wrong = [at for at, (line, record) in enumerate(records[:-1], 1) if line.strip() and not _whole(record)]
        if wrong:
            self.problem(skipped(wrong))
        return [(line, record) for line, record in records if _whole(record)]

    def log(self, line: dict[str, Any]) -> None:
        """Append a line of JSON; it is in the file when this returns."""

        def append() -> None:
            with (self.path / LOG).open("a") as file:
                file.write(json.dumps(line) + "\n")

        self._guarded("the log", append)

    def _guarded(self, what: str, work: Callable[[], object]) -> None:
        try:
            work()
        except OSError as error:
            self.problem(f"{what} could not be written to {self.path} ({error.strerror or error}): {advice(error)}")

    def problem(self, text: str) -> None:
        """Log it and keep it for the report, once."""
        if text not in self.problems:
            self.problems.append(text)
            logging.warning(text)


def _whole(record: dict[str, Any]) -> bool:
    """Whether a line is one of a step, with its numbers, or of a scored preview."""
    if "step" not in record:
        return preview_scores.whole(record)
    step = record["step"]
    number = isinstance(step, int) and not isinstance(step, bool)
    return number and step > 0 and all(finite(record.get(name)) for name in _NUMBERS)
