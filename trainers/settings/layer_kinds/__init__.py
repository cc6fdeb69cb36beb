"""Which linear layers of a network are attention and which are feed-forward, by the network's class.

`families.py` has a table with one entry for each architecture, made after what the reference trainers take and leave
out. What is not in it is looked at by the general rules of `general.py`.
"""

from __future__ import annotations

from torch import nn

from ....models.layers import is_linear
from .families import FAMILIES, Family
from .general import general_kinds
from .kinds import Kinds

__all__ = ["FAMILIES", "Family", "Kinds", "family_of", "kinds_of"]

# Modules of ComfyUI's text encoders. They all name their parts alike, so that the general rules are right for them.
_TEXT_ENCODERS = ("comfy.sd1_clip", "comfy.sdxl_clip", "comfy.clip_model", "comfy.text_encoders.")


def family_of(root: nn.Module) -> Family | None:
    """The entry of the table for a network or a class that is made from one of the table's; None if there is none."""
    for base in type(root).__mro__:
        path = f"{base.__module__}.{base.__qualname__}"
        for family in FAMILIES:
            if path in family.classes and (family.when is None or family.when(root)):
                return family
    return None


def is_text_encoder(root: nn.Module) -> bool:
    """Whether the root is one of ComfyUI's text encoders."""
    return any(base.__module__.startswith(_TEXT_ENCODERS) for base in type(root).__mro__)


def kinds_of(root: nn.Module) -> Kinds:
    """Which linear layers of the root are what."""
    linear = {name: module for name, module in root.named_modules() if is_linear(module)}
    family = family_of(root)
    if family is not None:
        return family.kinds(linear)
    text = is_text_encoder(root)
    return general_kinds(root, linear, sides=text, is_known=text)
