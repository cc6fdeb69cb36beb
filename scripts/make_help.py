"""Bring the lists of inputs and outputs of the help pages, web/docs, up to date with the nodes.

    $(make -s python) scripts/make_help.py    # after scripts/make_locale.py, with its translations

A new input or output gets a line with its tooltip, in the language of the page; what people wrote there stays. Defaults
and types are the node's, in its order, and a line whose input is gone goes. A choice whose options have meanings gets a
list of them before the outputs: in English as the node has them, in other languages as people wrote them, else in
English. Pages themselves are written by people.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comfy_server import ROOT, ComfyServer, find_comfyui
from make_locale import LOCALES, key_of, read

DOCS = ROOT / "web" / "docs"
# A line: the name, what the language calls it, in brackets the type or default, and words.
LINE = re.compile(r"^- `([^`]+)`([^(（`]*)[(（]((?:`[^`]*`|[^`)）])+)[)）][:：] ?(.*)$")
WORDS = {
    "en": {
        "inputs": "Inputs",
        "outputs": "Outputs",
        "default": "default: ",
        "empty": "empty",
        "on": "on",
        "off": "off",
        "optional": ", optional",
        "line": "- `{id}` ({said}): {words}",
        "options": "Options of `{id}`",
        "option": "- `{id}`: {words}",
    },
    "zh": {
        "inputs": "输入",
        "outputs": "输出",
        "default": "默认：",
        "empty": "空",
        "on": "开",
        "off": "关",
        "optional": "，可选",
        "line": "- `{id}`{called}（{said}）：{words}",
        "options": "`{id}` 的选项",
        "option": "- `{id}`：{words}",
    },
}


def brackets(groups: Mapping[str, Any], words: Mapping[str, str], prefix: str = "") -> dict[str, str | None]:
    """What stands in brackets for each input, by the name in the help; None where the default is this machine's."""
    found: dict[str, str | None] = {}
    for group, members in groups.items():
        for name, (kind, *rest) in members.items() if group != "hidden" else ():
            options = rest[0] if rest else {}
            default, optional = options.get("default"), words["optional"] if group == "optional" else ""
            said: str | None = f"`{kind}`{optional}"
            if kind == "COMFY_DYNAMICCOMBO_V3":
                said = words["default"] + f"`{options['options'][0]['key']}`"
                for option in options["options"]:
                    found |= brackets(option["inputs"], words, f"{prefix}{name}.")
            elif kind == "COMFY_AUTOGROW_V3":
                ((slot, *_),) = (slot for part in options["template"]["input"].values() for slot in part.values())
                said = f"`{slot}`{optional}"
            elif kind == "COMBO" and default is None or isinstance(default, str) and "\n" in default:
                said = None
            elif isinstance(default, bool):
                said = words["default"] + words["on" if default else "off"]
            elif isinstance(default, (int, float)):
                said = words["default"] + f"{default:g}"
            elif isinstance(default, str):
                said = words["default"] + (f"`{default}`" if default else words["empty"])
            found[prefix + name] = said
    return found


def line(name: str, said: str, text: Mapping[str, str], words: Mapping[str, str]) -> str:
    """A new line; `text` has what the language calls it and its tooltip."""
    called = "" if text["name"] == name.rpartition(".")[2] else f" {text['name']}"
    return words["line"].format(id=name, called=called, said=said, words=text["tooltip"])


def brought_up_to_date(
    section: str, wanted: Mapping[str, str | None], texts: Mapping[str, Mapping[str, str]], words: Mapping[str, str]
) -> str:
    """The section of a page with a line for each of `wanted`: as it is there but for the brackets, or a new one.

    texts: name and tooltip by name in the help. Other text of the section stays before or behind the list.
    """
    rows = section.split("\n")
    places = [place for place, row in enumerate(rows) if row.startswith("- ")]
    if not places:
        return section
    first, last = places[0], places[-1] + 1
    there = {found.group(1): found for row in rows[first:last] if (found := LINE.match(row))}
    made = []
    for name in sorted(wanted, key=_order(list(there), list(wanted))):
        said, found = wanted[name], there.get(name)
        if found is None:
            made.append(line(name, said or "`COMBO`", texts[name], words))
        elif said is None or said == found.group(3):
            made.append(found.group())
        else:
            start, end = found.span(3)
            made.append(found.string[:start] + said + found.string[end:])
    return "\n".join([*rows[:first], *made, *rows[last:]])


def with_options(page: str, name: str, options: Mapping[str, str], language: str) -> str:
    """The page with a list of what the options of an input mean, before the outputs."""
    words = WORDS[language]
    heading, outputs = f"\n## {words['options'].format(id=name)}\n", f"\n## {words['outputs']}\n"
    start = page.find(heading)
    if start < 0:
        start = page.find(outputs)
        page = f"{page[:start]}{heading}{page[start:]}"
    end = page.find("\n## ", start + 1)
    there = {found.group(1): found.group() for found in re.finditer(r"^- `([^`]+)`.*$", page[start:end], re.M)}
    rows = [
        there[option] if language != "en" and option in there else words["option"].format(id=option, words=text)
        for option, text in options.items()
    ]
    return page[:start] + heading + "\n" + "\n".join(rows) + "\n" + page[end:]


def _order(there: list[str], wanted: list[str]) -> Any:
    """Lines that are there keep their order; a new one comes behind what is before it at the node."""
    places: dict[str, tuple[int, int]] = {name: (place, 0) for place, name in enumerate(there)}
    last = (-1, 0)
    for number, name in enumerate(wanted, 1):
        places.setdefault(name, (last[0], number))
        last = places[name]
    return places.__getitem__


def page_of(page: str, node: Mapping[str, Any], texts: Mapping[str, Any], language: str) -> str:
    """A help page with its two lists up to date."""
    words = WORDS[language]
    outputs = {name: f"`{kind}`" for name, kind in zip(node["output_name"], node["output"], strict=True)}
    inputs = brackets(node["input"], words)
    own = {name: texts["inputs"].get(key_of(name)) or {"name": name, "tooltip": ""} for name in inputs}
    given = {name: texts["outputs"][str(place)] for place, name in enumerate(node["output_name"])}
    for heading, wanted, told in (("inputs", inputs, own), ("outputs", outputs, given)):
        start = page.find(f"\n## {words[heading]}\n")
        if start >= 0:
            end = page.find("\n## ", start + 1)
            end = len(page) if end < 0 else end
            page = page[:start] + brought_up_to_date(page[start:end], wanted, told, words) + page[end:]
    for members in (members for group, members in node["input"].items() if group != "hidden"):
        for name, (_, *rest) in members.items():
            if meanings := (rest[0] if rest else {}).get("meanings"):
                page = with_options(page, name, meanings, language)
    return page


def main() -> None:
    """Ask a server for the nodes; write the pages that are not up to date."""
    with tempfile.TemporaryDirectory() as base, ComfyServer(find_comfyui(), Path(base)) as server:
        nodes = {
            name: info
            for name, info in server.get("/object_info").items()
            if info["python_module"] == f"custom_nodes.{server.pack_name}"
        }
    for language in WORDS:
        texts = read(LOCALES / language / "nodeDefs.json")
        for name, node in nodes.items():
            path = DOCS / name / f"{language}.md"
            if not path.is_file() or name not in texts:
                print(f"[help] {name}: there is no page, or there are no texts, in {language}")
                continue
            page = path.read_text(encoding="utf-8")
            if (made := page_of(page, node, texts[name], language)) != page:
                path.write_text(made, encoding="utf-8")
                print(f"[help] wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
