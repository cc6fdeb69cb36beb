"""ACE-Step 1.5: diffusers' AceStepTransformer1DModel, which is the original's decoder alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..targets import Target

MODELS = ("ACEStep15",)

_DECODER = "decoder."
_RENAMED = ((".q_proj", ".to_q"), (".k_proj", ".to_k"), (".v_proj", ".to_v"), (".o_proj", ".to_out.0"))


def layers(base: Any, paths: Sequence[str]) -> dict[str, Target]:
    """The decoder's layers by their own names with diffusers' words in them."""
    table: dict[str, Target] = {}
    for path in (path for path in paths if path.startswith(_DECODER)):
        name = path.removeprefix(_DECODER)
        for ours, theirs in _RENAMED:
            name = name.replace(ours, theirs)
        table[name] = path
    return table
