"""The ways in which a prompt comes to no result: refused, failed, cancelled, or lost with its server."""

from __future__ import annotations

from .access import API_KEY, TOKEN


class Refused(ValueError):
    """The server refused a prompt; the text names node and reason."""


class ServerLost(RuntimeError):
    """The server is gone, with what it was running."""


class Denied(RuntimeError):
    """The server, or what stands before it, refuses access."""

    def __init__(self, url: str, status: int) -> None:
        what = "requires a login" if status == 401 else "refuses access"
        super().__init__(
            f"{url} {what} (HTTP {status}): give a user and a password in the address, a token in {TOKEN} or "
            f"{API_KEY}, or what it needs with --header; if you have done so, check them"
        )


class Interrupted(RuntimeError):
    """Somebody has cancelled the prompt on the server."""


class Gone(RuntimeError):
    """A prompt is neither in the server's queue nor in its history: somebody has cleared one of them."""


class NodeFailed(RuntimeError):
    """A node raised; the text names node and reason. traceback: Python's, as the server sent it."""

    def __init__(self, text: str, traceback: str) -> None:
        super().__init__(text)
        self.traceback = traceback


class TooLong(NodeFailed):
    """A prompt ran longer than the plan lets it. stopped: whether the server has ended it when it was asked to."""

    def __init__(self, limit: float, stopped: bool) -> None:
        text = f"it ran longer than {limit:g} s (`time_limit` in the plan), and was interrupted"
        super().__init__(text if stopped else f"{text}, but the server has not ended it", "")
        self.stopped = stopped
