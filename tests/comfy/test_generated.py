"""What is generated is what would be made now: this test names each file that is stale, and the command that makes it.

Texts are made again here and compared. Pictures are not, for they need a browser or a run: what each was made from is
compared, by the mark in its file.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..scripts import load_script


@pytest.fixture(scope="module")
def make_generated() -> Any:
    return load_script("make_generated")


@pytest.fixture(scope="module")
def described(comfyui_session: Any, make_generated: Any) -> Any:
    """The pack as a server would describe it."""
    comfyui = comfyui_session
    nodes = {name: json.loads(json.dumps(node.GET_NODE_INFO_V1())) for name, node in comfyui.pack_nodes.items()}
    replaced = {item.old_node_id: item.new_node_id for item in comfyui.module("nodes.replaced").REPLACED}
    words = load_script("generated").option_words(comfyui.module)
    return make_generated.Pack(nodes, replaced, words)


@pytest.fixture(scope="module")
def stale(described: Any, make_generated: Any) -> list[str]:
    """What is told of the pack as it is."""
    return make_generated.stale(described)


def test_nothing_is_stale(stale: list[str]) -> None:
    assert not stale, "\n".join(stale)


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("fc-list") is None, reason="there is no fontconfig"
)
def test_pictures_need_a_font_with_chinese_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run with no font at all, and with one that has them, as far as fontconfig's own list of its letters says."""
    settings = f"<fontconfig><dir>{tmp_path}</dir><cachedir>{tmp_path / 'cache'}</cachedir></fontconfig>"
    (tmp_path / "fonts.conf").write_text(f"<?xml version='1.0'?>{settings}")
    monkeypatch.setenv("FONTCONFIG_FILE", str(tmp_path / "fonts.conf"))
    check_fonts = load_script("make_example_pictures").check_fonts
    with pytest.raises(SystemExit, match="no font here has the Chinese characters .* fonts-noto-cjk"):
        check_fonts()
    font(tmp_path / "chinese.ttf")
    check_fonts()


