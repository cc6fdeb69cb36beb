"""What the page learns of a training while it goes on: a text at the node, and messages for its loss curve."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..trainers.run.history import PREVIEW, numbered, run_id
from .output import node_in_page
from .routes import output_folder

if TYPE_CHECKING:
    from ..trainers.run.training_run import StepProgress

EVENT = "deft.training"
BETWEEN = 0.25  # seconds between two messages, at least
MOST = 500  # steps in one message


def duration(seconds: float) -> str:
    """A time as people say it: 50 s, 12 min, 3 h 20 min."""
    if seconds < 59.5:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def shown_run(folder: Path | None) -> dict[str, list[str]]:
    """A node's UI output `deft_run`: the id of its run, by which the page finds the curve of what it has cached."""
    root = output_folder()
    return {"deft_run": [run_id(root, folder)]} if folder is not None and folder.is_relative_to(root) else {}


class LiveRun:
    """The messages of one training, to the browser that has asked for it, and the time that is left.

    Without such a browser (programs, sweeps) nothing is sent: a message to nobody would go to everybody.
    """

    def __init__(self) -> None:
        self.points: list[list[float]] = []
        self.began: tuple[float, int] | None = None
        self.sent = 0.0
        self.new_previews = True  # those of before the first step come by no call of their own

    def left(self, progress: StepProgress) -> float:
        """The seconds that are left, by the mean time of the steps so far, previews and checkpoints counted.

        The first step, which is slower than the others, counts as long as there is no other.
        """
        now = time.monotonic()
        if self.began is None:
            self.began = now, progress.step
            return progress.seconds * (progress.steps - progress.step)
        start, first = self.began
        return (now - start) / max(1, progress.step - first) * (progress.steps - progress.step)

    def step(self, progress: StepProgress, left: float) -> None:
        """Tell the page of a step; several go in one message."""
        self.points = [*self.points[1 - MOST :], [progress.step, progress.loss]]
        self.new_previews |= progress.pictures is not None
        now = time.monotonic()
        due = now - self.sent >= BETWEEN or progress.step == progress.steps or progress.pictures is not None
        if due and progress.folder is not None and self.send(progress, left):
            self.points, self.sent, self.new_previews = [], now, False

    def send(self, progress: StepProgress, left: float) -> bool:
        """Send what has not been sent; False if there is nobody to send it to.

        `previews` are the steps of all pictures that lie in the run's folder, and `scores` what those are scored with,
        where there are new ones.
        """
        server, context = getattr(PromptServer, "instance", None), get_executing_context()
        client = getattr(server, "client_id", None)
        run = shown_run(progress.folder)
        if server is None or client is None or context is None or progress.folder is None or not run:
            return False
        message: dict[str, Any] = {
            "node": node_in_page(context.node_id),
            "prompt_id": context.prompt_id,
            "run": run["deft_run"][0],
            "steps": progress.steps,
            "points": self.points,
            "seconds": progress.seconds,
            "left": left,
            "previews": [step for step, _ in numbered(progress.folder, PREVIEW)] if self.new_previews else None,
            "scores": [[step, dict(values)] for step, values in progress.scored[-MOST:]] if self.new_previews else None,
        }
        server.send_sync(EVENT, message, client)
        return True
