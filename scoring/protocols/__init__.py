"""Scoring protocols as data: one file each, one line in PROTOCOLS."""

from __future__ import annotations

from .base import Protocol
from .demo import DEMO
from .dreambench_plus import DREAMBENCH_PLUS
from .dreambooth import DREAMBOOTH

PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (DREAMBOOTH, DREAMBENCH_PLUS, DEMO)}


def get_protocol(name: str) -> Protocol:
    """The protocol of that name. Raises ValueError that lists the known ones."""
    if name not in PROTOCOLS:
        raise ValueError(f"there is no scoring protocol {name!r}; known are {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]
