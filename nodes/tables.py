"""Score Table and Save Scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
import numpy as np
from comfy_api.v0_0_2 import io, ui
from PIL import Image

from ..deft_ops.files import lock
from ..deft_ops.files.safe import write_files
from ..disk.errors import check_zero, named
from ..scoring.published import PUBLISHED
from ..scoring.scores import Scores, Whole, join, merge, whole_lines
from .output import as_image, in_order, listed, save_files, scores_input, show_text, text_ui

if TYPE_CHECKING:
    from ..reports.tables import Rows

_ROWS: dict[str, Rows] = {"method": "label", "method x subject": "label x subject"}
_NONE = "none"
_PATIENCE = 60.0  # seconds that a table waits for another one with the same score file


def score_file(name: str) -> Path:
    """The .jsonl file of that name in the output folder; the suffix may be missing.

    Raises:
        ValueError: the name leads out of the output folder, names a folder, or has a zero character.
        NotWritten: a name that the system refuses; it is an OSError.
    """
    folder = Path(folder_paths.get_output_directory()).resolve()
    check_zero(folder / name)
    path = (folder / f"{name.removesuffix('.jsonl')}.jsonl").resolve()
    if not path.is_relative_to(folder) or path.name == ".jsonl":
        raise ValueError(
            f"append_to: {name!r} is not a file inside the output folder; write a name such as comparison/scores."
        )
    with named(path):
        path.exists()
    return path


def read_scores(path: Path) -> Whole:
    """The scores of a file, none if there is no file. Raises ValueError that names file and line if none is whole."""
    data = path.read_bytes() if path.exists() else b""
    return whole_lines(data, f"append_to: {path}")


@contextmanager
def alone_at(path: Path | None) -> Iterator[None]:
    """A context in which no other process adds to a score file: what it adds in between would be lost."""
    with ExitStack() as stack:
        if path is not None:
            try:
                stack.enter_context(lock.holding(path.with_name(f".{path.name}.lock"), _PATIENCE))
            except lock.Held as held:
                raise ValueError(
                    f"append_to: {path} has been in use for {_PATIENCE:.0f} s ({held.owner}): run this again when that "
                    "has ended, or choose another file."
                ) from held
            except OSError:  # a folder that cannot be written to: if there is anything to write, that says so
                pass
        yield


def write_scores(path: Path, data: bytes) -> None:
    """Write the score file, if that changes it."""
    if not path.exists() or path.read_bytes() != data:
        write_files(path.parent, {path.name: data})


class DEFTScoreTable(io.ComfyNode):
    """The node that makes a table of many scores."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: scores, and what the table compares and where it goes."""
        return io.Schema(
            node_id="DEFTScoreTable",
            display_name="Score Table",
            category="DEFT/scoring",
            description="Puts the scores of several methods into one table with 95% intervals, as a picture, as texts "
            "and as files. The best of each metric is bold, and values that cannot be distinguished from it are "
            "marked. Can add to the scores of earlier runs and compare with a published table.",
            search_aliases=[
                "compare methods",
                "results table",
                "csv",
                "markdown",
                "latex",
                "leaderboard",
                "benchmark",
                "confidence interval",
                "significance",
                "published results",
                "分数表",
                "方法对比",
            ],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                scores_input(),
                io.String.Input("title", default="", optional=True, tooltip="Title above the table."),
                io.String.Input(
                    "filename_prefix",
                    default="",
                    optional=True,
                    tooltip=(
                        "If not empty, the table is saved into the output folder under this name in every form, with "
                        "a counter. The help page lists the forms."
                    ),
                ),
                io.Combo.Input(
                    "rows",
                    options=list(_ROWS),
                    default="method",
                    optional=True,
                    tooltip=(
                        "method: one row each, averaged over the subjects. method x subject: one row for each subject, "
                        "and the best of each subject in bold."
                    ),
                ),
                io.String.Input(
                    "append_to",
                    default="",
                    optional=True,
                    tooltip=(
                        "A name in the output folder, for example comparison/scores. The scores of earlier runs are "
                        "read from that .jsonl file, the new ones are added and written back, and the table shows all. "
                        "Scores of the same row, prompts and seeds replace the earlier ones. Empty: off."
                    ),
                ),
                io.Combo.Input(
                    "published",
                    options=[_NONE, *PUBLISHED],
                    default=_NONE,
                    optional=True,
                    tooltip=(
                        "A published table to compare the measured numbers with in the report. "
                        "With filename_prefix the report is also saved as .report.html and "
                        ".report.md."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The table as a picture."),
                io.String.Output("markdown", tooltip="The table in Markdown, with the backbones and preprocessing."),
                io.String.Output("csv", tooltip="The table as CSV, with all digits."),
                io.String.Output("jsonl", tooltip="Every score with all of its settings, one JSON object per line."),
                io.String.Output("latex", tooltip="The table in LaTeX, for the booktabs package."),
                io.String.Output(
                    "report",
                    tooltip="What the numbers show, as text; with a published table, the "
                    "comparison with it in Markdown.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, append_to: list[str | None] | tuple[str, ...] = ("",), **_: object) -> Any:
        """The state of the score file: where it was changed since the last run, the node runs again.

        The node's own writing is such a change, so the next run goes through once more; it adds nothing, leaves the
        file as it is, and the runs after it come from the cache. Without a file, and where the name comes through a
        link and is not known here, the node always runs: NaN equals nothing.
        """
        if append_to[0] is None:
            return float("nan")
        name = append_to[0].strip()
        if not name:
            return ""
        try:
            stat = score_file(name).stat()
        except (ValueError, OSError):  # execute raises what is wrong with the name
            return float("nan")
        return f"{stat.st_mtime_ns} {stat.st_size}"

    @classmethod
    def execute(
        cls,
        scores: dict[str, list[Scores]],
        title: tuple[str, ...] = ("",),
        filename_prefix: tuple[str, ...] = ("",),
        rows: tuple[str, ...] = ("method",),
        append_to: tuple[str, ...] = ("",),
        published: tuple[str, ...] = (_NONE,),
    ) -> io.NodeOutput:
        """Merge, draw, write and preview."""
        name = append_to[0].strip()
        path = score_file(name) if name else None
        with alone_at(path):
            return cls.made(scores, title[0], filename_prefix[0].strip(), rows[0], path, published[0])

    @classmethod
    def made(
        cls, scores: dict[str, list[Scores]], title: str, prefix: str, rows: str, path: Path | None, published: str
    ) -> io.NodeOutput:
        """Make the table. path: the score file. Nothing is written before all forms of the table are there."""
        from ..reports.letters import warning
        from ..reports.published_page import html_page, report_page
        from ..reports.tables import FORMS, tabulate

        shown = join(part for parts in in_order(scores) for part in parts)
        earlier = Whole(Scores(()))
        if path is not None:
            earlier = read_scores(path)
            shown = merge(earlier.scores, shown)
        table = tabulate(shown, _ROWS[rows])
        files = {suffix: form(table, title) for suffix, form in FORMS.items()}
        files["jsonl"] = shown.jsonl().encode()
        report = "\n".join(table.findings)
        letters = warning([title, *table.titles, *(row.name + row.subject for row in table.rows), *table.notes])
        lacking = "\n".join([*earlier.problems, *filter(None, [letters])])
        if lacking:
            report += f"\n\n{lacking}"
            show_text(lacking)
        if published != _NONE:
            page = report_page(shown, PUBLISHED[published], title)
            files["report.md"] = page.encode()
            files["report.html"] = html_page(shown, PUBLISHED[published], title).encode()
            report += f"\n\n{page}"
        written = []
        if path is not None:
            written.append(path)
            write_scores(path, files["jsonl"] + b"".join(line + b"\n" for line in earlier.damaged))
        if prefix:
            written += save_files(prefix, files)
        image = as_image(np.array(Image.open(BytesIO(files["png"]))))
        markdown, csv, jsonl, latex = (files[suffix].decode() for suffix in ("md", "csv", "jsonl", "tex"))
        texts = ui.PreviewText(f"{lacking}\n\n{markdown}" if lacking else markdown).as_dict()
        shown_ui = {**ui.PreviewImage(image).as_dict(), **texts, **listed(written)}
        return io.NodeOutput(image, markdown, csv, jsonl, latex, report, ui=shown_ui)


class DEFTSaveScores(io.ComfyNode):
    """The node that writes scores to a file, without a table."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The schema: scores and a file prefix."""
        return io.Schema(
            node_id="DEFTSaveScores",
            display_name="Save Scores",
            category="DEFT/scoring",
            description="Saves scores with all of their settings into the output folder, one JSON object a line, and "
            "draws nothing. For workflows that are run many times: each run writes a file of its own, and "
            "one table is made of all of them later.",
            search_aliases=["jsonl", "json lines", "export scores", "save results", "sweep", "batch", "保存分数"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                scores_input(),
                io.String.Input(
                    "filename_prefix",
                    default="scores/scores",
                    tooltip=(
                        "Folder and name in the output folder; a counter and .jsonl are added, nothing is overwritten."
                    ),
                ),
            ],
            outputs=[io.String.Output("jsonl", tooltip="What was written: one JSON object a line.")],
        )

    @classmethod
    def execute(cls, scores: dict[str, list[Scores]], filename_prefix: list[str]) -> io.NodeOutput:
        """Write one file."""
        joined = join(part for parts in in_order(scores) for part in parts)
        text = joined.jsonl()
        written = save_files(filename_prefix[0].strip(), {"jsonl": text.encode()})
        return io.NodeOutput(text, ui={**text_ui(joined.report()), **listed(written)})


NODES: list[type[io.ComfyNode]] = [DEFTScoreTable, DEFTSaveScores]
