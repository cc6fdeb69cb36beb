"""The lists of inputs and outputs of the help pages, web/docs, out of the nodes and their texts.

    make generated PARTS=help    # after the translations

They stand between START and END. Each entry has a type or a default, the tooltip in the page's language, and what its
options are where the pack has a list of them. Lines below an entry that people have added, indented by two blanks, stay
as long as the entry does: what is worth knowing and too long for a tooltip. All else of a page is written by people.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generated import ROOT, Pack, ask, write
from make_locale import LOCALES, key_of, read
from make_locale import texts as texts_of

HELP_PAGES = ROOT / "web" / "docs"
START = "<!-- generated: what people write stands indented below an entry -->"
END = "<!-- end -->"
HELP_WORDS = {
    "en": {
        "inputs": "Inputs",
        "outputs": "Outputs",
        "default": "default: ",
        "empty": "empty",
        "on": "on",
        "off": "off",
        "first": "the first",
        "lines": "some lines",
        "optional": ", optional",
        "with": "With {}. ",
        "slots": "`{0}0`, `{0}1`, ... up to {1}. ",
        "between": ", ",
        "line": "- `{id}` ({brackets}): {words}",
        "option": "  - `{name}`: {words}.",
    },
    "zh": {
        "inputs": "输入",
        "outputs": "输出",
        "default": "默认：",
        "empty": "空",
        "on": "开",
        "off": "关",
        "first": "第一个",
        "lines": "数行",
        "optional": "，可选",
        "with": "用于 {}。",
        "slots": "`{0}0`、`{0}1`……最多 {1} 个。",
        "between": "、",
        "line": "- `{id}`{called}（{brackets}）：{words}",
        "option": "  - `{name}`：{words}。",
    },
}


@dataclass
class ListEntry:
    """A line of a list. choices: the options of a dynamic choice with which the input appears; not all of them.

    slots: the names of a growing input's, as words.
    """

    brackets: str
    slots: str = ""
    choices: list[str] = field(default_factory=list)


def default_words(default: Any, words: Mapping[str, str]) -> str:
    """A default in the words of a language. That of a list of files is this machine's: the first."""
    if isinstance(default, bool):
        return words["on" if default else "off"]
    if isinstance(default, (int, float)):
        return f"{default:g}"
    if default is None:
        return words["first"]
    if "\n" in default:
        return words["lines"]
    return f"`{default}`" if default else words["empty"]


def members_of(groups: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any], bool]]:
    """The name, type and options of each input of a node, and whether it is optional."""
    for group, members in groups.items():
        for name, (kind, *more) in members.items() if group != "hidden" else ():
            yield name, kind, more[0] if more else {}, group == "optional"


def inputs_of(groups: Mapping[str, Any], words: Mapping[str, str], prefix: str = "") -> dict[str, ListEntry]:
    """An entry for each input by its name in the help: choice.input for one that appears with an option."""
    entries: dict[str, ListEntry] = {}
    for name, kind, options, optional in members_of(groups):
        behind = words["optional"] if optional else ""
        if kind == "COMFY_DYNAMICCOMBO_V3":
            keys = [option["key"] for option in options["options"]]
            entries[prefix + name] = ListEntry(f"{words['default']}`{keys[0]}`")
            for option in options["options"]:
                for inner, entry in inputs_of(option["inputs"], words, f"{prefix}{name}.").items():
                    entries.setdefault(inner, entry).choices.append(option["key"])
            for inner, entry in entries.items():
                if inner.startswith(f"{prefix}{name}.") and entry.choices == keys:
                    entry.choices = []
        elif kind == "COMFY_AUTOGROW_V3":
            template = options["template"]
            ((slot, *_),) = (slot for part in template["input"].values() for slot in part.values())
            slots = words["slots"].format(template["prefix"], template["max"])
            entries[prefix + name] = ListEntry(f"`{slot}`{behind}", slots)
        elif kind == "COMBO" or "default" in options:
            entries[prefix + name] = ListEntry(words["default"] + default_words(options.get("default"), words))
        else:
            entries[prefix + name] = ListEntry(f"`{kind}`{behind}")
    return entries


