"""The published tables, and the page that sets measured scores beside one of them."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from deft_pack.deft_ops.methods import METHODS
from deft_pack.reports.published_page import html_page, report_page
from deft_pack.scoring.protocols import PROTOCOLS
from deft_pack.scoring.published import PUBLISHED
from deft_pack.scoring.published.base import PublishedTable, plain, split_rank
from deft_pack.scoring.scores import Cost, Score, Scores

ONE, TWO, BASELINES = (
    PUBLISHED[name] for name in ("DEFT supplement, Table 1", "DEFT supplement, Table 2", "DreamBooth, Table 1")
)


def row(
    label: str, values: tuple[float, ...] = (0.8, 0.9), subject: str = "cat", metric: str = "CLIP-I", **changes
) -> Score:
    return replace(
        Score(
            metric,
            values,
            label,
            subject,
            len(values),
            5,
            "clip-image",
            "all",
            1.0,
            "CLIP ViT-B/32 (OpenAI)",
            "resize 224",
            ("a", "b")[: len(values)],
        ),
        **changes,
    )


@pytest.mark.parametrize("table", PUBLISHED.values(), ids=PUBLISHED)
def test_tables_are_whole(table: PublishedTable):
    assert table.source
    assert table.metrics
    assert len(table.oddities) == len(set(table.oddities)) > 0
    assert all(oddity.endswith(".") for oddity in table.oddities)
    scales = {measure.metric: measure.scale for measure in PROTOCOLS[table.protocol].measures}
    assert {scales[metric] for metric in table.metrics} == {table.scale}
    for values in table.values.values():
        assert set(values) <= set(table.metrics)
        assert all(0.1 * table.scale < value < table.scale for value in values.values())
    assert {metric for values in table.values.values() for metric in values} == set(table.metrics)


def test_the_numbers_are_those_of_the_papers():
    """Some cells, and the sums of all columns."""
    assert len(ONE.values) == 27
    assert len(TWO.values) == 8
    assert len(BASELINES.values) == 4
    assert ONE.values["DEFT", 8, "CAT"] == {"CLIP-I": 0.9504}
    assert ONE.values["PaRa", 8, "DOG8"] == {"CLIP-I": 0.8955}
    sums = [
        sum(value["CLIP-I"] for (_, _, name), value in ONE.values.items() if name == subject)
        for subject in ("BEAR_PLUSHIE", "CAT", "DOG8")
    ]
    assert sums == pytest.approx([7.1920, 8.0001, 7.5593], rel=0, abs=5e-5)
    sums = [sum(values[metric] for values in TWO.values.values()) for metric in TWO.metrics]
    assert sums == pytest.approx([623.7291, 550.6873, 639.5095, 285.0825], rel=0, abs=5e-5)
    assert BASELINES.values["Textual Inversion (SD)", None, ""] == {"DINO": 0.569, "CLIP-I": 0.780, "CLIP-T": 0.255}
    assert (ONE.decimals, TWO.decimals, BASELINES.decimals) == (4, 4, 3)


def test_the_numbers_of_pefts_benchmark():
    """Some cells, and the sums over PEFT's own result files before rounding (huggingface/peft at b8bf4075a)."""
    table = PUBLISHED["PEFT, image generation"]
    assert len(table.values) == 9
    assert table.values["LoRA", 64, ""] == {"DINOv2": 0.7431, "drift": 0.2877}
    assert table.values["DoRA", 64, ""]["DINOv2"] == 0.6680
    sums = [sum(values[metric] for values in table.values.values()) for metric in table.metrics]
    assert sums == pytest.approx([6.220945, 2.407744], abs=4e-4)
    methods = ("deft", "para", "lora", "lora", "dora", "loha", "lokr", "oft", "ia3")
    for key, method in zip(table.values, methods, strict=True):
        assert method in METHODS
        assert table.matches(key, "mine", method, key[1] or 8, "")
    made = row("mine", (0.7, 0.71), "", "DINOv2", protocol="peft", pairing="matched", method="lora", rank=64)
    rows = lines_of(report_page(Scores((made,)), table), "DINOv2")
    assert [line for line in rows if line[0] == "LoRA" and line[1] == "64"][0][3:5] == ["0.7431", "mine"]


