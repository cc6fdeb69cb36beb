"""Help pages and locales: nothing that a person meets at a node is without words, and the words are about that node.

A help page lists each input and output: `id`, in brackets the type of a socket or the default of a widget, and words.
An input of a dynamic choice is called choice.input; a growing input has one line. It is a list because a table is
wider than the front end's help panel.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ..scripts import load_script

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "web" / "docs"
CODE = ("nodes", "models", "matching", "patches", "convert", "trainers", "scoring", "deft_ops", "demo")
LARGEST = 40_000  # bytes of a picture
WORDS = {
    "en": {
        "inputs": "Inputs",
        "outputs": "Outputs",
        "typical": "Typical values",
        "mistakes": "Mistakes",
        "default": "default: ",
        "empty": "empty",
        "on": "on",
        "off": "off",
        "optional": ", optional",
    },
    "zh": {
        "inputs": "输入",
        "outputs": "输出",
        "typical": "常用值",
        "mistakes": "常见错误",
        "default": "默认：",
        "empty": "空",
        "on": "开",
        "off": "关",
        "optional": "，可选",
    },
}
LANGUAGES = list(WORDS)


@pytest.fixture(scope="module")
def make_locale() -> Any:
    """scripts/make_locale.py and what it imports."""
    load_script("comfy_server")
    return load_script("make_locale")


@pytest.fixture
def nodes(comfyui: Any) -> dict[str, Any]:
    """Each node as the server describes it to the front end."""
    return {node_id: json.loads(json.dumps(node.GET_NODE_INFO_V1())) for node_id, node in comfyui.pack_nodes.items()}


def sections(page: str) -> dict[str, str]:
    """The text below each heading of the second level, and under "" what comes before them."""
    head, *rest = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    return {"": head, **{name.strip(): text for name, text in zip(rest[::2], rest[1::2], strict=True)}}


def listed(text: str) -> dict[str, str]:
    """What stands in brackets by the code that a line of a list begins with. A line without words is an error."""
    lines = re.findall(r"^- `([^`]+)`[^(（`]*[(（]((?:`[^`]*`|[^`)）])+)[)）][:：] ?(.*)$", text, flags=re.MULTILINE)
    assert len(lines) == len(re.findall(r"^- ", text, flags=re.MULTILINE)), text
    assert all(len(words) > 2 for _, _, words in lines)
    found = {name: kind for name, kind, _ in lines}
    assert len(found) == len(lines), "a line is there twice"
    return found


def read(node_id: str, language: str) -> str:
    """A help page; empty where there is none."""
    path = DOCS / node_id / f"{language}.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def expected(groups: dict[str, Any], words: dict[str, str], prefix: str = "") -> dict[str, str | None]:
    """What stands in brackets in the list of inputs, None where the default depends on the machine."""
    found: dict[str, str | None] = {}
    for group, members in groups.items():
        for name, (kind, *rest) in members.items() if group != "hidden" else ():
            options = rest[0] if rest else {}
            default = options.get("default")
            optional = words["optional"] if group == "optional" else ""
            said: str | None = f"`{kind}`{optional}"
            if kind == "COMFY_DYNAMICCOMBO_V3":
                said = words["default"] + f"`{options['options'][0]['key']}`"
                for option in options["options"]:
                    found |= expected(option["inputs"], words, f"{prefix}{name}.")
            elif kind == "COMFY_AUTOGROW_V3":
                ((slot, *_),) = (slot for part in options["template"]["input"].values() for slot in part.values())
                said = f"`{slot}`{optional}"
            elif isinstance(default, bool):
                said = words["default"] + words["on" if default else "off"]
            elif isinstance(default, (int, float)):
                said = words["default"] + f"{default:g}"
            elif isinstance(default, str):
                said = words["default"] + (f"`{default}`" if default else words["empty"])
            if kind == "COMBO" and default is None or isinstance(default, str) and "\n" in default:
                said = None  # files of this machine; a default of several lines
            found[prefix + name] = said
    return found


def test_pages_and_nodes_are_the_same(comfyui: Any) -> None:
    assert {folder.name for folder in DOCS.iterdir()} == set(comfyui.pack_nodes)


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_names_every_input_and_output(nodes: dict[str, Any], language: str) -> None:
    words, wrong = WORDS[language], []
    for node_id, node in nodes.items():
        parts = sections(read(node_id, language))
        wanted, there = expected(node["input"], words), listed(parts.get(words["inputs"], ""))
        wrong += [f"{node_id}: input {name} is not in the help" for name in wanted.keys() - there.keys()]
        wrong += [f"{node_id}: the help has {name}, the node does not" for name in there.keys() - wanted.keys()]
        wrong += [
            f"{node_id}: {name} ({said}), but the help has ({there[name]})"
            for name, said in wanted.items()
            if name in there and said not in (None, there[name])
        ]
        outputs = {name: f"`{kind}`" for name, kind in zip(node["output_name"], node["output"], strict=True)}
        if listed(parts.get(words["outputs"], "")) != outputs:
            wrong.append(f"{node_id}: the help's outputs are not {', '.join(outputs)}")
    assert wrong == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_has_title_picture_values_and_mistakes(nodes: dict[str, Any], make_locale: Any, language: str) -> None:
    words, wrong = WORDS[language], []
    names = make_locale.read(make_locale.LOCALES / language / "nodeDefs.json")
    for node_id in nodes:
        parts = sections(read(node_id, language))
        title, name = parts[""].partition("\n")[0], names[node_id]["display_name"]
        # The front end takes what is relative as relative to web/docs.
        if title != f"# {name}" or f"![{name}]({node_id}/node.png)" not in parts[""]:
            wrong.append(f"{node_id}: title and picture")
        if len(parts[""]) < 150 - 90 * (language == "zh"):
            wrong.append(f"{node_id}: what it is for")
        if len(parts.get(words["typical"], "").strip()) < 20:
            wrong.append(f"{node_id}: typical values")
        if parts.get(words["mistakes"], "").count("\n- ") < 2:
            wrong.append(f"{node_id}: mistakes")
    assert wrong == []


def test_pictures_are_small_and_of_these_nodes(nodes: dict[str, Any], make_locale: Any) -> None:
    pictures = load_script("make_node_pictures")
    for node_id, node in nodes.items():
        path = DOCS / node_id / "node.png"
        with Image.open(path) as picture:
            picture.load()
            assert picture.width >= 300, node_id
            assert picture.height >= 50, node_id
            assert picture.info["Description"] == pictures.shown(node), "run scripts/make_node_pictures.py"
        assert path.stat().st_size < LARGEST, node_id


def texts_of_code() -> list[str]:
    """The texts in the pack's code, with ... for what is filled in."""
    found = []
    for path in (path for folder in CODE for path in sorted((ROOT / folder).rglob("*.py"))):
        for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(item, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "..." for part in item.values)
                found.append("".join(map(str, parts)))
            elif isinstance(item, ast.Constant) and isinstance(item.value, str):
                found.append(item.value)
    return found


