"""When a server is asked for a prompt, and what its answers mean."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from deft_pack.sweeps.waiting import QUIET, RARELY, Waiting, place_of


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    """A prompt that was sent at second 100, over the websocket 1."""
    loop = asyncio.new_event_loop()
    yield Waiting(loop.create_future(), lambda *_: None, 100.0, limit=50.0, connection=1, sent=True)
    loop.close()


@pytest.mark.parametrize(
    ("queue", "history", "place"),
    [
        ({"queue_running": [[0, "a", {}]], "queue_pending": []}, {}, "running"),
        ({"queue_running": [[0, "b", {}]], "queue_pending": [[1, "c"], [2, "a"]]}, {}, "pending"),
        ({"queue_running": [], "queue_pending": []}, {"a": {"outputs": {}}}, "ended"),
        ({"queue_running": [[0, "b"]], "queue_pending": []}, {}, "gone"),
        (None, {}, None),  # a proxy's error page
        ({"queue_running": [], "queue_pending": []}, None, None),
        ({"error": "no"}, {"error": "no"}, None),
        ([], [], None),
    ],
)
def test_where_a_prompt_is(queue: Any, history: Any, place: Any) -> None:
    assert place_of("a", queue, history) == place


def test_the_server_is_asked_more_and_more_rarely(waiting: Waiting) -> None:
    asked = []
    for second in range(100, 200):
        if waiting.to_ask(second):
            asked.append(second - 100)
            waiting.answered("pending", second)
    assert asked[:3] == [QUIET, 2 * QUIET, 4 * QUIET]
    assert {later - earlier for earlier, later in zip(asked[3:], asked[4:])} == {RARELY}
    waiting.event("progress", {"node": "1"}, 200.0)
    assert not waiting.to_ask(200 + QUIET - 1)
    assert waiting.to_ask(200 + QUIET)


def test_nobody_asks_for_what_was_not_taken_or_has_ended(waiting: Waiting) -> None:
    waiting.sent = False
    assert not waiting.to_ask(1000.0)
    waiting.sent = True
    waiting.ended.set_result(None)
    assert not waiting.to_ask(1000.0)


def test_the_limit_begins_with_the_execution(waiting: Waiting) -> None:
    waiting.answered("pending", 150.0)
    assert not waiting.too_long(1000.0)
    waiting.answered("running", 160.0)  # its first message was lost
    waiting.answered("running", 200.0)
    assert not waiting.too_long(209.0)
    assert waiting.too_long(211.0)
    waiting.event("execution_start", {}, 300.0)
    assert not waiting.too_long(349.0)
    waiting.limit = None
    assert not waiting.too_long(1e9)


def test_messages_stand_in_for_a_history_that_was_cleared(waiting: Waiting) -> None:
    waiting.event("execution_start", {"timestamp": 1000}, 100.0)
    assert waiting.entry(1) is None  # it has not ended
    waiting.event("executing", {"node": "7"}, 101.0)
    waiting.event("executed", {"node": "7", "output": {"text": ["x"]}}, 103.0)
    waiting.event("execution_success", {"timestamp": 4000}, 104.0)
    assert waiting.entry(1) == {
        "outputs": {"7": {"text": ["x"]}},
        "status": {"messages": [("execution_start", {"timestamp": 1000}), ("execution_success", {"timestamp": 4000})]},
    }
    assert waiting.node_seconds == {"7": 3.0}
    assert waiting.entry(2) is None  # another websocket: messages were missed in between
    assert waiting.entry(0) is None
