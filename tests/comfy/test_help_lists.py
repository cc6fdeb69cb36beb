"""scripts/make_help.py: the lists of the help pages follow the nodes and their texts, and keep what people wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ..scripts import load_script


@pytest.fixture(scope="module")
def make_help() -> Any:
    return load_script("make_help")


def described(comfyui: Any, name: str) -> dict[str, Any]:
    """A node as the server describes it."""
    return json.loads(json.dumps(comfyui.pack_nodes[name].GET_NODE_INFO_V1()))


@pytest.mark.parametrize(
    ("language", "new"),
    [("en", "- `floor` (default: 0.5): Not below."), ("zh", "- `floor` 最低（默认：0.5）：不低于。")],
)
def test_a_new_setting_is_a_line(comfyui: Any, make_help: Any, language: str, new: str) -> None:
    name = "DEFTTrainingSettings"
    node, path = described(comfyui, name), make_help.HELP_PAGES / name / f"{language}.md"
    english, translated = (
        make_help.read(make_help.LOCALES / place / "nodeDefs.json")[name] for place in ("en", language)
    )
    page, texts = path.read_text(encoding="utf-8"), make_help.merged(english, translated)
    options = {"preset": {"mine": "From there."}}
    before = make_help.page_of(page, node, texts, options, language).splitlines()
    node["input"].setdefault("optional", {})["floor"] = ["FLOAT", {"default": 0.5}]
    node["input"]["required"]["ema"][1]["default"] = 0.25
    del node["input"]["required"]["gamma"]
    texts["inputs"]["floor"] = {
        "en": {"name": "floor", "tooltip": "Not below."},
        "zh": {"name": "最低", "tooltip": "不低于。"},
    }[language]
    made = make_help.page_of(page, node, texts, options, language).splitlines()
    assert set(made) - set(before) == {new, *(row for row in made if row.startswith("- `ema`"))}
    gone = [row for row in before if row not in made]
    assert [row.split("`")[1] for row in gone] == ["ema", "gamma"]
    (ema,) = (row for row in made if row.startswith("- `ema`"))
    assert ema == gone[0].replace("0", "0.25", 1)
    place = made.index(new)
    assert made[place + 1] == ""
    assert [row for row in made if row.startswith("  - ")] == [
        {"en": "  - `mine`: From there.", "zh": "  - `mine`：From there。"}[language]
    ]


def test_what_people_wrote_stays(make_help: Any) -> None:
    node = {"input": {"required": {"a": ["INT", {"default": 3}], "b": ["MODEL"]}}, "output_name": [], "output": []}
    texts = {
        "inputs": {"a": {"name": "a", "tooltip": "Of *a*, or _b_ in to_q."}, "b": {"name": "B", "tooltip": "New."}},
        "outputs": {},
    }
    page = (
        "# Title\n\n## Inputs\n\nFirst.\n\n"
        f"{make_help.START}\n\n- `a` (default: 2): Old.\n  Mine.\n  - `x`: gone.\n- `c` (`CLIP`): Gone.\n  With it.\n\n"
        f"{make_help.END}\n\nLast.\n\n## Typical values\n\nThree.\n"
    )
    made = make_help.page_of(page, node, texts, {}, "en")
    assert made == (
        "# Title\n\n## Inputs\n\nFirst.\n\n"
        f"{make_help.START}\n\n- `a` (default: 3): Of \\*a\\*, or \\_b\\_ in to_q.\n  Mine.\n- `b` (`MODEL`): New.\n\n"
        f"{make_help.END}\n\nLast.\n\n## Typical values\n\nThree.\n"
    )
    assert make_help.page_of(made, node, texts, {}, "en") == made


def test_a_page_without_a_list_gets_one(make_help: Any) -> None:
    """A new page needs the headings only."""
    node = {"input": {"required": {}}, "output_name": ["size"], "output": ["INT"]}
    texts = {"inputs": {}, "outputs": {"0": {"name": "size", "tooltip": "In bytes."}}}
    made = make_help.page_of("# T\n\n## Inputs\n\nNone.\n\n## Outputs\n", node, texts, {}, "en")
    before = "# T\n\n## Inputs\n\nNone.\n\n## Outputs\n\n"
    assert made == f"{before}{make_help.START}\n\n- `size` (`INT`): In bytes.\n\n{make_help.END}\n"


def test_an_input_says_with_which_choice_it_comes(comfyui: Any, make_help: Any) -> None:
    entries = make_help.inputs_of(described(comfyui, "DEFTTrainAdapter")["input"], make_help.HELP_WORDS["en"])
    assert entries["method.norm_rate"].choices == ["svdiff"]
    assert {"deft", "para", "lora"} <= set(entries["method.rank"].choices)
    assert entries["steps"].choices == []


def test_what_is_not_translated_is_english(make_help: Any) -> None:
    english = {"inputs": {"a": {"name": "a"}, "b": {"name": "b"}}, "outputs": {}}
    made = make_help.merged(english, {"inputs": {"a": {"name": "甲"}, "old": {"name": "旧"}}})
    assert made["inputs"] == {"a": {"name": "甲"}, "b": {"name": "b"}}
