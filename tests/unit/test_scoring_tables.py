"""Tables of scores in all their forms."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from deft_pack.reports.reference import is_base
from deft_pack.reports.tables import FORMS, TableCell, pivot, tabulate, text_table
from deft_pack.reports.tables.html import fragment
from deft_pack.reports.tables.latex import escape
from deft_pack.reports.tables.picture import BAND, laid_out, picture
from deft_pack.reports.tables.table import DOWN, UP
from deft_pack.scoring.scores import Cost, Score, Scores, join


def row(label: str, metric: str, values: tuple[float, ...], **changes) -> Score:
    base = Score(metric, values, label, "dog", len(values), 5, "dreambooth", "all", 1.0, "DINO ViT-S/16", "resize 256")
    return replace(base, **changes)


def markdown(scores: Scores, title: str = "", rows: str = "label") -> str:
    return FORMS["md"](tabulate(scores, rows), title).decode()


def csv_rows(scores: Scores) -> list[list[str]]:
    return list(csv.reader(io.StringIO(FORMS["csv"](tabulate(scores), "").decode())))


def latex(scores: Scores, title: str = "") -> str:
    return FORMS["tex"](tabulate(scores), title).decode()


@pytest.fixture
def results() -> Scores:
    return join(
        [
            Scores((row("base", "DINO", (0.2, 0.4)), row("base", "CLIP-T", (0.31, 0.33)))),
            Scores(
                (
                    row("DEFT|r4", "DINO", (0.7, 0.6)),
                    row("DEFT|r4", "CLIP-T", (0.3,)),
                    row("DEFT|r4", "DINO", (0.8,), subject="cat"),
                )
            ),
        ]
    )


@pytest.fixture
def three() -> Scores:
    """Eight prompts of very different difficulty: B is as good as A, C is worse on every prompt."""
    prompts = tuple(f"prompt {place}" for place in range(8))
    easy = np.linspace(0.1, 0.9, 8)
    around = 0.02 * np.array([1, -1, 1, -1, -1, 1, -1, 1])
    return Scores(
        tuple(
            row(label, "CLIP-I", tuple(values.tolist()), texts=prompts)
            for label, values in (("C", easy - 0.05), ("A", easy + 0.001), ("B", easy + around))
        )
    )


def test_means_are_over_images_and_one_rival_has_no_best(results: Scores):
    table = tabulate(results)
    assert [column.title for column in table.columns] == ["CLIP-T", "DINO"]
    assert [line.name for line in table.rows] == ["base", "DEFT|r4"]
    assert [line.images for line in table.rows] == [2, 3]
    assert table.leading == ("method", "images")
    means = [[cell.mean for cell in line.cells] for line in table.rows]
    assert means == [pytest.approx((0.32, 0.3)), pytest.approx((0.3, 0.7))]
    assert [[cell.best for cell in line.cells] for line in table.rows] == [[False, False], [False, False]]
    assert [line.base for line in table.rows] == [True, False]
    assert [[cell.count for cell in line.cells] for line in table.rows] == [[2, 2], [1, 3]]


def test_intervals_hold_the_mean_and_are_none_for_one_value(results: Scores):
    cells = [cell for line in tabulate(results).rows for cell in line.cells]
    assert [cell.low is None for cell in cells] == [False, False, True, False]
    assert all(cell.low <= cell.mean <= cell.high for cell in cells if cell.low is not None)
    half = 12.706205 * 0.1  # t of one degree of freedom, the standard error of 0.2 and 0.4
    assert (cells[1].low, cells[1].high) == pytest.approx((0.3 - half, 0.3 + half))


def test_markdown(results: Scores):
    assert markdown(results, "Dog").splitlines() == [
        "### Dog",
        "",
        "| method | images | CLIP-T \u2191 | DINO \u2191 |",
        "|---|---:|---:|---:|",
        "| base | 2 | 0.320 [0.193, 0.447] | 0.300 [-0.971, 1.571] |",
        "| DEFT\\|r4 | 3 | 0.300 | 0.700 [-0.147, 1.547] |",
        "",
        "* In brackets: 95% interval of the mean.",
        "* CLIP-T: DEFT|r4 is lower than base, but there are too few pictures for an interval.",
        "* DINO: DEFT|r4 is not distinguishable from base (95% interval of the difference contains 0).",
        "* Intervals over fewer than 5 prompts are wide, however many pictures each has: more prompts help most.",
        "",
        "* CLIP-T (dreambooth): DINO ViT-S/16, all pairs, scale 1, resize 256",
        "* DINO (dreambooth): DINO ViT-S/16, all pairs, scale 1, resize 256",
    ]


def test_ties_are_found_in_pairs(three: Scores):
    """The prompts differ by far more than the methods do; only pairs can tell C from A."""
    table = tabulate(three)
    assert [(line.cells[0].best, line.cells[0].tied) for line in table.rows] == [
        (False, False),
        (True, False),
        (False, True),
    ]
    assert table.findings[0] == (
        "CLIP-I: A is best; B is not distinguishable from it (p >= 0.05 of the paired differences, corrected for 2 "
        "comparisons (Holm))."
    )
    assert "| B | 8 | ~0.500 [" in markdown(three)
    assert "~: not distinguishable from the best." in table.legend
    assert "B & 8 & $\\sim$0.500 {\\scriptsize [" in latex(three)
    unpaired = replace(three, rows=(replace(three.rows[0], texts=("other",) * 8), *three.rows[1:]))
    table = tabulate(unpaired)
    assert [line.cells[0].tied for line in table.rows] == [True, False, True]
    assert table.findings[0] == (
        "CLIP-I: A has the best mean, but nothing is distinguishable from it (p >= 0.05 of the differences, corrected "
        "for 2 comparisons (Holm)). The intervals are unpaired, as the prompts or the numbers of pictures differ, for "
        "C."
    )


def test_findings_of_clear_and_missing_cases(three: Scores):
    worse = replace(three.rows[0], label="D", values=tuple(value - 0.1 for value in three.rows[0].values))
    assert tabulate(Scores((*three.rows[:2], worse))).findings[0] == (
        "CLIP-I: A is best, distinguishable from every other row (p < 0.05 of the paired differences, corrected for 2 "
        "comparisons (Holm))."
    )
    one = row("E", "CLIP-I", (0.1,))
    assert tabulate(Scores((*three.rows, one))).findings[0].endswith("Too few pictures for an interval: E.")
    lonely = tabulate(Scores((three.rows[0],)))
    assert lonely.findings == ("There is nothing to compare: no metric has values of two rows.",)
    assert not lonely.rows[0].cells[0].best


def test_single_pictures_tie_only_where_they_are_equal():
    table = tabulate(Scores(tuple(row(label, "DINO", (value,)) for label, value in zip("abc", (0.5, 0.4, 0.5)))))
    assert [(line.cells[0].best, line.cells[0].tied) for line in table.rows] == [
        (True, False),
        (False, False),
        (False, True),
    ]


@pytest.mark.parametrize(("metric", "best"), [("drift", "low"), ("PRES", "low"), ("DIV", "high"), ("my model", "high")])
def test_the_good_direction_is_the_metrics_own(metric: str, best: str):
    table = tabulate(Scores((row("low", metric, (0.1, 0.11)), row("high", metric, (0.5, 0.51)))))
    assert [line.name for line in table.rows if line.cells[0].best] == [best]
    assert table.findings[0].startswith(f"{metric}: {best} is best")
    assert table.notes[0].endswith("lower is better") == (best == "low")


def test_columns_are_in_the_order_of_the_metrics():
    names = ["my model", "drift", "DINOv2", "CLIP-I"]
    assert [column.title for column in tabulate(Scores(tuple(row("a", name, (0.1,)) for name in names))).columns] == [
        "CLIP-I",
        "DINOv2",
        "drift",
        "my model",
    ]


def test_rows_of_rank_and_method():
    table = tabulate(
        Scores(
            (
                row("DEFT", "DINO", (0.5, 0.6), method="deft", rank=4),
                row("DEFT", "DINO", (0.1, 0.2), method="deft", rank=8),
                row("", "DINO", (0.3, 0.4), method="para", rank=4),
                row("", "DINO", (0.2, 0.3)),
            )
        )
    )
    assert table.leading == ("method", "rank", "images")
    assert [table.lead(line) for line in table.rows] == [
        ["DEFT", "4", "2"],
        ["DEFT", "8", "2"],
        ["para", "4", "2"],
        ["images", "", "2"],
    ]
    assert table.findings[0].startswith("DINO: DEFT r4 is best")


def test_one_label_of_two_methods_is_two_rows():
    table = tabulate(Scores((row("mine", "DINO", (0.5,), method="deft"), row("mine", "DINO", (0.6,)))))
    assert [line.name for line in table.rows] == ["mine (deft)", "mine (method unknown)"]


def test_rows_by_subject_have_a_best_each():
    scores = Scores(
        tuple(
            row(label, "DINO", values, subject=subject)
            for label, subject, values in (
                ("A", "dog", (0.5, 0.6)),
                ("A", "cat", (0.1, 0.2)),
                ("B", "dog", (0.3, 0.4)),
                ("B", "cat", (0.7, 0.8)),
            )
        )
    )
    table = tabulate(scores, "label x subject")
    assert table.leading == ("method", "subject", "images")
    assert [(line.name, line.subject, line.cells[0].best) for line in table.rows] == [
        ("A", "dog", True),
        ("A", "cat", False),
        ("B", "dog", False),
        ("B", "cat", True),
    ]
    assert [text.split(" is best")[0] for text in table.findings[:2]] == ["DINO of dog: A", "DINO of cat: B"]
    assert "| method | subject | images | DINO \u2191 |\n|---|---|---:|---:|\n| A | dog | 2 |" in markdown(
        scores, rows="label x subject"
    )
    assert len(tabulate(scores).rows) == 2


def test_csv_has_mean_and_interval_with_all_digits(results: Scores):
    rows = csv_rows(results)
    assert rows[0] == ["method", "images", "CLIP-T", "CLIP-T low", "CLIP-T high", "DINO", "DINO low", "DINO high"]
    assert rows[2][:5] == ["DEFT|r4", "3", "0.3", "", ""]
    cell = tabulate(results).rows[1].cells[1]
    assert [float(value) for value in rows[2][5:]] == [cell.mean, cell.low, cell.high]


def test_costs_are_columns_where_they_are_known(results: Scores):
    measured = [Cost("DEFT|r4", 10.0, 1000, 2**20), Cost("DEFT|r4", None, 3000, 3 * 2**20)]
    with_costs = replace(results, costs=tuple(measured))
    table = tabulate(with_costs)
    assert [line.costs for line in table.rows] == [(None, None, None), (10.0, 2000.0, 2.0)]  # means of what is known
    lines = markdown(with_costs).splitlines()
    assert lines[0] == "| method | images | CLIP-T \u2191 | DINO \u2191 | training s | trained parameters | file MiB |"
    assert lines[1].count("---:|") == 6
    assert lines[2].endswith("|  |  |  |")
    assert lines[3].endswith("| 10 | 2,000 | 2.000 |")
    rows = csv_rows(with_costs)
    assert rows[0][-3:] == ["training s", "values", "MiB"]
    assert rows[1][-3:] == ["", "", ""]
    assert [float(value) for value in rows[2][-3:]] == [10.0, 2000.0, 2.0]
    assert "& 10 & 2,000 & 2.000 \\\\" in latex(with_costs)
    assert picture(table).shape[1] > picture(tabulate(results)).shape[1]


def test_measured_costs_are_columns_where_one_row_has_them(results: Scores):
    measured = Cost("DEFT|r4", 10.0, 1000, 2**20, seconds_a_step=0.25, peak_bytes=3 * 2**30, memory="GPU")
    with_costs = replace(results, costs=(measured, Cost("base", 5.0, 7, 2**20)))
    lines = markdown(with_costs).splitlines()
    assert lines[0].endswith("| training s | trained parameters | file MiB | s a step | peak MiB |")
    assert lines[2].endswith("| 5 | 7 | 1.000 |  |  |")
    assert lines[3].endswith("| 10 | 1,000 | 1.000 | 0.25 | 3,072 |")
    assert "peak MiB, while it was trained: the GPU's memory, as PyTorch allocates it" in markdown(with_costs)
    rows = csv_rows(with_costs)
    assert rows[0][-5:] == ["training s", "values", "MiB", "s a step", "peak MiB"]
    assert [float(value) for value in rows[2][-5:]] == [10.0, 1000.0, 1.0, 0.25, 3072.0]
    on_cpu = Cost("base", None, None, None, peak_bytes=2**30, memory="process")
    notes = tabulate(replace(results, costs=(measured, on_cpu))).notes
    assert any("(DEFT|r4)" in note and "the whole process (base)" in note for note in notes)
    assert tabulate(replace(results, costs=(Cost("base", 5.0, 7, 2**20),))).cost_titles[-1] == "file MiB"


def test_costs_go_to_the_row_of_their_adapter():
    rows = tuple(
        row("DEFT", "DINO", (0.5,), method="deft", rank=rank, subject=subject)
        for rank in (4, 8)
        for subject in ("dog", "cat")
    )
    costs = (
        Cost("DEFT", 1.0, 10, 0, "deft", 4, "dog"),
        Cost("DEFT", 3.0, 10, 0, "deft", 4, "cat"),
        Cost("DEFT", 7.0, 20, 0, "deft", 8),
    )
    scores = Scores(rows, costs)
    assert [line.costs[0] for line in tabulate(scores).rows] == [2.0, 7.0]
    assert [line.costs[0] for line in tabulate(scores, "label x subject").rows] == [1.0, 3.0, 7.0, 7.0]
    several = Scores(rows, (*costs, costs[0], costs[0]))  # Score Images, Score Drift and Score Diversity of one adapter
    assert tabulate(several).rows == tabulate(scores).rows


def test_missing_cells_and_several_protocols(results: Scores):
    more = join([results, Scores((row("PaRa", "DINO", (71.0, 73.0), protocol="dreambench++", scale=100.0),))])
    table = tabulate(more)
    assert [column.title for column in table.columns] == [
        "CLIP-T (dreambooth)",
        "DINO (dreambench++)",
        "DINO (dreambooth)",
    ]
    assert [column.scale for column in table.columns] == [1, 100, 1]
    assert [cell is None for cell in table.rows[2].cells] == [True, False, True]
    assert not table.rows[2].cells[1].best  # nothing to compare with
    assert "| PaRa | 2 |  | 72.00 [59.29, 84.71] |  |" in markdown(more)
    line = csv_rows(more)[3]
    assert line[:6] + line[8:] == ["PaRa", "2", "", "", "", "72.0", "", "", ""]
    # SciPy's quantile of Student's t has 10 right digits before its 1.16.
    assert list(map(float, line[6:8])) == pytest.approx([59.2937952638253, 84.7062047361747], rel=1e-10)


def test_scores_of_different_backbones_do_not_share_a_column(results: Scores):
    other = Scores((row("LoRA", "DINO", (0.5,), backbone="DINO ViT-B/8"),))
    with pytest.raises(ValueError, match="DINO of protocol dreambooth was measured in two ways"):
        tabulate(join([results, other]))
    with pytest.raises(ValueError, match="no scores"):
        tabulate(Scores(()))


def test_remarks_of_the_scores_are_notes(results: Scores):
    assert markdown(replace(results, remarks=("Two texts were cut.",))).endswith("\n* Two texts were cut.\n")


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("a_b & 50% $x^2$ #1", r"a\_b \& 50\% \$x\textasciicircum{}2\$ \#1"),
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("[2] ~ *|<>\n", r"{[}2] \textasciitilde{} {*}\textbar{}\textless{}\textgreater{} "),
    ],
)
def test_latex_escapes(text: str, printed: str):
    assert escape(text) == printed


def test_latex_is_a_booktabs_table(results: Scores):
    hostile = replace(
        results,
        rows=tuple(replace(score, label=score.label + "_{%}") for score in results.rows),
        remarks=("50% \\end{table}",),
    )
    text = latex(hostile, "Dog & cat")
    assert text.splitlines()[1:8] == [
        r"\begin{table}",
        r"\centering",
        r"\caption{Dog \& cat}",
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"method & images & CLIP-T $\uparrow$ & DINO $\uparrow$ \\",
        r"\midrule",
    ]
    assert (
        r"DEFT\textbar{}r4\_\{\%\} & 3 & 0.300 & \textbf{0.700} {\scriptsize [-0.147, 1.547]} \\"
        "\n\\bottomrule" in text
    )
    body = text.split("\n", 1)[1]  # behind the first line, which is a comment, no percent sign may start one
    assert not re.search(r"(?<!\\)%", body)
    assert body.count(r"\end{table}") == 1
    plain = re.sub(r"\\[{}]", "", body)
    assert plain.count("{") == plain.count("}")
    assert latex(results).count(r"\caption") == 0


def several(results: Scores) -> Scores:
    """The base and three methods of several ranks, in disorder."""
    rows = [
        row(f"{method} r{rank}", metric, values, method=method, rank=rank)
        for method, rank, shift in (("deft", 8, 0.1), ("lora", 4, 0.2), ("deft", 4, 0.3))
        for metric, values in (("CLIP-T", (0.1 + shift / 10,) * 4), ("drift", (shift,) * 4))
    ]
    costs = (Cost("deft r8", 9.5, 123_456_789, 2**20, "deft", 8),)
    return join([Scores(tuple(rows), costs), results])


def test_the_base_is_the_reference_and_no_rival(results: Scores):
    table = tabulate(several(results))
    assert [line.name for line in table.rows] == ["base", "deft r4", "lora r4", "deft r8", "DEFT|r4"]
    assert table.apart == 1
    best = {
        column.title: [line.name for line, cell in zip(table.rows, cells) if cell and cell.best]
        for column, cells in zip(table.columns, zip(*(line.cells for line in table.rows)))
    }
    # base follows the prompts best (0.32), and DEFT|r4 with 0.3 is the best of the others.
    assert best == {"CLIP-T": ["DEFT|r4"], "DINO": [], "drift": ["deft r8"]}
    assert not any(cell.tied for cell in table.rows[0].cells if cell)
    findings = [text for text in table.findings if "base" in text]
    assert findings == [
        "CLIP-T: DEFT|r4 is lower than base, but there are too few pictures for an interval.",
        "DINO: DEFT|r4 is not distinguishable from base (95% interval of the difference contains 0).",
    ]
    assert "Bold: the best. The base is the reference and has no rank." in table.legend
    same = [line.cells[0].mean for line in tabulate(results).rows]
    assert [line.cells[0].mean for line in table.rows if line.name in ("base", "DEFT|r4")] == same
    text = latex(several(results)).splitlines()
    rules = [place for place, line in enumerate(text) if line == r"\midrule"]
    assert text[rules[0] + 1].startswith("base &")
    assert rules[1] == rules[0] + 2
    # An adapter is no base, whatever it is called.
    trained = join([results, Scores((row("base", "DINO", (0.9, 0.8), method="lora", rank=4),))])
    assert [line.base for line in tabulate(trained).rows] == [True, False, False]


def test_one_row_and_the_base(three: Scores):
    """C is below A by the same on each of eight prompts; B is above and below."""
    c, a, b = three.rows
    base = replace(a, label="base")
    assert tabulate(Scores((base, c))).findings[0] == (
        "CLIP-I: C is lower than base (95% interval of the paired difference excludes 0)."
    )
    assert tabulate(Scores((base, b))).findings[0] == (
        "CLIP-I: B is not distinguishable from base (95% interval of the paired difference contains 0)."
    )


@pytest.mark.parametrize("label", ["Base", "base model", "The base", "\u5e95\u6a21", "no adapter"])
def test_names_of_the_base(label: str):
    assert is_base(label)
    assert not is_base(label, "deft")
    assert not is_base(f"{label} 2")


def test_titles_stand_over_their_numbers_and_no_text_covers_another(results: Scores):
    table = tabulate(several(results))
    placed, (width, height), edges = laid_out(table, "T" * 20)
    boxes = [one.box for one in placed]
    for place, (left, top, right, bottom) in enumerate(boxes):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        for other in boxes[:place]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
    for column, arrow in enumerate(table.arrows):
        texts = [one for one in placed if one.column == column]
        title = next(one for one in texts if one.row == 0)
        numbers = [one for one in texts if one.row and not one.text.startswith("[") and one.text]
        assert title.text == f"{table.titles[column]} {arrow}".strip()
        side = 0 if table.flush_left[column] else 2
        assert {one.box[side] for one in numbers} == {title.box[side]}
        for one in numbers:
            assert edges[one.row] <= one.box[1] < one.box[3] <= edges[one.row + 1]
    assert dict(zip(table.titles, table.arrows)) == {
        "method": "",
        "rank": "",
        "images": "",
        "CLIP-T": UP,
        "DINO": UP,
        "drift": DOWN,
        "training s": "",
        "trained parameters": "",
        "file MiB": "",
    }


def test_the_base_stands_on_a_band_of_its_own(results: Scores):
    table = tabulate(several(results))
    _, _, edges = laid_out(table)
    drawn = picture(table)
    for row_, (top, bottom) in enumerate(zip(edges, edges[1:])):
        band = (drawn[top + 3 : bottom - 3, 20] == BAND).all()
        assert band == (row_ == 1)


def test_picture_shows_text_and_grows_with_rows(results: Scores):
    table = tabulate(results)
    drawn = picture(table, "Dog $x^2$")
    assert drawn.dtype == np.uint8
    assert drawn.ndim == 3
    assert drawn.shape[2] == 3
    assert (drawn < 128).any()
    assert (drawn[:3] == 255).all()
    tall = picture(tabulate(join([results] + [Scores((row(str(i), "DINO", (0.1,)),)) for i in range(5)])))
    assert tall.shape[0] > drawn.shape[0]
    with Image.open(io.BytesIO(FORMS["png"](table, "Dog $x^2$"))) as saved:
        assert np.array_equal(np.asarray(saved), drawn)


@pytest.mark.parametrize("change", [{"best": True}, {"tied": True}, {"low": None}])
def test_picture_shows_best_ties_and_intervals(results: Scores, change: dict):
    wide = "A note that is wider than the table, so that the picture's width stays the same. " * 3
    table = tabulate(replace(results, remarks=(wide,)))
    first = table.rows[0]
    cells = (replace(first.cells[0], **change), *first.cells[1:])
    drawn, other = (
        picture(one)[: len(table.rows) * 52 + 66]  # header and rows without the legend
        for one in (table, replace(table, rows=(replace(first, cells=cells), *table.rows[1:])))
    )
    assert drawn.shape == other.shape
    assert not np.array_equal(drawn, other)


def test_forms_are_by_suffix(results: Scores):
    table = tabulate(results)
    made = {suffix: form(table, "Dog") for suffix, form in FORMS.items()}
    assert set(made) == {"png", "md", "csv", "tex"}
    assert made["png"].startswith(b"\x89PNG")
    assert all(isinstance(data, bytes) for data in made.values())


def test_pivot(three: Scores):
    """Prompts across: one table a metric, each cell the mean of that prompt's values."""
    scores = Scores(
        tuple(
            replace(score, values=(value,), texts=(text,), images=1)
            for score in three.rows
            for value, text in zip(score.values, score.texts)
        )
        + (row("A", "DINO", (0.3, 0.5), texts=("prompt 1", "prompt 1")),),
        (Cost("A", 1.0, 2, 3),),
        ("a remark",),
    )
    tables = pivot(scores, lambda score: score.texts[0], "who")
    assert list(tables) == ["CLIP-I", "DINO"]
    table = tables["CLIP-I"]
    assert table.titles == ("who", "images", *(f"prompt {place}" for place in range(8)))
    assert [line.images for line in table.rows] == [8, 8, 8]
    assert table.cost_titles == ()
    for line in table.rows:
        values = next(score.values for score in three.rows if score.label == line.name)
        assert [cell.mean for cell in line.cells] == pytest.approx(values)
    assert [[cell.best for cell in line.cells] for line in table.rows][0] == [False] * 8
    assert table.findings[0] == "CLIP-I, prompt 0: B has the best mean, but there are too few pictures for an interval."
    assert table.notes == ("CLIP-I (dreambooth): DINO ViT-S/16, all pairs, scale 1, resize 256", "a remark")
    assert [[cell and (cell.mean, cell.count) for cell in line.cells] for line in tables["DINO"].rows] == [[(0.4, 2)]]
    assert tables["DINO"].titles == ("who", "images", "prompt 1")
    with pytest.raises(ValueError, match="two ways"):
        pivot(Scores((*scores.rows, replace(scores.rows[0], backbone="x"))), lambda score: "")


