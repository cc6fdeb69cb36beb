"""Scoring protocols as data: one file each, one line in PROTOCOLS. `custom` makes one from model names."""

from __future__ import annotations

from collections.abc import Callable

from .base import Measure, Protocol
from .clip_image import CLIP_IMAGE
from .custom import custom
from .custom_diffusion import CUSTOM_DIFFUSION
from .demo import DEMO
from .dreambench_plus import DREAMBENCH_PLUS, DREAMBENCH_PLUS_DEFT
from .dreambooth import DREAMBOOTH
from .judges_2026 import JUDGES_2026
from .peft import PEFT

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        DREAMBOOTH,
        DREAMBENCH_PLUS,
        DREAMBENCH_PLUS_DEFT,
        CLIP_IMAGE,
        CUSTOM_DIFFUSION,
        PEFT,
        JUDGES_2026,
        DEMO,
    )
}

__all__ = ["PROTOCOLS", "Measure", "Protocol", "custom", "get_protocol", "those_that"]


def get_protocol(name: str) -> Protocol:
    """The protocol of that name. Raises ValueError that lists the known ones."""
    if name not in PROTOCOLS:
        raise ValueError(f"there is no scoring protocol {name!r}; known are {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]


def those_that(suit: Callable[[Protocol], object]) -> str:
    """What to choose, for an error message: the protocols that suit, and custom, which measures what it has models for.

    Such as "dreambooth, demo or custom".
    """
    names = ", ".join(name for name, protocol in PROTOCOLS.items() if suit(protocol))
    return f"{names} or custom" if names else "custom"
