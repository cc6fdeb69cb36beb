"""{a|b} in texts: refused, or drawn once for each cell from the plan's seed, from both forms of a workflow alike."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from deft_pack.sweeps.cells import Compiler
from deft_pack.sweeps.facts import Facts
from deft_pack.sweeps.files import Files
from deft_pack.sweeps.launch import compiled
from deft_pack.sweeps.plan import read_plan
from deft_pack.sweeps.planned import Cells
from deft_pack.sweeps.store import Store

INFO = json.loads((Path(__file__).parent / "conversion" / "object_info.json").read_text())
COLORS = "axes: {color: {into: Paint.color, range: {from: 1, to: %d}}}\n"
RAW = "a {red|{dark|light} green} {cat|dog} // a remark\nsee http://x.org"


def saved_node(number: int, kind: str, title: str, values: list[Any], slot: str = "", **more: Any) -> dict[str, Any]:
    inputs = [{"name": slot, "type": "*", "link": more.pop("link")}] if slot else []
    return {"id": number, "type": kind, "title": title, "mode": 0, "properties": {}, "inputs": inputs} | {
        "outputs": [{"name": "x", "type": "*", "links": [number]}] if number in (1, 3) else [],
        "widgets_values": values,
    }


def in_ui_form(text: str) -> dict[str, Any]:
    nodes = [
        saved_node(1, "CLIPTextEncode", "Prompt", [text]),
        saved_node(2, "PreviewAny", "Show", [], "source", link=1),
        saved_node(3, "EmptyImage", "Paint", [64, 64, 1, 0]),
        saved_node(4, "SaveImage", "Save", ["x"], "images", link=3),
    ]
    links = [[1, 1, 0, 2, 0, "CONDITIONING"], [3, 3, 0, 4, 0, "IMAGE"]]
    return {"version": 0.4, "last_node_id": 4, "nodes": nodes, "links": links}


def in_api_form(text: str) -> dict[str, Any]:
    """The same with its text as it is written; the page's own export would have drawn from it."""
    nodes = {
        "1": ("CLIPTextEncode", "Prompt", {"text": text}),
        "2": ("PreviewAny", "Show", {"source": ["1", 0]}),
        "3": ("EmptyImage", "Paint", {"width": 64, "height": 64, "batch_size": 1, "color": 0}),
        "4": ("SaveImage", "Save", {"images": ["3", 0], "filename_prefix": "x"}),
    }
    return {
        key: {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}
        for key, (kind, title, inputs) in nodes.items()
    }


def cells_of(folder: Path, workflow: dict[str, Any], text: str) -> tuple[Compiler, Cells]:
    """The cells of a plan as `plan` and `run` make them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "w.json").write_text(json.dumps(workflow))
    (folder / "plan.yaml").write_text(f"name: p\nworkflow: w.json\n{text}")
    store = Store.open(folder / "store", "p")
    return compiled(read_plan(folder / "plan.yaml"), Facts(INFO, {}, []), store, Files())


def drawn(folder: Path, workflow: dict[str, Any], text: str) -> dict[str, str]:
    """Key -> text of each cell, in order."""
    compiler, cells = cells_of(folder, workflow, text)
    return {cell.key: compiler.prompt_of(cell)["1"]["inputs"]["text"] for cell in cells.pictures}


def test_each_cell_draws_once(tmp_path: Path) -> None:
    """Every time the same, in either form; each option is drawn as often as its place lets it."""
    plan = COLORS % 400 + "choice_seed: 3\n"
    first = drawn(tmp_path, in_ui_form(RAW), plan)
    assert len(first) == 400
    assert list(first.items()) == list(drawn(tmp_path, in_ui_form(RAW), plan).items())
    assert list(first.items()) == list(drawn(tmp_path / "api", in_api_form(RAW), plan).items())
    counts = Counter(first.values())
    assert set(counts) == {
        f"a {color} {animal} \nsee http:" for color in ("red", "dark green", "light green") for animal in ("cat", "dog")
    }
    for text, count in counts.items():  # 100 and 50 are expected; five standard deviations
        assert abs(count - (100 if " red " in text else 50)) < 45, text
    other = drawn(tmp_path / "other", in_ui_form(RAW), COLORS % 400 + "choice_seed: 4\n")
    same = sum(one == another for one, another in zip(first.values(), other.values()))
    assert 30 < same < 170  # 3/16 of 400 by chance


def test_a_cell_stays_when_the_plan_grows(tmp_path: Path) -> None:
    """More values, other labels, another order, an axis that sets nothing: earlier cells keep their texts."""
    few = drawn(tmp_path / "few", in_ui_form(RAW), COLORS % 5 + "choice_seed: 3\n")
    more = drawn(tmp_path / "more", in_ui_form(RAW), COLORS % 9 + "choice_seed: 3\n")
    assert few.items() <= more.items()
    axes = "axes: {paint: {into: Paint.color, values: {e: 5.0, d: 4, c: 3, b: 2, a: 1}}, none: {values: {x: {}}}}\n"
    assert drawn(tmp_path / "labels", in_ui_form(RAW), axes + "choice_seed: 3\n") == few


def test_what_the_plan_writes_is_drawn_from_too(tmp_path: Path) -> None:
    """Texts and placeholders of the plan, in both forms, but only in inputs whose texts the page reads."""
    plan = (
        "axes:\n"
        "  text: {into: Prompt.text, values: ['{%colors%} // x', 'plain', '\\{a|b\\}']}\n"
        "  colors: ['red|green']\n"
        "  number: {into: Paint.color, range: {from: 1, to: 12}}\n"
        "set: {Save.filename_prefix: '{a|b}//c'}\n"
        "choice_seed: 1\n"
    )
    for folder, workflow in (("ui", in_ui_form("no")), ("api", in_api_form("no"))):
        compiler, cells = cells_of(tmp_path / folder, workflow, plan)
        prompts = [compiler.prompt_of(cell) for cell in cells.pictures]
        assert {prompt["1"]["inputs"]["text"] for prompt in prompts} == {"red ", "green ", "plain", "{a|b}"}
        assert {prompt["4"]["inputs"]["filename_prefix"] for prompt in prompts} == {"{a|b}//c"}


def test_without_a_seed_nothing_is_drawn(tmp_path: Path) -> None:
    """A saved workflow's open choice is refused; an API file and the plan's texts are sent as they are written."""
    with pytest.raises(ValueError, match=r"Prompt \(1\): `text` has the choice .* by `choice_seed` in the plan"):
        cells_of(tmp_path, in_ui_form(RAW), COLORS % 2)
    assert set(drawn(tmp_path / "api", in_api_form(RAW), COLORS % 2).values()) == {RAW}
    plan = "set: {Prompt.text: 'x {a|b} // c'}\n"
    assert set(drawn(tmp_path / "plan", in_ui_form("no // c"), plan).values()) == {"x {a|b} // c"}
    assert set(drawn(tmp_path / "one", in_ui_form("{one} // c"), COLORS % 2).values()) == {"one "}