def test_pivot_cells_without_values_are_empty():
    scores = Scores((row("A", "DINO", (0.1,)), row("B", "DINO", (0.2,), subject="images")))
    table = pivot(scores, lambda score: score.subject)["DINO"]
    assert [[cell and cell.mean for cell in line.cells] for line in table.rows] == [[0.1, None], [None, 0.2]]
    assert table.flush_left == [True, False, False, False]
    assert FORMS["csv"](table, "").decode().splitlines()[1:] == ["A,1,0.1,,,,,", "B,1,,,,0.2,,"]
    assert all(form(table, "title") for form in FORMS.values())


def test_a_table_without_verdicts(three: Scores):
    table = tabulate(three, heading="rank", compare=False)
    assert table.leading == ("rank", "images")
    assert table.legend == "In brackets: 95% interval of the mean."
    assert [line.cells[0].mean for line in table.rows] == [line.cells[0].mean for line in tabulate(three).rows]
    assert not any(cell.best or cell.tied for line in table.rows for cell in line.cells)
    assert table.findings == ()
    assert FORMS["png"](replace(table, notes=(), rows=(replace(table.rows[0], cells=(None,)),)), "")


def test_costs_that_are_not_known_are_empty(results: Scores):
    table = tabulate(replace(results, costs=(Cost("base", 3.0, None, None), Cost("base", 5.0, 7, None))))
    assert [line.costs for line in table.rows] == [(4.0, 7.0, None), (None, None, None)]
    assert [entry.text for entry in list(table.lines)[0][-3:]] == ["4", "7", ""]