def test_costs_of_pefts_benchmark_stand_beside_measured_ones():
    """The sums are over PEFT's own result files, before rounding."""
    table = PUBLISHED["PEFT, image generation"]
    assert set(table.costs) == set(table.values)
    costs = table.costs.values()
    assert sum(cost.values for cost in costs) == 341_959_680
    assert sum(cost.bytes for cost in costs) == 1_368_044_312
    assert sum(cost.peak_bytes for cost in costs) == pytest.approx(100_938_022_912, abs=9 * 5e5)
    assert sum(cost.training_seconds for cost in costs) == pytest.approx(10159.195, abs=9 * 0.5)
    own = {"protocol": "peft", "pairing": "matched"}
    made = row("LoRA r32", (0.7, 0.71), "", "DINOv2", **own)
    costs = (
        Cost("LoRA r32", 700.0, 36_372_480, 145 * 2**20, peak_bytes=9000 * 2**20, memory="GPU"),
        Cost("LoRA r32", 720.0, 36_372_480, 145 * 2**20, peak_bytes=9200 * 2**20, memory="GPU", subject="other"),
    )
    page = report_page(Scores((made,), costs), table)
    header = page.split("\n## Costs\n")[1].strip().splitlines()[0]
    titles = [cell.strip() for cell in header.strip("|").split("|")]
    assert titles[3:5] == ["training s, published", "training s, measured"]
    lines = {tuple(line[:2]): line[2:] for line in lines_of(page, "Costs")}
    assert len(lines) == 9
    assert lines["LoRA", "32"] == [
        "LoRA r32",
        *("759", "710"),
        *("38,338,560", "36,372,480"),
        *("146.272", "145.000"),
        *("10,212", "9,100"),
    ]
    assert lines["IA3", ""] == ["not measured", "481", "", "307,200", "", "1.182", "", "9,142", ""]
    assert "## Costs" not in report_page(Scores((row("DEFT r4"),), costs), ONE)


def test_oddities_are_in_the_data():
    for method in ("DEFT", "LoRA"):
        assert TWO.values[method, None, "Kitten 2"] == TWO.values[method, None, "HORSE"]
    assert any("identical" in oddity for oddity in TWO.oddities)
    printed = [value["CLIP-I"] for value in ONE.values.values()]
    assert 0.8838 not in printed
    assert any("0.8838" in oddity for oddity in ONE.oddities)
    numbers = [
        float(number)
        for table in (ONE, TWO)
        for oddity in table.oddities
        for number in re.findall(r"\d+\.\d{4}", oddity)
        if number != "0.8838"
    ]
    published = {value for table in (ONE, TWO) for values in table.values.values() for value in values.values()}
    assert len(numbers) > 10
    assert set(numbers) <= published


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("DEFT r4", ("DEFT", 4)),
        ("deft_rank_16", ("deft", 16)),
        ("DEFT (r=8)", ("DEFT", 8)),
        ("My LoRA-R32", ("My LoRA", 32)),
        ("DEFT", ("DEFT", None)),
        ("bear4", ("bear4", None)),
        ("SDXL 4", ("SDXL 4", None)),
        ("r4", ("r4", None)),
        ("DEFT r4 (one prompt)", ("DEFT", 4)),
        ("DEFT (r=8) (mine)", ("DEFT", 8)),
        ("SVDiff (one prompt)", ("SVDiff", None)),
        ("(one prompt)", ("(one prompt)", None)),
    ],
)
def test_a_label_may_carry_the_rank(label: str, expected: tuple):
    assert split_rank(label) == expected


def test_names_are_compared_by_letters_and_digits():
    assert plain("BEAR_PLUSHIE") == plain("bear plushie") == plain("Bear-Plushie")
    assert plain("TI") == plain("Textual Inversion") == plain("textual_inversion") == plain("Texture Inversion")
    assert plain("Kitten") != plain("Kitten 2")
    assert plain("\u5c0f\u732b") == "\u5c0f\u732b"


