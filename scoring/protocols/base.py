"""What a scoring protocol fixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..backbones import BackboneSpec


@dataclass(frozen=True)
class Protocol:
    """Backbones, pairing and scale. CLIP gives CLIP-I and CLIP-T; a backbone that is None leaves its metric out.

    about: a sentence for the user.
    pairing: `all` compares each image with every reference, `matched` image i with reference i.
    scale: factor on the cosine. truncate: cut texts that are too long (False: an error).
    """

    name: str
    about: str
    pairing: Literal["all", "matched"]
    scale: float
    truncate: bool
    clip: BackboneSpec | None = None
    dino: BackboneSpec | None = None
    dinov2: BackboneSpec | None = None

    @property
    def backbones(self) -> dict[str, BackboneSpec]:
        """The backbones that the protocol has, by kind."""
        return {spec.kind: spec for spec in (self.clip, self.dino, self.dinov2) if spec is not None}
