"""Comparison Grid and Fidelity Plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from comfy_api.v0_0_2 import io, ui
from PIL import Image

from ..scoring.metrics import METRICS
from ..scoring.pictures import TensorPictures
from ..scoring.scores import Scores, join
from .output import (
    MAX_ROWS,
    as_image,
    file_name,
    in_order,
    lines,
    listed,
    png,
    save_files,
    save_pngs,
    scores_input,
    warned,
    workflow_info,
)
from .sockets import ScoresSocket

if TYPE_CHECKING:
    from ..reports.grid import GridRow


class DEFTComparisonGrid(io.ComfyNode):
    """The node that shows pictures of several methods side by side."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: pictures and scores by row, and the looks of the grid."""
        return io.Schema(
            node_id="DEFTComparisonGrid",
            display_name="Comparison Grid",
            category="DEFT/scoring",
            description="Draws image batches as the rows of one labelled picture: methods down, "
            "prompts across, the subject's own pictures at the left, and scores under"
            " the row labels and pictures if connected. Missing pictures are marked "
            "as missing.",
            search_aliases=[
                "image grid",
                "xy plot",
                "compare methods",
                "labelled grid",
                "contact sheet",
                "对比图",
                "网格图",
            ],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.Autogrow.Input(
                    "images",
                    tooltip=(
                        "One image batch per row. A row with fewer images than others ends in cells marked as missing."
                    ),
                    template=io.Autogrow.TemplatePrefix(
                        io.Image.Input("images", tooltip="The images of one row."), prefix="images", min=1, max=MAX_ROWS
                    ),
                ),
                io.String.Input(
                    "row_labels",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip=(
                        "One line for each row, from top to bottom; an additional line is a row "
                        "whose images are all missing. Empty: the labels of the scores, if "
                        "connected."
                    ),
                ),
                io.String.Input(
                    "column_labels",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip=(
                        "One line for each column, from left to right, or for each batch of a "
                        "list; for example the prompts. If a row's scores have the prompt of each"
                        " image and all of them are among these lines, its images go into the "
                        "columns of their prompts; other rows are filled from the left."
                    ),
                ),
                io.Combo.Input(
                    "sizes",
                    options=["same", "fit"],
                    default="same",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "same: all images must have one size. fit: others are scaled into the first one's size, on "
                        "white."
                    ),
                ),
                io.Image.Input("subject", optional=True, tooltip="Pictures of the subject, shown at the left."),
                io.Autogrow.Input(
                    "scores",
                    optional=True,
                    tooltip="Scores of each row, in the order of the rows.",
                    template=io.Autogrow.TemplatePrefix(
                        ScoresSocket.Input("scores", optional=True, tooltip="Scores of one row."),
                        prefix="scores",
                        min=0,
                        max=MAX_ROWS,
                    ),
                ),
                io.Boolean.Input(
                    "scores_under_pictures",
                    default=True,
                    optional=True,
                    tooltip=(
                        "Show each image's own scores under it, if the connected scores have one "
                        "value per image. The means stay under the row labels."
                    ),
                ),
                io.String.Input(
                    "save_pictures",
                    default="",
                    optional=True,
                    tooltip=(
                        "If not empty, each image is also saved by itself into the output folder,"
                        " in full size and with the workflow, under this prefix, its row label "
                        "and its column number, with a counter."
                    ),
                ),
                io.Float.Input(
                    "max_megapixels",
                    default=40.0,
                    min=1.0,
                    max=400.0,
                    step=1.0,
                    optional=True,
                    advanced=True,
                    tooltip=("The grid's maximum size in millions of pixels: the cells are scaled down until it fits."),
                ),
            ],
            outputs=[io.Image.Output("image", tooltip="The grid as one picture.")],
        )

    @classmethod
    def execute(
        cls,
        images: dict[str, list[torch.Tensor]],
        row_labels: tuple[str, ...] = ("",),
        column_labels: tuple[str, ...] = ("",),
        sizes: tuple[str, ...] = ("same",),
        subject: list[torch.Tensor] | None = None,
        scores: dict[str, list[Scores]] | None = None,
        scores_under_pictures: tuple[bool, ...] = (True,),
        save_pictures: tuple[str, ...] = ("",),
        max_megapixels: tuple[float, ...] = (40.0,),
    ) -> io.NodeOutput:
        """Draw, save and preview."""
        from ..reports.arrangement import Placed, Printed, columns_of, compared, row_scores
        from ..reports.grid import comparison_grid
        from ..reports.letters import warning

        given = [TensorPictures(batches, f"row {index + 1}") for index, batches in enumerate(in_order(images))]
        parts = [join(each) for each in in_order(scores)]
        if parts and len(parts) != len(given):
            raise ValueError(
                f"scores: {len(parts)} connected for {len(given)} rows; connect one for each row, or none."
            )
        measured = [row_scores(part, len(row)) for part, row in zip(parts, given, strict=False)]
        labels = lines(row_labels) or [part.label for part in measured]
        titles = repeated(lines(column_labels), [row.sizes for row in given])
        rows: list[GridRow] = list(given)
        cells: list[list[tuple[Printed, ...]]] = [list(part.each) for part in measured]
        base = [part.base for part in measured]
        for index, part in enumerate(measured):
            places = next(filter(None, (columns_of(texts, titles) for texts in part.texts)), None)
            if places:
                rows[index] = Placed(given[index], places)
                cells[index] = [() if place is None or not part.each else part.each[place] for place in places]
        image = as_image(
            comparison_grid(
                rows,
                labels,
                titles,
                [row[0] for row in compared([[part.means] for part in measured], base)],
                TensorPictures(subject or [], "subject"),
                fit=sizes[0] == "fit",
                cell_scores=compared(cells, base) if scores_under_pictures[0] else (),
                max_pixels=round(max_megapixels[0] * 1e6),
            )
        )
        prefix = save_pictures[0].strip()
        written = save_each(prefix, rows, labels, cls) if prefix else []
        names = [score.name for part in measured for score in part.means]
        return io.NodeOutput(
            image,
            ui={**ui.PreviewImage(image).as_dict(), **listed(written), **warned(warning([*labels, *titles, *names]))},
        )


