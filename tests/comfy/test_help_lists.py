"""scripts/make_help.py: the lists of the help pages follow the nodes, and keep what people wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ..scripts import load_script


@pytest.fixture
def make_help(comfyui: Any) -> Any:
    for name in ("comfy_server", "make_locale"):
        load_script(name)
    return load_script("make_help")


def described(comfyui: Any, name: str) -> dict[str, Any]:
    """A node as the server describes it."""
    return json.loads(json.dumps(comfyui.pack_nodes[name].GET_NODE_INFO_V1()))


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", ["DEFTTrainingSettings", "DEFTTrainAdapter", "DEFTTrainTextualInversion"])
def test_pages_of_training_are_up_to_date(comfyui: Any, make_help: Any, name: str, language: str) -> None:
    page = (make_help.DOCS / name / f"{language}.md").read_text(encoding="utf-8")
    texts = make_help.read(make_help.LOCALES / language / "nodeDefs.json")[name]
    assert make_help.page_of(page, described(comfyui, name), texts, language) == page


@pytest.mark.parametrize(
    ("language", "new"),
    [("en", "- `lowest_rate` (default: 0.5): Not below."), ("zh", "- `lowest_rate` 最低（默认：0.5）：不低于。")],
)
def test_a_new_setting_is_a_line(comfyui: Any, make_help: Any, language: str, new: str) -> None:
    name = "DEFTTrainingSettings"
    node, path = described(comfyui, name), make_help.DOCS / name / f"{language}.md"
    page, texts = path.read_text(encoding="utf-8"), make_help.read(make_help.LOCALES / language / "nodeDefs.json")[name]
    node["input"]["optional"] = {"lowest_rate": ["FLOAT", {"default": 0.5}]}
    node["input"]["required"]["ema"][1]["default"] = 0.25
    del node["input"]["required"]["gamma"]
    texts["inputs"]["lowest_rate"] = {
        "en": {"name": "lowest_rate", "tooltip": "Not below."},
        "zh": {"name": "最低", "tooltip": "不低于。"},
    }[language]
    made = make_help.page_of(page, node, texts, language).splitlines()
    before = page.splitlines()
    assert set(made) - set(before) == {new, *(row for row in made if row.startswith("- `ema`"))}
    gone = [row for row in before if row not in made]
    assert [row.split("`")[1] for row in gone] == ["ema", "gamma"]
    (ema,) = (row for row in made if row.startswith("- `ema`"))
    assert ema == gone[0].replace("0", "0.25", 1)
    place = made.index(new)
    assert made[place - 1].startswith("- `resume`") and made[place + 1] == ""


def test_options_are_listed_on_the_page(comfyui: Any, make_help: Any) -> None:
    """A new preset is a line in both languages without a translation; what was translated stays, what is gone goes."""
    name = "DEFTTrainingSettings"
    for language, kept in (
        ("en", "- `LoRA r8 (SDXL)`: the same with rank 8"),
        ("zh", "- `LoRA r8 (SDXL)`：同上，秩 8"),
    ):
        node, path = described(comfyui, name), make_help.DOCS / name / f"{language}.md"
        page = path.read_text(encoding="utf-8")
        texts = make_help.read(make_help.LOCALES / language / "nodeDefs.json")[name]
        meanings = node["input"]["required"]["preset"][1]["meanings"]
        assert set(meanings) | {"none"} == set(node["input"]["required"]["preset"][1]["options"])
        assert not any(text in texts["inputs"]["preset"]["tooltip"] for text in meanings.values())
        del meanings["SVDiff (SD 1.5)"]
        meanings["a new one"] = "its source"
        before, after = page.splitlines(), make_help.page_of(page, node, texts, language).splitlines()
        assert kept in before and kept in after
        (new,) = set(after) - set(before)
        assert new.startswith("- `a new one`") and new.endswith("its source") and after[after.index(new) + 1] == ""
        (gone,) = [row for row in before if row not in after]
        assert gone.startswith("- `SVDiff (SD 1.5)`")
        place = page.index(gone)
        without = page[: page.rindex("\n## ", 0, place)] + page[page.index("\n## ", place) :]
        again = make_help.page_of(without, node, texts, language)
        assert "a new one" in again and again.count("\n## ") == page.count("\n## ")