@pytest.mark.parametrize(
    ("row_of", "key", "match"),
    [
        (("DEFT r4", "", None, "bear plushie"), ("DEFT", 4, "BEAR_PLUSHIE"), True),
        (("anything", "deft", 4, "Bear-Plushie"), ("DEFT", 4, "BEAR_PLUSHIE"), True),
        (("DEFT r8", "", None, "bear plushie"), ("DEFT", 4, "BEAR_PLUSHIE"), False),
        (("DEFT r8", "deft", 4, "bear plushie"), ("DEFT", 4, "BEAR_PLUSHIE"), True),  # the record knows better
        (("DEFT", "", None, "bear plushie"), ("DEFT", 4, "BEAR_PLUSHIE"), False),
        (("DEFT r4", "", None, "cat"), ("DEFT", 4, "BEAR_PLUSHIE"), False),
        (("DEFT r4", "", None, ""), ("DEFT", 4, "BEAR_PLUSHIE"), False),
        (("TI", "", None, "cat"), ("Textual Inversion", None, "CAT"), True),
        (("Textual Inversion (one prompt)", "", None, "cat"), ("Textual Inversion", None, "CAT"), True),
        (("DEFT r4 (one prompt)", "", None, "cat"), ("DEFT", 4, "CAT"), True),
        (("DEFT r4 (one prompt)", "", None, "cat"), ("DEFT", 8, "CAT"), False),
        (("mine", "svdiff", None, "CAT"), ("SVDiff", None, "CAT"), True),
        (("DEFT r16", "deft", 16, "kitten"), ("DEFT", None, "Kitten"), True),
    ],
)
def test_rows_match_by_method_rank_and_subject(row_of: tuple, key: tuple, match: bool):
    assert ONE.matches(key, *row_of) == match


