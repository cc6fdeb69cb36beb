"""General rules for networks that the table of architectures lacks: names and classes of modules, and structure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import nn

from .kinds import Kinds

# Parts of a path.
_ATTENTION = re.compile(r"(\w*_)?attn\d?(_\w+)?|(?i:\w*attention\w*)")
_CROSS = re.compile(r"attn2|(\w*_)?cross_?att(n|ention)(_\w+)?|context_block|txt_attn\w*")
_FEED_FORWARD = re.compile(r"(\w+_)?(ff|ffn|mlp|feed_?forward|experts)(_\w+)?|mlp[A-Z]|moe|DenseReluDense")
# Classes of modules. A block has attention in it, and is none.
_ATTENTION_CLASS = re.compile(r"(?i)(?!.*(block|layer|encoder|decoder|model|pool|norm|transformer)).*(attention|attn)")
_FEED_FORWARD_CLASS = re.compile(r"(?i).*(feed_?forward|swiglu|geglu)|(\w*[a-z_0-9])?mlp$")
# What reference trainers leave out wherever they have it.
_SIDES = re.compile(
    r"(?i)\w*(embed|refiner|adapter|connector|modulation|adaln|norm|pool|injector)\w*|(\w+_)?(mod|head)"
    r"|(time|t|motion)_(in|proj\w*|mlp|encoder)|final\w*|last\w*"
)
# The last part, without the numbers and wrappers behind it.
_WRAPPERS = re.compile(r"(\.(\d+|linear|vid|txt|all))+$")
_TO = r"(img_|x_)?(attn_)?(to_|w\d?|in_|proj_|linear_|in_proj_)?"
_QUERY = re.compile(rf"{_TO}(q|query)(_proj|_linear)?")
_KEY = re.compile(rf"{_TO}(k|key)(_proj|_linear)?")
_PROJECTION = re.compile(
    rf"{_TO}(q|k|v|kv|qkv|query|key|value|out|o)(_proj|_linear|_layer|_x)?"
    r"|(img_)?(attn|output|out)(_out|_proj)|proj(_x)?|W(q|kv|qkv)|c_proj|dense"
)
# Projections of the text's tokens where both streams meet in one attention.
_OF_TEXT = re.compile(r"add_\w+|\w*add_out|(txt|text|context|instruct)_\w+|\w+_(t|y)")


def leaf_of(name: str) -> str:
    """The last part of the path that names the layer."""
    return _WRAPPERS.sub("", name).rpartition(".")[2]


def _parents(name: str) -> list[str]:
    """The paths of all modules around a layer, from the outside."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def with_projections(linear: Iterable[str]) -> frozenset[str]:
    """The modules that have a query and a key, or all three in one, among their own layers."""
    kinds_by_parent: dict[str, set[str]] = {}
    for name in linear:
        path = _WRAPPERS.sub("", name)
        parent, _, leaf = path.rpartition(".")
        kinds = kinds_by_parent.setdefault(parent, set())
        kinds.update("q" * bool(_QUERY.fullmatch(leaf)) + "k" * bool(_KEY.fullmatch(leaf)))
        if re.fullmatch(r"\w*qkv\w*", leaf):
            kinds.update("qk")
    return frozenset(parent for parent, kinds in kinds_by_parent.items() if kinds >= {"q", "k"})


def general_kinds(
    root: nn.Module, linear: Mapping[str, nn.Module], sides: bool = False, is_known: bool = False
) -> Kinds:
    """The kinds of the linear layers. `sides`: embedders, refiners, adapters and the like are taken, too. `is_known`:
    the network's class is one whose layers these rules fit.
    """
    modules = dict(root.named_modules())
    projecting = with_projections(linear)
    attention, cross, paper, feed_forward = set(), set(), set(), set()

    def is_attention(path: str) -> bool:
        kind = type(modules[path]).__name__
        return bool(_ATTENTION.fullmatch(path.rpartition(".")[2]) or _ATTENTION_CLASS.match(kind))

    holders = {path for path in modules if path and is_attention(path)} | projecting
    blocks_of_attention = {parent for path in holders for parent in _parents(path)}
    for name in linear:
        parents = _parents(name)
        parts, leaf = name.split("."), leaf_of(name)
        if not sides and any(_SIDES.fullmatch(part) for part in parts):
            continue
        direct = parents[-1] if parents else ""
        if leaf in ("linear1", "linear2"):
            # Beside an attention they are the feed-forward layers; alone they have the attention's projections in them.
            feed_forward.add(name)
            if direct not in blocks_of_attention:
                attention.add(name)
            continue
        by_name = any(is_attention(path) for path in parents) or leaf.startswith("attn_")
        by_structure = _WRAPPERS.sub("", name).rpartition(".")[0] in projecting and bool(_PROJECTION.fullmatch(leaf))
        if by_name or by_structure:
            attention.add(name)
            of_text = bool(_OF_TEXT.fullmatch(leaf)) or parts[-1] == "txt"
            if of_text or any(_CROSS.fullmatch(part) for part in parts):
                cross.add(name)
            if _PROJECTION.fullmatch(leaf) and not of_text:
                paper.add(name)
        elif any(
            _FEED_FORWARD.fullmatch(path.rpartition(".")[2]) or _FEED_FORWARD_CLASS.match(type(modules[path]).__name__)
            for path in parents
        ) or re.fullmatch(r"ff_\w+|\w+_fc\d", leaf):
            feed_forward.add(name)
    return Kinds(
        attention=frozenset(attention),
        cross=frozenset(cross),
        paper=frozenset(paper),
        feed_forward=frozenset(feed_forward),
        general=not is_known,
    )
