"""Score Table and Comparison Grid."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy_api.v0_0_2 import io, ui
from PIL import Image

from ..scoring import tables
from ..scoring.grid import comparison_grid
from ..scoring.scores import METRICS, Scores, join
from .scoring import ScoresSocket, pictures

MAX_ROWS = 32


def as_image(picture: np.ndarray) -> torch.Tensor:
    """uint8 [H, W, 3] -> IMAGE [1, H, W, 3]."""
    return torch.from_numpy(picture).float().div(255)[None]


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)  # mkstemp makes it private
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def png(picture: np.ndarray) -> bytes:
    """uint8 [H, W, 3] -> PNG file."""
    target = BytesIO()
    Image.fromarray(picture).save(target, "PNG", optimize=True)
    return target.getvalue()


def save_files(prefix: str, files: dict[str, bytes]) -> list[Path]:
    """Write files by suffix into the output folder as prefix_00001_.suffix; the counter goes on from what is there.

    Raises ComfyUI's own error for a prefix that leads out of the output folder.
    """
    folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    paths = [Path(folder) / f"{name}_{counter:05}_.{suffix}" for suffix in files]
    for path, data in zip(paths, files.values(), strict=True):
        write_file(path, data)
    return paths


def lines(text: Iterable[str]) -> list[str]:
    """The lines of a multiline widget without empty ones at the end."""
    return "\n".join(text).rstrip().split("\n") if "".join(text).strip() else []


def in_order(grown: dict[str, list[Any]] | None) -> list[list[Any]]:
    """Values of a growing input, each a list, in the order of their sockets (name0, name1, ...)."""
    found = {name: values for name, values in (grown or {}).items() if values is not None}
    return [found[name] for name in sorted(found, key=lambda name: int("".join(filter(str.isdigit, name))))]


class DEFTScoreTable(io.ComfyNode):
    """Many scores side by side."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets and sockets."""
        return io.Schema(
            node_id="DEFTScoreTable",
            display_name="Score Table",
            category="DEFT/scoring",
            description="Puts the scores of several methods into one table, one row a label and the best of each "
                        "metric in bold: as a picture, Markdown, CSV and JSON lines.",
            search_aliases=["compare methods", "results table", "csv", "markdown", "leaderboard", "benchmark"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.Autogrow.Input("scores", tooltip="Scores of Score Images, one socket a method.",
                                  template=io.Autogrow.TemplatePrefix(
                                      ScoresSocket.Input("scores", tooltip="From Score Images."),
                                      prefix="scores", min=1, max=MAX_ROWS)),
                io.String.Input("title", default="", optional=True, tooltip="Title above the table."),
                io.String.Input("filename_prefix", default="", optional=True, tooltip=(
                    "If not empty, the table is saved into the output folder under this name as .png, .md, .csv and "
                    ".jsonl, with a counter.")),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The table as a picture."),
                io.String.Output("markdown", tooltip="The table in Markdown, with the backbones and preprocessing."),
                io.String.Output("csv", tooltip="The table as CSV, with all digits."),
                io.String.Output("jsonl", tooltip="Every score with all of its settings, one JSON object a line."),
            ],
        )

    @classmethod
    def execute(cls, scores: dict[str, list[Scores]], title: tuple[str, ...] = ("",),
                filename_prefix: tuple[str, ...] = ("",)) -> io.NodeOutput:
        """Draw, write and preview."""
        joined = join(part for parts in in_order(scores) for part in parts)
        table = tables.tabulate(joined)
        drawn, markdown = tables.picture(table, title[0]), tables.markdown(table, title[0])
        csv, jsonl = tables.csv_text(table), joined.jsonl()
        if filename_prefix[0].strip():
            save_files(filename_prefix[0].strip(), {"png": png(drawn), "md": markdown.encode(), "csv": csv.encode(),
                                                    "jsonl": jsonl.encode()})
        image = as_image(drawn)
        shown = {**ui.PreviewImage(image).as_dict(), **ui.PreviewText(markdown).as_dict()}
        return io.NodeOutput(image, markdown, csv, jsonl, ui=shown)


class DEFTComparisonGrid(io.ComfyNode):
    """Pictures of several methods side by side."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets and sockets."""
        return io.Schema(
            node_id="DEFTComparisonGrid",
            display_name="Comparison Grid",
            category="DEFT/scoring",
            description="Draws image batches as the rows of one labelled picture: methods down, prompts across, with "
                        "the subject's own pictures at the side and scores under the row labels if connected.",
            search_aliases=["image grid", "xy plot", "compare methods", "labelled grid", "contact sheet"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.Autogrow.Input("images", tooltip="One image batch a row; every row needs as many images.",
                                  template=io.Autogrow.TemplatePrefix(
                                      io.Image.Input("images", tooltip="The images of one row."),
                                      prefix="images", min=1, max=MAX_ROWS)),
                io.String.Input("row_labels", multiline=True, default="", optional=True, tooltip=(
                    "One line for each row, from top to bottom. Empty: the labels of the scores, if connected.")),
                io.String.Input("column_labels", multiline=True, default="", optional=True, tooltip=(
                    "One line for each column, from left to right; for example the prompts.")),
                io.Combo.Input("sizes", options=["same", "fit"], default="same", optional=True, advanced=True, tooltip=(
                    "same: all images must have one size. fit: others are scaled into the first one's size, on "
                    "white.")),
                io.Image.Input("subject", optional=True, tooltip="Pictures of the subject, shown at the left."),
                io.Autogrow.Input("scores", optional=True, tooltip="Scores of each row, in the order of the rows.",
                                  template=io.Autogrow.TemplatePrefix(
                                      ScoresSocket.Input("scores", optional=True, tooltip="Scores of one row."),
                                      prefix="scores", min=0, max=MAX_ROWS)),
            ],
            outputs=[io.Image.Output("image", tooltip="The grid as one picture.")],
        )

    @classmethod
    def execute(cls, images: dict[str, list[torch.Tensor]], row_labels: tuple[str, ...] = ("",),
                column_labels: tuple[str, ...] = ("",), sizes: tuple[str, ...] = ("same",),
                subject: list[torch.Tensor] | None = None,
                scores: dict[str, list[Scores]] | None = None) -> io.NodeOutput:
        """Draw and preview."""
        rows = [pictures(batches, f"row {index + 1}") for index, batches in enumerate(in_order(images))]
        measured = [join(parts) for parts in in_order(scores)]
        if measured and len(measured) != len(rows):
            raise ValueError(f"scores: {len(measured)} connected for {len(rows)} rows; connect one for each row, or "
                             "none.")
        notes = ["\n".join(f"{metric} {part.value(metric):.3f}" for metric in METRICS
                           if any(row.metric == metric for row in part.rows)) for part in measured]
        labels = lines(row_labels) or [part.rows[0].label for part in measured]
        image = as_image(comparison_grid(rows, labels, lines(column_labels), notes, pictures(subject, "subject"),
                                         fit=sizes[0] == "fit"))
        return io.NodeOutput(image, ui=ui.PreviewImage(image))


NODES: list[type[io.ComfyNode]] = [DEFTScoreTable, DEFTComparisonGrid]
