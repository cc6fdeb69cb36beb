"""The kinds of the linear layers of one network."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kinds:
    """Paths of linear layers by what they are.

    attention: the projections of attention. A layer that holds projections and a feed-forward layer in one is in both.
    cross: those of them where the picture looks at the text: cross attention, or the projections of the text's tokens
    in attention of both together.
    paper: those of them that are called to_q, to_k, to_v and to_out.0 in diffusers, or their fused forms.
    feed_forward: the layers between attention.
    general: whether general rules chose them, since the network's class is not in the table.
    """

    attention: frozenset[str]
    cross: frozenset[str]
    paper: frozenset[str]
    feed_forward: frozenset[str]
    general: bool = False
