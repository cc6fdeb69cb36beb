"""Write locales/en/nodeDefs.json out of the nodes, and list what the translations lack.

    make generated PARTS=locales       # after a text of a node has changed
    make generated PARTS=translated    # after its translations were brought up to date

A translation is written by hand: locales/<language>/nodeDefs.json. Beside it source.json holds a mark of the English
text that each entry was made from, so that an entry whose English has changed since is listed (and a test fails).
ComfyUI reads main, nodeDefs, commands and settings.json of a language and nothing else. words.json is for the help
pages: the words of the pack's own lists, by their English; what is not in it stays English.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from generated import ROOT, Pack, ask, write

LOCALES = ROOT / "locales"
ENGLISH_FILE = LOCALES / "en" / "nodeDefs.json"
_SOURCE = "source.json"
GROWN = 8  # slots of a growing input that get a text; each has one of its own, and more rows are rare


def key_of(name: str) -> str:
    """An input's name as the front end looks it up: method.rank is method_rank."""
    return name.replace(".", "_")


def inputs_of(groups: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The name and options of all inputs of /object_info, also those that appear with an option or by connecting.

    An input of a dynamic choice is called choice.input, a slot of a growing input input.slot0.
    """
    for group, members in groups.items():
        if group == "hidden":
            continue
        for name, (kind, *more) in members.items():
            options = more[0] if more else {}
            yield prefix + name, options
            if kind == "COMFY_DYNAMICCOMBO_V3":
                for option in options["options"]:
                    yield from inputs_of(option["inputs"], f"{prefix}{name}.")
            elif kind == "COMFY_AUTOGROW_V3":
                template = options["template"]
                ((_, slot),) = inputs_of(template["input"])
                for number in range(GROWN):
                    yield f"{prefix}{name}.{template['prefix']}{number}", slot


def texts(node: dict[str, Any]) -> dict[str, Any]:
    """The part of a node's description in /object_info that people read, in the form of ComfyUI's locale files."""
    inputs = {}
    for name, options in inputs_of(node["input"]):
        shown = options.get("display_name") or name.rpartition(".")[2]
        inputs[key_of(name)] = {"name": shown, "tooltip": options.get("tooltip", "")}
    outputs = {}
    for index, name in enumerate(node["output_name"]):
        outputs[str(index)] = {"name": name, "tooltip": (node.get("output_tooltips") or [""])[index] or ""}
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": inputs,
        "outputs": outputs,
    }


def entries(nodes: dict[str, Any]) -> dict[str, Any]:
    """The texts of all nodes by path: DEFTPrompts, DEFTPrompts.inputs.token, DEFTPrompts.outputs.0."""
    result: dict[str, Any] = {}
    for node, parts in nodes.items():
        result[node] = {name: parts.get(name) for name in ("display_name", "description")}
        for group in ("inputs", "outputs"):
            result |= {f"{node}.{group}.{name}": entry for name, entry in parts.get(group, {}).items()}
    return result


def marks(nodes: dict[str, Any]) -> dict[str, str]:
    """A short mark of the text of each entry."""
    return {
        path: hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:12]
        for path, entry in entries(nodes).items()
    }


def lacking(english: dict[str, Any], translation: dict[str, Any], source: dict[str, str]) -> list[str]:
    """What a translation lacks, a line each: entries that are missing or empty, left over, or of an older English."""
    needed, there, now = entries(english), entries(translation), marks(english)
    lines = [
        f"{path}: not translated"
        for path, entry in needed.items()
        if not all(there.get(path, {}).get(part) for part in entry)
    ]
    lines += [f"{path}: left over, no node has it" for path in there if path not in needed]
    lines += [
        f"{path}: the English has changed: {json.dumps(needed[path])}"
        for path in needed
        if path in there and source.get(path) != now[path]
    ]
    return lines


def read(path: Path) -> dict[str, Any]:
    """A JSON file, empty where there is none."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return content


def translations() -> list[Path]:
    """The folders of the other languages."""
    return sorted(folder for folder in LOCALES.iterdir() if folder.is_dir() and folder != ENGLISH_FILE.parent)


def english_of(pack: Pack) -> dict[str, Any]:
    """The English texts of all nodes."""
    return {name: texts(node) for name, node in sorted(pack.nodes.items())}


def text_of(content: Mapping[str, Any]) -> str:
    """A file of texts."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def files(pack: Pack) -> dict[Path, str]:
    """The English file."""
    return {ENGLISH_FILE: text_of(english_of(pack))}


def translated_files(pack: Pack) -> dict[Path, str]:
    """The marks of the English that the translations were made from, taken as brought up to date."""
    return {folder / _SOURCE: text_of(marks(english_of(pack))) for folder in translations()}


def all_lacking(pack: Pack) -> list[str]:
    """What the translations lack, a line each."""
    return [
        f"{folder.name}: {line}"
        for folder in translations()
        for line in lacking(english_of(pack), read(folder / ENGLISH_FILE.name), read(folder / _SOURCE))
    ]


def main() -> None:
    """Ask a server for the nodes, write the English file, and compare the others with it."""
    pack = ask()
    write(files(pack))
    if "--translated" in sys.argv[1:]:
        write(translated_files(pack))
    for line in all_lacking(pack):
        print(f"[generated] {line}")


if __name__ == "__main__":
    main()