def escaped(text: str) -> str:
    """A tooltip in Markdown: as it is, whatever its stars, brackets and underscores would mean."""
    return re.sub(r"([*`<]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def people_s_lines(block: str) -> dict[str, list[str]]:
    """The indented lines below each entry that are no option of it."""
    lines: dict[str, list[str]] = {}
    name = ""
    for row in block.splitlines():
        if heading := re.match(r"- `([^`]+)`", row):
            name = heading[1]
        elif row.startswith("  ") and not row.startswith("  - "):
            lines.setdefault(name, []).append(row)
    return lines


def block_of(
    entries: Mapping[str, ListEntry],
    texts: Mapping[str, Mapping[str, str]],
    options: Mapping[str, Mapping[str, str]],
    kept: Mapping[str, list[str]],
    words: Mapping[str, str],
) -> str:
    """A list. texts: name and tooltip by the entry's name. options: by the entry's name. kept: people's lines."""
    rows = []
    for name, entry in entries.items():
        text = texts[name]
        called = "" if text["name"] == name.rpartition(".")[2] else f" {text['name']}"
        choices = words["with"].format(words["between"].join(f"`{key}`" for key in entry.choices))
        rows.append(
            words["line"].format(
                id=name,
                called=called,
                brackets=entry.brackets,
                words=entry.slots + (choices if entry.choices else "") + escaped(text["tooltip"]),
            )
        )
        rows += kept.get(name, [])
        rows += [
            words["option"].format(name=option, words=escaped(about.rstrip(".。")))
            for option, about in options.get(name, {}).items()
        ]
    return "\n".join([START, "", *rows, "", END])


def section_of(page: str, heading: str) -> slice | None:
    """The slice of a page that holds the text below a heading of the second level."""
    start = page.find(f"\n## {heading}\n")
    if start < 0:
        return None
    start += len(f"\n## {heading}\n")
    end = page.find("\n## ", start)
    return slice(start, len(page) if end < 0 else end)


def with_block(section: str, make: Any) -> str:
    """A section with its list anew. make: the list from what stands between the marks now."""
    before, start, behind = section.partition(START)
    if not start:
        return f"\n{make('')}\n{section.rstrip()}".rstrip() + "\n"
    inside, _, after = behind.partition(END)
    return before + make(inside) + after


def page_of(
    page: str,
    node: Mapping[str, Any],
    texts: Mapping[str, Any],
    options: Mapping[str, Mapping[str, str]],
    language: str,
) -> str:
    """A help page with its two lists up to date. texts: of the node, in the page's language. options: their words."""
    words = HELP_WORDS[language]
    inputs = inputs_of(node["input"], words)
    outputs = {name: ListEntry(f"`{kind}`") for name, kind in zip(node["output_name"], node["output"], strict=True)}
    input_texts = {name: texts["inputs"][key_of(name)] for name in inputs}
    output_texts = {name: texts["outputs"][str(place)] for place, name in enumerate(node["output_name"])}
    for heading, entries, texts_by_name, lists in (
        ("inputs", inputs, input_texts, options),
        ("outputs", outputs, output_texts, {}),
    ):
        place = section_of(page, words[heading])
        if place and entries:
            section = with_block(
                page[place],
                lambda old, entries=entries, texts_by_name=texts_by_name, lists=lists: block_of(
                    entries, texts_by_name, lists, people_s_lines(old), words
                ),
            )
            page = page[: place.start] + section + page[place.stop :]
    return page


def merged(english: Mapping[str, Any], translated: Mapping[str, Any]) -> dict[str, Any]:
    """The texts of a node in another language, with the English of what is not translated yet."""
    return {
        group: {name: translated.get(group, {}).get(name) or entry for name, entry in english[group].items()}
        for group in ("inputs", "outputs")
    }


def files(pack: Pack) -> dict[Path, str]:
    """All pages that are there, as they have to be."""
    pages = {}
    for language in HELP_WORDS:
        translated = read(LOCALES / language / "nodeDefs.json") if language != "en" else {}
        options = read(LOCALES / language / "words.json")
        for name, node in pack.nodes.items():
            path = HELP_PAGES / name / f"{language}.md"
            if path.is_file():
                lists = {
                    key: {option: options.get(about, about) for option, about in abouts.items()}
                    for key, abouts in pack.words.get(name, {}).items()
                }
                texts = merged(texts_of(node), translated.get(name, {}))
                pages[path] = page_of(path.read_text(encoding="utf-8"), node, texts, lists, language)
    return pages


def main() -> None:
    """Write the pages that are not up to date."""
    write(files(ask()))


if __name__ == "__main__":
    main()