def repeated(titles: list[str], sizes: Sequence[Sequence[int]]) -> list[str]:
    """Column labels once for each picture, where every row is a list of one batch a label and all batches are alike."""
    counts = {count for row in sizes for count in row}
    if len(titles) < 2 or len(counts) != 1 or any(len(row) != len(titles) for row in sizes):
        return titles
    return [title for title in titles for _ in range(max(counts))]


def save_each(prefix: str, rows: Sequence[GridRow], labels: Sequence[str], node: type[io.ComfyNode]) -> list[Path]:
    """Save the pictures of a grid singly as prefix_<row label>_<column number>_00001_.png; the files."""
    names: list[str] = []
    for index in range(len(rows)):
        name = file_name(labels[index] if labels else "") or f"row{index + 1}"
        while name.casefold() in map(str.casefold, names):
            name = f"{name}_{index + 1}"
        names.append(name)

    def each() -> Iterator[tuple[str, Image.Image]]:
        for name, row in zip(names, rows, strict=True):
            for column in range(len(row)):
                picture = row[column]
                if picture is not None:
                    yield f"{name}_{column + 1:02}", picture

    return save_pngs(prefix, each(), workflow_info(node))


class DEFTFidelityPlot(io.ComfyNode):
    """The node that plots two metrics against each other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: scores, the two metrics and the looks of the plot."""
        return io.Schema(
            node_id="DEFTFidelityPlot",
            display_name="Fidelity Plot",
            category="DEFT/scoring",
            description="Likeness to the subject against prompt following, one point per method "
            "with its 95% intervals, to choose between methods.",
            search_aliases=[
                "scatter plot",
                "pareto",
                "trade-off",
                "clip-t against dino",
                "compare methods",
                "confidence interval",
                "散点图",
            ],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                scores_input(),
                io.Combo.Input(
                    "x",
                    options=list(METRICS),
                    default="CLIP-T",
                    optional=True,
                    tooltip="The metric of the horizontal axis. The help page explains each.",
                ),
                io.Combo.Input(
                    "y",
                    options=list(METRICS),
                    default="DINO",
                    optional=True,
                    tooltip=(
                        "The metric of the vertical axis. Methods without one of the two metrics "
                        "are skipped and listed below the plot."
                    ),
                ),
                io.String.Input("title", default="", optional=True, tooltip="Title above the plot."),
                io.String.Input(
                    "filename_prefix",
                    default="",
                    optional=True,
                    tooltip=(
                        "If not empty, the plot is saved into the output folder under this name as .png, with a "
                        "counter."
                    ),
                ),
            ],
            outputs=[io.Image.Output("image", tooltip="The plot as a picture.")],
        )

    @classmethod
    def execute(
        cls,
        scores: dict[str, list[Scores]],
        x: tuple[str, ...] = ("CLIP-T",),
        y: tuple[str, ...] = ("DINO",),
        title: tuple[str, ...] = ("",),
        filename_prefix: tuple[str, ...] = ("",),
    ) -> io.NodeOutput:
        """Draw, write and preview."""
        from ..reports.letters import warning
        from ..reports.scatter import points_of, scatter

        joined = join(part for parts in in_order(scores) for part in parts)
        points, notes = points_of(joined, x[0], y[0])
        drawn = scatter(points, x[0], y[0], title[0], notes)
        prefix = filename_prefix[0].strip()
        written = save_files(prefix, {"png": png(drawn)}) if prefix else []
        image = as_image(drawn)
        lacking = warning([title[0], *(point.label for point in points), *notes])
        return io.NodeOutput(image, ui={**ui.PreviewImage(image).as_dict(), **listed(written), **warned(lacking)})


NODES: list[type[io.ComfyNode]] = [DEFTComparisonGrid, DEFTFidelityPlot]
