"""Help pages and locales: nothing that a person meets at a node is without words, and the words are about that node.

A help page lists each input and output: `id`, in brackets the type of a socket or the default of a widget, and words.
An input of a dynamic choice is called choice.input; a growing input has one line. It is a list because a table is
wider than the front end's help panel. The lists are written by scripts/make_help.py out of what a server says; here
they are held against the nodes' schemas, so that a mistake in reading the one is seen by the other.
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
CODE = ("nodes", "models", "matching", "patches", "convert", "trainers", "scoring", "reports", "deft_ops", "demo")
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
    """scripts/make_locale.py."""
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
    kinds = {name: kind for name, kind, _ in lines}
    assert len(kinds) == len(lines), "a line is there twice"
    return kinds


def read(node_id: str, language: str) -> str:
    """A help page; empty where there is none."""
    path = DOCS / node_id / f"{language}.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def expected(items: list[Any], words: dict[str, str], prefix: str = "") -> dict[str, tuple[str, str]]:
    """Brackets and English tooltip by name, from the inputs of a schema; brackets are empty for files of a machine."""
    entries: dict[str, tuple[str, str]] = {}
    for item in items:
        name, kind = prefix + item.id, item.get_io_type()
        options, template = getattr(item, "options", None), getattr(item, "template", None)
        default = getattr(item, "default", None)
        if template is not None:
            brackets = f"`{template.input.get_io_type()}`"
        elif kind == "COMFY_DYNAMICCOMBO_V3":
            brackets = f"{words['default']}`{options[0].key}`"
            for option in options:
                for inner, described_input in expected(option.inputs, words, f"{name}.").items():
                    entries.setdefault(inner, described_input)
        elif default is None:
            brackets = "" if options else f"`{kind}`"
        elif default is True or default is False:
            brackets = words["default"] + words["on" if default else "off"]
        elif default == "":
            brackets = words["default"] + words["empty"]
        elif isinstance(default, str):
            brackets = "" if "\n" in default else f"{words['default']}`{default}`"
        else:
            brackets = words["default"] + format(default, "g")
        if item.optional and brackets.startswith("`"):
            brackets += words["optional"]
        entries[name] = brackets, item.tooltip or ""
    return entries


def described(page: str) -> dict[str, str]:
    """The words of each entry, without Markdown's escapes."""
    entries = re.findall(r"^- `([^`]+)`.*?[)）][:：] ?(.*)$", page, flags=re.MULTILINE)
    return {name: words.replace("\\", "") for name, words in entries}


def test_pages_and_nodes_are_the_same(comfyui: Any) -> None:
    assert {folder.name for folder in DOCS.iterdir()} == set(comfyui.pack_nodes)


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_names_every_input_and_output(comfyui: Any, language: str) -> None:
    words, wrong = WORDS[language], []
    for node_id, node in comfyui.pack_nodes.items():
        schema, parts = node.define_schema(), sections(read(node_id, language))
        inputs, in_help = expected(schema.inputs, words), listed(parts.get(words["inputs"], ""))
        wrong += [f"{node_id}: input {name} is not in the help" for name in inputs.keys() - in_help.keys()]
        wrong += [f"{node_id}: the help has {name}, the node does not" for name in in_help.keys() - inputs.keys()]
        wrong += [
            f"{node_id}: {name} ({brackets}), but the help has ({in_help[name]})"
            for name, (brackets, _) in inputs.items()
            if name in in_help and brackets not in ("", in_help[name])
        ]
        outputs = {item.display_name or item.id: f"`{item.get_io_type()}`" for item in schema.outputs}
        if listed(parts.get(words["outputs"], "")) != outputs:
            wrong.append(f"{node_id}: the help's outputs are not {', '.join(outputs)}")
    assert wrong == []


def test_help_says_what_the_tooltips_say(comfyui: Any) -> None:
    """Compared in English; the other languages are held against their texts by test_generated.py."""
    wrong, total = [], 0
    for node_id, node in comfyui.pack_nodes.items():
        schema, parts = node.define_schema(), sections(read(node_id, "en"))
        entries = described(parts.get("Inputs", ""))
        inputs = {name: tooltip for name, (_, tooltip) in expected(schema.inputs, WORDS["en"]).items()}
        wrong += [f"{node_id}.{name}" for name, tooltip in inputs.items() if not entries[name].endswith(tooltip)]
        entries = described(parts.get("Outputs", ""))
        outputs = {item.display_name or item.id: item.tooltip for item in schema.outputs}
        wrong += [f"{node_id}.{name}" for name, tooltip in outputs.items() if entries[name] != tooltip]
        total += len(inputs) + len(outputs)
    assert wrong == []
    assert total > 250


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


def test_pictures_are_small(nodes: dict[str, Any]) -> None:
    for node_id in nodes:
        path = DOCS / node_id / "node.png"
        with Image.open(path) as picture:
            picture.load()
            assert picture.width >= 300, node_id
            assert picture.height >= 50, node_id
        assert path.stat().st_size < LARGEST, node_id


def texts_of_code() -> list[str]:
    """The texts in the pack's code, with ... for what is filled in."""
    texts = []
    for path in (path for folder in CODE for path in sorted((ROOT / folder).rglob("*.py"))):
        for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(item, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "..." for part in item.values)
                texts.append("".join(map(str, parts)))
            elif isinstance(item, ast.Constant) and isinstance(item.value, str):
                texts.append(item.value)
    return texts


def messages(page: str, heading: str) -> list[str]:
    """The messages that the section on mistakes quotes."""
    return re.findall(r"^- `([^`]+)`[:：]", sections(page).get(heading, ""), flags=re.MULTILINE)


def test_quoted_messages_are_the_pack_s_own(nodes: dict[str, Any]) -> None:
    """A message that was reworded in the code is found here, and both languages quote the same ones."""
    texts, total, unknown = texts_of_code(), 0, []
    for node_id in nodes:
        quoted = messages(read(node_id, "en"), WORDS["en"]["mistakes"])
        assert quoted == messages(read(node_id, "zh"), WORDS["zh"]["mistakes"]), node_id
        total += len(quoted)
        for message in quoted:
            pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.split("...")), re.DOTALL)
            if not any(pattern.search(text) for text in texts):
                unknown.append(f"{node_id}: {message}")
    assert unknown == []
    assert total > 60


def test_every_text_is_there(nodes: dict[str, Any], make_locale: Any) -> None:
    """The files are held against the nodes by test_generated.py."""
    english = {node_id: make_locale.texts(node) for node_id, node in nodes.items()}
    assert [path for path, entry in make_locale.entries(english).items() if not all(entry.values())] == []
    assert [folder.name for folder in make_locale.translations()] == ["zh"]


def test_a_new_or_changed_text_is_told(nodes: dict[str, Any], make_locale: Any) -> None:
    node_id = "DEFTPrompts"
    english = {node_id: make_locale.texts(nodes[node_id])}
    source = make_locale.marks(english)
    translation = {node_id: english[node_id] | {"inputs": dict(english[node_id]["inputs"])}}
    assert make_locale.lacking(english, translation, source) == []
    english[node_id]["inputs"]["token"] = {"name": "token", "tooltip": "Something else."}
    english[node_id]["inputs"]["new"] = {"name": "new", "tooltip": "New."}
    translation[node_id]["inputs"]["old"] = {"name": "old", "tooltip": "Old."}
    reported = [line.partition(":")[0] for line in make_locale.lacking(english, translation, source)]
    assert reported == [f"{node_id}.inputs.{name}" for name in ("new", "old", "token")]


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