def font(path: Path) -> None:
    """A font with a square for each letter that fontconfig asks of zh-cn, those of GB 2312 and two tones; no blanks."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    letters = [0x02C7, 0x02C9] + [
        ord(bytes([row, place]).decode("gb2312"))
        for row in range(0xB0, 0xF8)
        for place in range(0xA1, 0xFF)
        if (row, place) < (0xD7, 0xFA) or row > 0xD7
    ]
    names = [".notdef", *(f"uni{letter:04X}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(dict(zip(letters, names[1:])))
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Chinese", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


@pytest.fixture
def newly_stale(stale: list[str], make_generated: Any) -> Callable[[Any], set[str]]:
    """The files and parts that are named for another pack, and are not for this one as it is."""

    def named(lines: list[str]) -> set[str]:
        return {line.split("\n")[0].replace(" is stale: make generated PARTS=", " ") for line in lines}

    return lambda other: named(make_generated.stale(other)) - named(stale)


def test_a_changed_tooltip_is_listed(described: Any, newly_stale: Callable[[Any], set[str]]) -> None:
    nodes = copy.deepcopy(dict(described.nodes))
    nodes["DEFTPrompts"]["input"]["required"]["prompts"][1]["tooltip"] = "Another."
    assert newly_stale(dataclasses.replace(described, nodes=nodes)) == {
        "locales/en/nodeDefs.json locales",
        "web/docs/DEFTPrompts/en.md help",
        "locales: translate what is named here, then make generated PARTS=translated",
    }


def test_a_new_input_is_listed(described: Any, newly_stale: Callable[[Any], set[str]]) -> None:
    nodes = copy.deepcopy(dict(described.nodes))
    nodes["DEFTPrompts"]["input"]["optional"] = {"new": ["MODEL", {"tooltip": "New."}]}
    assert newly_stale(dataclasses.replace(described, nodes=nodes)) == {
        "interface.json interface",
        "locales/en/nodeDefs.json locales",
        "web/docs/DEFTPrompts/en.md help",
        "web/docs/DEFTPrompts/zh.md help",
        "web/docs/DEFTPrompts/node.png node_pictures",
        "locales: translate what is named here, then make generated PARTS=translated",
    }


def test_a_new_option_is_listed(described: Any, newly_stale: Callable[[Any], set[str]]) -> None:
    """One more protocol changes the help pages and no translation."""
    words = copy.deepcopy(described.words)
    words["DEFTLoadScorer"]["protocol"]["mine"] = "as I like it"
    assert newly_stale(dataclasses.replace(described, words=words)) == {
        "web/docs/DEFTLoadScorer/en.md help",
        "web/docs/DEFTLoadScorer/zh.md help",
    }


def test_a_new_method_is_listed(described: Any, newly_stale: Callable[[Any], set[str]]) -> None:
    """A method with widgets of others; its words are for the help pages: no tooltip and no picture changes."""
    nodes, words = copy.deepcopy(dict(described.nodes)), copy.deepcopy(described.words)
    options = nodes["DEFTTrainAdapter"]["input"]["required"]["method"][1]["options"]
    options.append({"key": "mine", "inputs": next(each["inputs"] for each in options if each["key"] == "para")})
    words["DEFTTrainAdapter"]["method"]["mine"] = "does what I like"
    assert newly_stale(dataclasses.replace(described, nodes=nodes, words=words)) == {
        "interface.json interface",
        "web/docs/DEFTTrainAdapter/en.md help",
        "web/docs/DEFTTrainAdapter/zh.md help",
    }


def test_a_changed_source_is_listed(
    described: Any, make_generated: Any, newly_stale: Callable[[Any], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_generated.workflow_files
    prompt_of, plans = files.prompt_of, files.plans

    def changed(name: str) -> Any:
        prompt = copy.deepcopy(prompt_of(name))
        if name == "load_and_apply":
            prompt["40"]["inputs"]["steps"] = 12345
        return prompt

    monkeypatch.setattr(files, "prompt_of", changed)
    monkeypatch.setattr(files, "plans", lambda: plans() | {"table1": "name: another"})
    assert newly_stale(described) == {
        "example_workflows/load_and_apply.json workflows",
        "example_workflows/api/load_and_apply.json workflows",
        "example_workflows/load_and_apply.jpg thumbnails",
        "sweeps/plans/table1.yaml plans",
    }


def test_a_changed_blueprint_is_listed(
    described: Any, make_generated: Any, newly_stale: Callable[[Any], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    blueprints = make_generated.workflow_files.blueprints
    whole = blueprints.blueprints()

    def changed() -> Any:
        first, second, *others = copy.deepcopy(whole)
        first.prompt["2"]["inputs"]["steps"] = 12345
        second = dataclasses.replace(second, packing=dataclasses.replace(second.packing, category="DEFT/other"))
        return [first, second, *others]

    monkeypatch.setattr(blueprints, "blueprints", changed)
    assert newly_stale(described) == {
        "subgraphs/DEFT Train a subject with LoRA.json blueprints",
        "subgraphs/DEFT Train a subject with DEFT.json blueprints",
    }


def test_a_changed_layout_is_listed(
    described: Any, make_generated: Any, newly_stale: Callable[[Any], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_generated.workflow_files

    def arrange(graph: Any, name: str) -> None:
        original(graph, name)
        if name == "sweep_demo":
            graph["groups"][0]["title"] = "Another"

    original = files.arrange
    monkeypatch.setattr(files, "arrange", arrange)
    assert newly_stale(described) == {"example_workflows/sweep_demo.json workflows"}


@pytest.mark.parametrize(
    ("name", "training", "pictures"),
    [
        (
            "compare_all_methods",
            {"method": "para", "method.rank": 4},
            {
                "example_workflows/compare_all_methods.jpg thumbnails",
                "docs/methods_para.png method_pictures",
                "docs/demo_all_grid.jpg demo_pictures",
                "docs/demo_table.png demo_pictures",
                "docs/demo_plot.png demo_pictures",
            },
        ),
        (
            "choose_a_checkpoint",
            {"method": "dreambooth"},
            {"example_workflows/choose_a_checkpoint.jpg thumbnails", "docs/training_tab.jpg training_picture"},
        ),
    ],
)
def test_a_changed_training_lists_each_of_its_pictures(
    described: Any,
    make_generated: Any,
    newly_stale: Callable[[Any], set[str]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    training: dict[str, Any],
    pictures: set[str],
) -> None:
    files = make_generated.workflow_files
    prompt_of = files.prompt_of

    def changed(asked: str) -> Any:
        prompt = copy.deepcopy(prompt_of(asked))
        if asked == name:
            (node,) = [node for node in prompt.values() if training.items() <= node["inputs"].items()]
            node["inputs"]["steps"] = 12345
        return prompt

    monkeypatch.setattr(files, "prompt_of", changed)
    texts = {f"example_workflows/{name}.json workflows", f"example_workflows/api/{name}.json workflows"}
    assert newly_stale(described) == texts | pictures


def test_a_changed_title_is_listed_for_no_result(
    described: Any, make_generated: Any, newly_stale: Callable[[Any], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A title is a text of the workflow, and no picture of what comes out shows it."""
    files = make_generated.workflow_files
    prompt_of = files.prompt_of

    def changed(name: str) -> Any:
        prompt = copy.deepcopy(prompt_of(name))
        if name == "compare_methods":
            prompt["70"]["_meta"]["title"] = "Another"
        return prompt

    monkeypatch.setattr(files, "prompt_of", changed)
    assert newly_stale(described) == {
        "example_workflows/compare_methods.json workflows",
        "example_workflows/api/compare_methods.json workflows",
    }


