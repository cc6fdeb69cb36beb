"""A prompt that was sent to a server: what was heard of it, when to ask for it, and what the answer means.

Nothing here waits or talks to anybody; times are seconds of one clock that whoever calls has read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OnEvent = Callable[[str, dict[str, Any]], None]
# Where a server has a prompt. "gone": neither in its queue nor in its history.
PromptPlace = Literal["running", "pending", "ended", "gone"]

QUIET = 3.0  # seconds without a message about a prompt after which the server is asked
RARELY = 12.0  # seconds between two questions, at most: the answer to /queue holds every prompt in it
STATUS = ("execution_start", "execution_success", "execution_error", "execution_interrupted")


@dataclass
class Waiting:
    """A prompt whose end is awaited. ended: set at its end, or with the error that it ended by.

    limit: seconds that it may run, None for any number. connection: which of the client's websockets was open when it
    was sent. heard: when the last message about it came. started: when it began to run, None before that.
    """

    ended: asyncio.Future[None]
    on_event: OnEvent
    heard: float
    limit: float | None = None
    connection: int = 0
    sent: bool = False
    started: float | None = None
    pause: float = QUIET
    node: str | None = None
    since: float = 0.0
    node_seconds: dict[str, float] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    messages: dict[str, Any] = field(default_factory=dict)

    def event(self, kind: str, data: dict[str, Any], now: float) -> None:
        """Keep what a message says, and pass it on."""
        self.heard, self.pause = now, QUIET
        if kind == "execution_start":
            self.started = now
        if kind in STATUS:
            self.messages[kind] = data
        if kind == "executed" and data.get("output"):
            self.outputs[str(data.get("node"))] = data["output"]
        if kind in ("executing", "execution_success"):
            if self.node is not None:
                self.node_seconds[self.node] = self.node_seconds.get(self.node, 0.0) + now - self.since
            self.node, self.since = data.get("node"), now  # no node: it is over
        self.on_event(kind, data)

    def to_ask(self, now: float) -> bool:
        """Whether nothing was heard of the prompt for so long that the server should be asked."""
        return self.sent and not self.ended.done() and now - self.heard >= self.pause

    def answered(self, place: PromptPlace, now: float) -> None:
        """The server was asked and has it in its queue: the next question comes later."""
        self.pause = now - self.heard + min(now - self.heard, RARELY)
        if place == "running" and self.started is None:  # its first message was lost
            self.started = now

    def too_long(self, now: float) -> bool:
        """Whether the prompt runs longer than it may."""
        return self.limit is not None and self.started is not None and now - self.started > self.limit

    def entry(self, connection: int) -> dict[str, Any] | None:
        """What the server's history would say, from the messages; None if some of them may have been missed."""
        if not connection or connection != self.connection or not self.messages.keys() - {"execution_start"}:
            return None
        return {"outputs": self.outputs, "status": {"messages": list(self.messages.items())}}


def place_of(prompt_id: str, queue: Any, history: Any) -> PromptPlace | None:
    """Where a prompt is, by the answers to /queue and, asked after that, /history/ID. None: these are no answers.

    The order matters: a prompt that ends between the two questions is in the second answer.
    """
    lists: dict[PromptPlace, str] = {"running": "queue_running", "pending": "queue_pending"}
    if not isinstance(queue, Mapping) or not isinstance(history, Mapping) or not queue.keys() >= set(lists.values()):
        return None
    for place, name in lists.items():
        if any(item[1] == prompt_id for item in queue[name]):
            return place
    return "ended" if prompt_id in history else "gone"
