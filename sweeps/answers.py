"""A server's answers about a prompt, taken apart: the result of one that has ended, or why it was refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import Interrupted, NodeFailed
from .waiting import Waiting
from .workflow import Prompt


@dataclass
class Finished:
    """The server's record of a prompt that went through. outputs: node id -> UI output.

    seconds: from the start of its execution to its end. ended: when that was (s since 1970). Both by its own clock.
    """

    outputs: dict[str, dict[str, list[Any]]]
    seconds: float
    node_seconds: dict[str, float] = field(default_factory=dict)
    ended: float = 0.0


def result_of(entry: Mapping[str, Any], prompt: Prompt, waiting: Waiting) -> Finished:
    """The result in a history entry; raises the error of a failed one."""
    messages = dict((entry.get("status") or {}).get("messages") or ())
    error = messages.get("execution_error")
    if error:
        text = f"{error['exception_type']}: {str(error['exception_message']).strip()}"
        raise NodeFailed(
            f"{_named(prompt, error['node_id'], error['node_type'])}: {text}", "".join(error.get("traceback") or ())
        )
    stopped = messages.get("execution_interrupted")
    if stopped:
        raise Interrupted(f"{_named(prompt, stopped['node_id'], stopped['node_type'])}: cancelled on the server")
    start, end = (messages.get(kind, {}).get("timestamp") for kind in ("execution_start", "execution_success"))
    seconds = (end - start) / 1000 if start and end else 0.0
    return Finished(entry.get("outputs") or {}, seconds, waiting.node_seconds, (end or 0) / 1000)


def _named(prompt: Prompt, node_id: str, class_type: str) -> str:
    title = (prompt.get(node_id, {}).get("_meta") or {}).get("title")
    return f"{title or class_type} ({node_id})"


def describe_refusal(answer: Mapping[str, Any]) -> str:
    """The server's answer to a bad prompt, one sentence a node."""
    lines = []
    for node_id, refusal in (answer.get("node_errors") or {}).items():
        lines += [
            f"{refusal['class_type']} {node_id}: {error['message']}: {error['details']}" for error in refusal["errors"]
        ]
    error = answer.get("error")
    if error and not lines:
        lines.append(f"{error['message']}: {error['details']}" if isinstance(error, Mapping) else str(error))
    return "; ".join(lines)