def test_a_moved_node_lists_the_pictures_of_the_graph(
    described: Any, make_generated: Any, newly_stale: Callable[[Any], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change in deft_table1, whose thumbnail is its graph, and in sweep_demo, whose thumbnail is a result."""
    files = make_generated.workflow_files
    graph_of = files.graph_of

    def moved(name: str) -> Any:
        graph = graph_of(name)
        if name in ("deft_table1", "sweep_demo"):
            graph["nodes"][0]["pos"][0] += 10
        return graph

    monkeypatch.setattr(files, "graph_of", moved)
    assert newly_stale(described) == {
        "docs/examples/deft_table1.jpg example_pictures",
        "docs/examples/sweep_demo.jpg example_pictures",
        "example_workflows/deft_table1.jpg thumbnails",
    }


def test_a_changed_plan_is_listed(
    described: Any, newly_stale: Callable[[Any], set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values of a plan are in its pictures; a comment is in none."""
    demo = load_script("make_demo_pictures")
    text = demo.PLAN.read_text(encoding="utf-8")
    plan = tmp_path / "demo.yaml"
    monkeypatch.setattr(demo, "PLAN", plan)
    plan.write_text(f"# another comment\n{text}", encoding="utf-8")
    assert newly_stale(described) == set()
    plan.write_text(text.replace("Sample.steps: 20", "Sample.steps: 21"), encoding="utf-8")
    assert newly_stale(described) == {
        f"docs/demo_sweep_{name} demo_pictures" for name in ("table.png", "grid.jpg", "page.jpg")
    }


def test_what_an_example_has_left_behind_is_listed(
    described: Any, make_generated: Any, newly_stale: Callable[[Any], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_generated.workflow_files
    sources = {name: source for name, source in files.sources().items() if name != "sweep_sd15"}
    monkeypatch.setattr(files, "sources", lambda: sources)
    places = ("example_workflows/sweep_sd15.json", "example_workflows/sweep_sd15.jpg")
    places += ("example_workflows/api/sweep_sd15.json", "docs/examples/sweep_sd15.jpg")
    assert newly_stale(described) == {f"{place} has no source any more: remove it" for place in places}


def test_what_would_break_workflows_is_not_written(described: Any) -> None:
    nodes = copy.deepcopy(dict(described.nodes))
    del nodes["DEFTPrompts"]["input"]["required"]["prompts"]
    with pytest.raises(ValueError, match="DEFTPrompts: input prompts is gone"):
        load_script("make_interface").files(dataclasses.replace(described, nodes=nodes))
