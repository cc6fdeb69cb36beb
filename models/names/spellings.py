"""Layer names that other programs make of diffusers' or the original repository's."""

from __future__ import annotations

from collections.abc import Mapping

from .targets import Target, target_function, target_key, target_slice

# musubi-tuner's convert_lora.py turns the underscores of kohya's names into dots, which is right for few of them, and
# mends some words: where one of the marks is in a name, the words get their first dot back as an underscore.
_MENDED = (
    ((".cross.attn.", ".self.attn."), ("cross.attn", "self.attn", "k.img", "v.img")),
    ((".attention.to.", ".feed.forward."), ("to.q", "to.k", "to.v", "to.out", "feed.forward")),
    (("double.blocks.", "single.blocks."), ("double.blocks.", "single.blocks.", "img.", "txt.", "attn.")),
)


def dotted(path: str) -> str:
    """The path of a layer as musubi-tuner's convert_lora.py (--target other) writes it."""
    name = path.replace("_", ".")
    for marks, words in _MENDED:
        if any(mark in name for mark in marks):
            for word in words:
                name = name.replace(word, word.replace(".", "_", 1))
            break
    return name


# The layers that diffusers' fuse_qkv_projections puts together, and the name of the fused one.
_FUSED = (
    (("to_q", "to_k", "to_v"), "to_qkv"),
    (("add_q_proj", "add_k_proj", "add_v_proj"), "to_added_qkv"),
    (("to_k", "to_v"), "to_kv"),
)


def fused(theirs: Mapping[str, Target], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Target]:
    """The names of fused projections in diffusers, where ComfyUI has them in one weight too, side by side."""
    targets: dict[str, Target] = {}
    for name in theirs:
        block, _, last = name.rpartition(".")
        for apart, together in _FUSED:
            names = [f"{block}.{part}" for part in apart]
            if last != apart[0] or not all(part in theirs for part in names):
                continue
            target = _joined([theirs[part] for part in names], shapes)
            if target is not None:
                targets[f"{block}.{together}"] = target
    return targets


def _joined(pieces: list[Target], shapes: Mapping[str, tuple[int, ...]]) -> Target | None:
    """The one slice for neighbouring slices along the rows, or the whole weight if they are all of it."""
    key = target_key(pieces[0])
    first = end = -1
    for piece in pieces:
        part = target_slice(piece)
        if part is None or part[0] != 0 or target_key(piece) != key or target_function(piece) is not None:
            return None
        if first < 0:
            first = end = part[1]
        if part[1] != end:
            return None
        end += part[2]
    shape = shapes.get(key)
    return key if shape is not None and (first, end) == (0, shape[0]) else (key, (0, first, end - first))