def lines_of(page: str, metric: str) -> list[list[str]]:
    """The table rows below the heading of a metric, without header and rule."""
    section = page.split(f"\n## {metric}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return rows[2:]


@pytest.fixture
def measured() -> Scores:
    made = {
        "provenance": {
            "weights": {"file": "deft.safetensors", "sha256": "ab12"},
            "versions": {"torch": "2.12.1"},
            "seeds": [1, 2],
        }
    }
    other = {"provenance": made["provenance"] | {"weights": {"file": "lora.safetensors", "sha256": "cd34"}}}
    return Scores(
        (
            row("DEFT r4", **made),
            row("mine", (0.7, 0.76), "bear plushie", method="lora", rank=4, **other),
            row("HyperDream", (0.5, 0.6), **made),
            row("DEFT r4", (0.3,), metric="CLIP-T", texts=("x",), **made),
        )
    )


def test_measured_stand_beside_published(measured: Scores):
    page = report_page(measured, ONE, "My run")
    assert page.startswith("# My run\n")
    assert ONE.source in page
    assert "Warning" not in page
    assert "2 of 27 published rows have a measured one." in page
    rows = lines_of(page, "CLIP-I")
    assert len(rows) == 27 + 1
    assert ["DEFT", "4", "CAT", "0.9280", "DEFT r4", "0.8500 [0.2147, 1.4853]", "-0.0780"] in rows
    assert ["LoRA", "4", "BEAR_PLUSHIE", "0.7741", "mine", "0.7300 [0.3488, 1.1112]", "-0.0441"] in rows
    assert ["SVDiff", "", "DOG8", "0.8363", "not measured", "", ""] in rows
    assert rows[-1] == ["", "", "cat", "not published", "HyperDream", "0.5500 [-0.0853, 1.1853]", ""]
    assert sum(line[4] == "not measured" for line in rows) == 25
    assert "CLIP-T" not in page.split("## How the measured")[0]  # not of this table


def test_oddities_and_how_it_was_made_are_below(measured: Scores):
    page = report_page(measured, ONE)
    assert page.startswith(f"# {ONE.name}\n")
    below = page.split("## Oddities of the published table")[1]
    assert all(f"* {oddity}" in below for oddity in ONE.oddities)
    below = below.split("## How the measured numbers were made")[1]
    assert "* CLIP-I (clip-image): CLIP ViT-B/32 (OpenAI), all pairs, scale 1, resize 224" in below
    assert "* subjects: cat, bear plushie" in below
    assert "* versions: torch 2.12.1\n" in below
    assert (
        "* weights: file deft.safetensors, sha256 ab12 (DEFT r4, HyperDream); file lora.safetensors, sha256 cd34 (mine)"
    ) in below
    assert "* seeds: 1, 2\n" in below


@pytest.mark.parametrize(
    "change", [{"protocol": "demo"}, {"protocol": "dreambench++", "scale": 100.0}, {"scale": 100.0}]
)
def test_another_protocol_or_scale_is_warned_of(change: dict):
    page = report_page(Scores((row("DEFT r4", **change),)), ONE)
    protocol, scale = change.get("protocol", "clip-image"), change.get("scale", 1.0)
    assert (
        f"> **Warning:** CLIP-I was measured under the protocol {protocol} at scale {scale:g}, but the published "
        "table is of clip-image at scale 1."
    ) in page
    assert ["DEFT", "4", "CAT", "0.9280", "DEFT r4", "0.8500 [0.2147, 1.4853]", ""] in lines_of(page, "CLIP-I")


def test_both_readings_of_dreambench_compare_with_its_table():
    bench = {"protocol": "dreambench++", "scale": 100.0}
    deft = {"protocol": "dreambench++-deft", "scale": 100.0}
    scores = Scores((row("DEFT r4", (83.0, 85.0), "kitten", **bench), row("DEFT r8", (80.0, 81.0), "kitten", **deft)))
    page = report_page(scores, TWO)
    assert "was measured under the protocol" not in page
    for name, label, difference in (("", "DEFT r4", "+0.4133"), ("-deft", "DEFT r8", "-3.0867")):
        lines = lines_of(page, f"CLIP-I (dreambench++{name})")
        assert [(line[4], line[-1]) for line in lines if line[-1]] == [(label, difference)]


def test_of_two_protocols_the_right_one_comes_first_without_a_warning():
    both = Scores((row("DEFT r4", protocol="demo"), row("DEFT r4")))
    page = report_page(both, ONE)
    right, wrong = page.index("## CLIP-I (clip-image)"), page.index("## CLIP-I (demo)")
    assert right < wrong < page.index("**Warning:**")
    assert [line[-1] for line in lines_of(page, "CLIP-I (clip-image)") if line[-1]] == ["-0.0780"]
    assert all(line[-1] == "" for line in lines_of(page, "CLIP-I (demo)"))


def test_metrics_that_were_not_measured_are_said_to_be():
    bench = {"protocol": "dreambench++", "scale": 100.0}
    scores = Scores(
        (
            row("DEFT r4", (83.0, 85.0), "kitten", **bench),
            row("DEFT r8", (80.0, 81.0), "kitten", **bench),
            row("LoRA", (74.0,), "stork", texts=("x",), **bench),
        )
    )
    page = report_page(scores, TWO)
    assert "**Warning:** DINO was not measured." in page
    assert len(lines_of(page, "DINO")) == 8
    rows = lines_of(page, "CLIP-I")
    kittens = [line for line in rows if line[0] == "DEFT" and line[2] == "Kitten"]
    assert [line[4:] for line in kittens] == [
        ["DEFT r4", "84.0000 [71.2938, 96.7062]", "+0.4133"],
        ["DEFT r8", "80.5000 [74.1469, 86.8531]", "-3.0867"],
    ]
    assert ["LoRA", "", "Stork", "74.9231", "LoRA", "74.0000", "-0.9231"] in rows


def test_means_over_subjects_are_compared_with_means_over_subjects():
    scores = Scores(
        tuple(
            row("DreamBooth SD", (value, value), subject, "DINO", protocol="dreambooth")
            for value, subject in ((0.6, "dog"), (0.8, "cat"))
        )
    )
    assert lines_of(report_page(scores, BASELINES), "DINO")[2] == [
        "DreamBooth (SD)",
        "",
        "",
        "0.668",
        "DreamBooth SD",
        "0.700 [0.516, 0.884]",
        "+0.032",
    ]
    rows = lines_of(report_page(scores, BASELINES), "CLIP-T")
    assert [line[0] for line in rows] == ["DreamBooth (Imagen)", "DreamBooth (SD)", "Textual Inversion (SD)"]


class Page(HTMLParser):
    """Tags that are open, cells by row, and whether anything leads elsewhere."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_html_says_the_same_and_needs_nothing_else(measured: Scores):
    page = html_page(measured, ONE, "My run")
    parsed = Page(page)
    assert parsed.open == []
    assert parsed.rows[1:] == lines_of(report_page(measured, ONE), "CLIP-I")
    assert not parsed.tags & {"script", "link", "img", "iframe"}
    assert not parsed.attributes & {"src", "href", "onload"}
    assert all(oddity in page for oddity in ONE.oddities[1:3])
    assert "<title>My run</title>" in page
    assert "Warning" not in page
    assert 'class="warning"' in html_page(Scores((row("DEFT r4", protocol="demo"),)), ONE)


def test_html_is_escaped():
    evil = "<script>alert('x')</script> & co"
    page = html_page(Scores((row(evil, provenance={"note": evil}),)), ONE, evil)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4
    assert [line[4] for line in Page(page).rows][-1] == evil


def test_a_long_list_of_seeds_is_cut(measured: Scores):
    many = replace(measured.rows[0], provenance={"seeds": list(range(40))})
    assert "* seeds: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 28 more\n" in report_page(Scores((many,)), ONE)