def test_html(results: Scores):
    text = fragment(tabulate(replace(results, remarks=("<b> & more",))))
    assert len(re.findall("<tr[ >]", text)) == 3
    assert '<tr class="apart"><td>base</td>' in text
    assert '<td>DEFT|r4</td><td class="number">3</td><td class="number">0.300</td>' in text
    assert "0.320 <small>[0.193, 0.447]</small>" in text
    assert '<th class="number">DINO \u2191</th>' in text
    assert "<li>&lt;b&gt; &amp; more</li>" in text


def test_html_escapes_every_text_of_a_table():
    evil = "<script>alert('x')</script>"
    scores = Scores((row(evil, evil, (0.1, 0.2)), row(f"{evil} 2", evil, (0.3, 0.4), subject=evil)), remarks=(evil,))
    text = fragment(replace(tabulate(scores, "label x subject", heading=evil), findings=(evil,) * 5))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 1 + 2 + 1 + 5 + 1  # heading, names, subject, findings, remark
    assert "<details><summary>5 findings</summary>" in text


def test_a_table_of_texts_takes_every_form():
    """The same structure as a table of scores, so that no page writes tables of its own."""
    table = text_table(["cell", "seconds"], [["a|b", "1"], ["c", TableCell("2", "[1, 3]", bold=True)]], ["seconds"])
    made = {suffix: form(table, "T").decode() for suffix, form in FORMS.items() if suffix != "png"}
    assert made["csv"] == "cell,seconds\na|b,1\nc,2\n"
    assert made["md"].startswith("### T\n\n| cell | seconds |\n|---|---:|\n| a\\|b | 1 |\n| c | **2** [1, 3] |\n")
    assert "c & \\textbf{2} {\\scriptsize [1, 3]} \\\\" in made["tex"]
    assert '<td>c</td><td class="number"><b>2</b> <small>[1, 3]</small></td>' in fragment(table)
    assert FORMS["png"](table, "T").startswith(b"\x89PNG")
