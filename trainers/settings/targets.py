"""Which layers of a model an adapter is put on, and with which rank."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ...models.layers import is_linear, is_linear_or_convolution
from . import layer_kinds
from .layer_kinds import Kinds


@dataclass(frozen=True)
class LayerChoice:
    """words: what it takes, for the help page. kinds: the layers, by what they are in the network. rule: which, by
    their class alone, where `kinds` is None. small: with norms (and, for methods that train them, tables of token
    embeddings).
    """

    words: str
    kinds: Callable[[Kinds], frozenset[str]] | None = None
    rule: Callable[[nn.Module], bool] = is_linear
    small: bool = False


# By the name in the widget.
CHOICES: dict[str, LayerChoice] = {
    "attention": LayerChoice("every projection of the attention layers", lambda kinds: kinds.attention),
    "attention without cross-attention": LayerChoice(
        "attention, but not where pictures look at text (PaRa's best choice)",
        lambda kinds: kinds.attention - kinds.cross,
    ),
    "paper (to_q, to_k, to_v, to_out.0)": LayerChoice(
        "the four projections that DEFT's SDXL code trains, or their fused forms", lambda kinds: kinds.paper
    ),
    "attention and feed-forward": LayerChoice(
        "attention and the layers between", lambda kinds: kinds.attention | kinds.feed_forward
    ),
    "all linear": LayerChoice("every linear layer"),
    "all linear and convolution": LayerChoice(
        "every linear layer and every 2-D convolution",
        rule=lambda module: is_linear(module) or (isinstance(module, nn.Conv2d) and module.groups == 1),
    ),
    "everything": LayerChoice(
        "all layers, norms too; for methods that train norms",
        rule=lambda module: is_linear(module) or getattr(module, "groups", 1) == 1,
        small=True,
    ),
}
EVERYTHING = "everything"


def is_small_kind(module: nn.Module) -> bool:
    """Whether the module is a norm with a weight, which has one dimension."""
    return getattr(getattr(module, "weight", None), "ndim", 0) == 1


def choice_of(name: str) -> LayerChoice:
    """The choice of this name. Raises ValueError for an unknown one."""
    if name not in CHOICES:
        raise ValueError(f"Unknown choice of layers {name!r}: choose one of {', '.join(CHOICES)}.")
    return CHOICES[name]


def note_of(root: nn.Module, preset: str) -> str:
    """A note for the user on layers that were chosen by general rules; empty if there is nothing to note."""
    kinds = layer_kinds.kinds_of(root)
    if choice_of(preset).kinds is None or not kinds.general:
        return ""
    return (
        f"{type(root).__name__} is an architecture that this pack does not know: its layers of {preset!r} were found "
        "by "
        "general rules, from their names and structure"
    )


def expression(text: str, what: str) -> re.Pattern[str]:
    """A regular expression from a widget. Raises ValueError if it is none."""
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"The {what} {text!r} is not a regular expression: {error}.") from error


def block_rules(text: str) -> list[tuple[str, range | None]]:
    """The widget "input_blocks.4-8, middle_block": paths of blocks, the last with a number or a range of numbers.

    Raises ValueError for a range that is none.
    """
    rules: list[tuple[str, range | None]] = []
    for item in filter(None, (part.strip() for part in text.replace("\n", ",").split(","))):
        match = re.fullmatch(r"([\w.]*[A-Za-z_]\w*)(?:\.(\d+)(?:-(\d+))?)?", item)
        if match is None:
            raise ValueError(f"The block {item!r} is not understood: write input_blocks, or input_blocks.4-8.")
        path, low, high = match.groups()
        if low is not None and high is not None and int(high) < int(low):
            raise ValueError(f"The block range {item!r} is empty: write the smaller number first.")
        rules.append((path, None if low is None else range(int(low), int(high or low) + 1)))
    return rules


def in_blocks(name: str, rules: list[tuple[str, range | None]]) -> bool:
    """Whether a layer lies in one of the blocks; in all of them if there are no rules."""
    for path, numbers in rules:
        if name != path and not name.startswith(f"{path}."):
            continue
        number = name.removeprefix(f"{path}.").partition(".")[0]
        if numbers is None or (number.isdigit() and int(number) in numbers):
            return True
    return not rules


def rank_rules(text: str) -> list[tuple[re.Pattern[str], int]]:
    """The widget "pattern = rank", one a line; the first that finds a layer counts. Raises ValueError for others."""
    rules = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        pattern, equals, rank = line.rpartition("=")
        if not equals or not rank.strip().isdigit() or int(rank) < 1:
            raise ValueError(f"The rank rule {line!r} is not understood: write a pattern, '=', and a rank: attn2 = 4.")
        rules.append((expression(pattern.strip(), "pattern of a rank rule"), int(rank)))
    return rules


def rank_of(name: str, rank: int, rules: list[tuple[re.Pattern[str], int]], largest: int | None = None) -> int:
    """The rank of a layer: of the first rule that finds it, else `rank`; at most `largest`, at least 1."""
    chosen = next((value for pattern, value in rules if pattern.search(name)), rank)
    return chosen if largest is None else max(1, min(chosen, largest))


def is_table(name: str, module: nn.Module) -> bool:
    """Whether the module is a table of token embeddings; those of positions are not looked up but added whole."""
    return isinstance(module, nn.Embedding) and not name.endswith("position_embedding")


def select(
    root: nn.Module, preset: str, pattern: str = "", exclude: str = "", blocks: str = "", tables: bool = False
) -> dict[str, nn.Module]:
    """The layers of `root` by path that the preset takes and, if given, `pattern` finds, `exclude` does not and
    `blocks` has. `tables`: where norms are taken, so are tables of token embeddings.

    Raises:
        ValueError: an unknown preset, a pattern that is no regular expression, blocks that are none, no layer left.
    """
    keep, drop = expression(pattern, "layer pattern"), expression(exclude, "exclude pattern")
    rules = block_rules(blocks)
    choice = choice_of(preset)
    named = None if choice.kinds is None else choice.kinds(layer_kinds.kinds_of(root))
    layers = {
        name: module
        for name, module in root.named_modules()
        if (
            is_linear_or_convolution(module)
            and (choice.rule(module) if named is None else name in named)
            or choice.small
            and (is_small_kind(module) or (tables and is_table(name, module)))
        )
        and keep.search(name)
        and not (exclude and drop.search(name))
        and in_blocks(name, rules)
    }
    note = note_of(root, preset)
    if not layers:
        kinds = sorted(
            {name.rpartition(".")[2] for name, module in root.named_modules() if is_linear_or_convolution(module)}
        )
        tops = sorted(
            {name.partition(".")[0] for name, module in root.named_modules() if is_linear_or_convolution(module)}
        )
        limits = "".join(f" and {what} {text!r}" for what, text in (("exclude", exclude), ("blocks", blocks)) if text)
        raise ValueError(
            f"No layer of {type(root).__name__} matches {preset!r} and pattern {pattern!r}{limits}: "
            f"its layers end in {', '.join(kinds[:20])}; its blocks are {', '.join(tops[:20])}."
            + (f" {note}." if note else "")
        )
    if note:
        logging.info(f"{note}.")
    return layers