def messages(page: str, heading: str) -> list[str]:
    """The messages that the section on mistakes quotes."""
    return re.findall(r"^- `([^`]+)`[:：]", sections(page).get(heading, ""), flags=re.MULTILINE)


def test_quoted_messages_are_the_pack_s_own(nodes: dict[str, Any]) -> None:
    """A message that was reworded in the code is found here, and both languages quote the same ones."""
    known, total, unknown = texts_of_code(), 0, []
    for node_id in nodes:
        quoted = messages(read(node_id, "en"), WORDS["en"]["mistakes"])
        assert quoted == messages(read(node_id, "zh"), WORDS["zh"]["mistakes"]), node_id
        total += len(quoted)
        for message in quoted:
            pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.split("...")), re.DOTALL)
            if not any(pattern.search(text) for text in known):
                unknown.append(f"{node_id}: {message}")
    assert unknown == []
    assert total > 60


def test_locale_files_have_every_text(nodes: dict[str, Any], make_locale: Any) -> None:
    """English is what the nodes say; a translation has all of it, and was looked at since the English last changed."""
    english = {node_id: make_locale.texts(node) for node_id, node in nodes.items()}
    assert make_locale.read(make_locale.TARGET) == english, "run scripts/make_locale.py"
    empty = [path for path, entry in make_locale.entries(english).items() if not all(entry.values())]
    assert empty == []
    folders = make_locale.translations()
    assert [folder.name for folder in folders] == ["zh"]
    for folder in folders:
        translation = make_locale.read(folder / "nodeDefs.json")
        source = make_locale.read(folder / make_locale.SOURCE)
        assert make_locale.lacking(english, translation, source) == [], "translate, then make_locale.py --translated"


def test_a_new_or_changed_text_is_told(nodes: dict[str, Any], make_locale: Any) -> None:
    node_id = "DEFTPrompts"
    english = {node_id: make_locale.texts(nodes[node_id])}
    source = make_locale.marks(english)
    translation = {node_id: english[node_id] | {"inputs": dict(english[node_id]["inputs"])}}
    assert make_locale.lacking(english, translation, source) == []
    english[node_id]["inputs"]["token"] = {"name": "token", "tooltip": "Something else."}
    english[node_id]["inputs"]["new"] = {"name": "new", "tooltip": "New."}
    translation[node_id]["inputs"]["old"] = {"name": "old", "tooltip": "Old."}
    told = [line.partition(":")[0] for line in make_locale.lacking(english, translation, source)]
    assert told == [f"{node_id}.inputs.{name}" for name in ("new", "old", "token")]


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_and_descriptions_are_not_messages_with_syntax(make_locale: Any, language: str) -> None:
    """The front end reads names and descriptions as message patterns, where these characters mean something."""
    for path, entry in make_locale.entries(make_locale.read(make_locale.LOCALES / language / "nodeDefs.json")).items():
        plain = [text for part, text in entry.items() if part != "tooltip"]
        assert not [text for text in plain if set("{}@|") & set(text)], path


def test_chinese_is_chinese(make_locale: Any) -> None:
    """Each Chinese text has Chinese characters, but for names that are the same in both."""
    english, chinese = (
        make_locale.entries(make_locale.read(make_locale.LOCALES / name / "nodeDefs.json")) for name in LANGUAGES
    )
    for path, entry in chinese.items():
        for part, text in entry.items():
            same = part == "name" and text.casefold() == english[path]["name"].casefold()
            assert same or re.search(r"[\u4e00-\u9fff]", text) or text in ("LoRA", "Latent"), f"{path}: {text}"
