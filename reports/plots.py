"""Pictures of an adapter and of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .canvas import pixels, white_canvas
from .letters import figure_font

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BLOCKS = 80  # more rows than this cannot be read
_BLUE, _ORANGE, _GREY = "#3b6ea8", "#d98032", "0.45"


class Block(Protocol):
    """What is drawn of the layers of one block, as convert/inspect.py measures it. None: not known."""

    @property
    def name(self) -> str:
        """The block's name in the weights."""

    @property
    def layers(self) -> int:
        """The number of layers."""

    @property
    def norm(self) -> float:
        """The norm of the values in the file."""

    @property
    def rank(self) -> int | None:
        """The rank in the file."""

    @property
    def ratio(self) -> float | None:
        """The size of the change: |delta W| / |W|."""

    @property
    def effective_rank(self) -> float | None:
        """The effective rank of delta W, a mean over the layers."""


class PlottedAdapter(Protocol):
    """What is drawn of an adapter."""

    @property
    def title(self) -> str:
        """The adapter's method and rank."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The metadata of the file."""

    @property
    def layers(self) -> int:
        """The number of layers."""

    @property
    def matched(self) -> int | None:
        """The number of layers that have a weight in the model; None without a model."""

    @property
    def bases(self) -> Sequence[str]:
        """The names of the base models."""

    @property
    def changes(self) -> Sequence[Any]:
        """The change of the model's weights, by layer; empty without a model."""

    def blocks(self) -> Sequence[Block]:
        """The blocks in the model's order."""


def adapter_picture(info: PlottedAdapter) -> np.ndarray:
    """The blocks of an adapter as bars, uint8 [height, width, 3].

    With numbers of a model: |delta W| / |W| and the effective rank, with the file's rank as a tick. Without: the norm
    of the file's values and the rank.
    """
    measured = bool(info.changes)
    every = info.blocks()
    blocks = _largest(every, measured)
    height = 0.19 * max(len(blocks), 4) + 1.5
    canvas = white_canvas("The plot of an adapter", (10, height), dpi=120, layout="constrained")
    figure = canvas.figure
    title = _title(info)
    figure.suptitle(title, fontproperties=figure_font(title, bold=True), fontsize=12, parse_math=False)
    left, right = figure.subplots(1, 2, sharey=True)
    if measured:
        _bars(left, [block.ratio for block in blocks], _BLUE, "|delta W| / |W| at strength 1")
        label = "effective rank of delta W (mean of layers)"
        _bars(right, [block.effective_rank for block in blocks], _ORANGE, label, [block.rank for block in blocks])
    else:
        _bars(left, [block.norm for block in blocks], _BLUE, "norm of the file's values (no model: no |delta W| / |W|)")
        _bars(right, [block.rank for block in blocks], _ORANGE, "rank in the file")
    left.set_yticks(range(len(blocks)), [_label(block) for block in blocks], fontsize=7, parse_math=False)
    left.set_ylim(len(blocks) - 0.4, -0.6)  # the first block at the top
    shown = f"{len(blocks)} largest of {len(every)} blocks" if len(blocks) < len(every) else f"{len(blocks)} blocks"
    left.set_ylabel(f"{shown} (layers)", fontsize=8)
    return pixels(canvas)


def _largest(blocks: Sequence[Block], measured: bool) -> list[Block]:
    """The blocks that fit, in their order."""

    def size(block: Block) -> float:
        return (block.ratio or 0.0) if measured else block.norm

    kept = sorted(blocks, key=size, reverse=True)[:MOST_BLOCKS]
    return [block for block in blocks if block in kept]


def _title(info: PlottedAdapter) -> str:
    name = info.metadata.get("modelspec.title") or info.metadata.get("ss_output_name") or ""
    where = f", {info.matched} of {info.layers} layers on {' and '.join(info.bases)}" if info.bases else ""
    return f"{f'{name}: ' if name else ''}{info.title}{where or f', {info.layers} layers'}"


def _label(block: Block) -> str:
    """The block's name, its end if it is long, and its layers."""
    name = block.name if len(block.name) <= 40 else f"...{block.name[-37:]}"
    return f"{name} ({block.layers})"


def _bars(
    axes: Axes, values: Sequence[float | None], colour: str, label: str, ranks: Sequence[int | None] = ()
) -> None:
    """Draw horizontal bars with their values, and ticks at the ranks; a value that is None or not finite has none."""
    finite = [(row, float(value)) for row, value in enumerate(values) if value is not None and math.isfinite(value)]
    limits = {row: rank for row, rank in enumerate(ranks) if rank is not None}
    axes.barh([row for row, _ in finite], [value for _, value in finite], color=colour, height=0.7)
    for row, value in finite:
        place = max(value, limits.get(row, 0))
        axes.annotate(f"  {value:.3g}", (place, row), va="center", fontsize=6, color=_GREY)
    if limits:
        axes.plot(list(limits.values()), list(limits), "|", color="black", markersize=8, label="rank in the file")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=7, frameon=False, borderaxespad=0)
    axes.margins(x=0.12)
    axes.set_xlabel(label, fontsize=8, parse_math=False)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def training_picture(losses: Sequence[float], rates: Sequence[float], title: str = "") -> np.ndarray:
    """The loss of each step and its moving average, uint8 [height, width, 3]; the learning rate beside if it changes.

    NaN is a step that is not known: a gap. rates may be shorter than losses: those of a resumed run's own steps.
    """
    canvas = white_canvas("The plot of the loss", (8, 4.5), dpi=120, layout="constrained")
    figure = canvas.figure
    axes = figure.subplots()
    steps = np.arange(1, len(losses) + 1)
    axes.plot(steps, losses, color="0.8", linewidth=0.7, label="loss")
    axes.plot(steps, smoothed(losses), color=_BLUE, linewidth=1.6, label="moving average")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(color="0.93")
    axes.set_axisbelow(True)
    if len({rate for rate in rates if not math.isnan(rate)}) > 1:
        second = axes.twinx()
        second.plot(steps[len(steps) - len(rates) :], rates, color=_ORANGE, linewidth=1, label="learning rate")
        second.set_ylabel("learning rate", color=_ORANGE)
        second.set_ylim(bottom=0)
    figure.suptitle(title, fontproperties=figure_font(title), fontsize=10, parse_math=False)
    axes.legend(loc="upper right", fontsize=8, frameon=False)
    return pixels(canvas)


def smoothed(values: Sequence[float]) -> np.ndarray:
    """The mean over a window of a twentieth of the values (5 at least) that ends at each of them.

    NaN values are left out; the mean of nothing else is NaN.
    """
    window = max(5, len(values) // 20)
    given = np.asarray(values, dtype=np.float64)
    is_number = ~np.isnan(given)
    sums = np.cumsum(np.concatenate([[0.0], np.where(is_number, given, 0.0)]))
    counts = np.cumsum(np.concatenate([[0], is_number]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    count = counts[ends] - counts[starts]
    means: np.ndarray = np.where(count > 0, (sums[ends] - sums[starts]) / np.maximum(count, 1), np.nan)
    return means
