"""Every node of the pack as a person meets it: tooltips, descriptions, search words, ids, cost of loading."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pytest

from ..search_words import WORDS

ROOT = Path(__file__).resolve().parent.parent.parent
HEAVY = {"peft", "open_clip", "timm", "matplotlib", "diffusers"}
# What is read on a node: each has a translation. words: a setting's tooltip, a method's entry on the help page.
TEXTS = ("display_name", "description", "tooltip", "search_aliases", "words")
TEXTS_OF = ("nodes", "deft_ops", "trainers/settings")


def written_ids() -> list[str]:
    """The node ids that stand as literals in the source, in the way ComfyUI Manager's scanner reads them."""
    ids = []
    for path in sorted((ROOT / "nodes").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "Schema":
                value = next(keyword.value for keyword in call.keywords if keyword.arg == "node_id")
                assert isinstance(value, ast.Constant), f"{path.name}: node_id is not a literal"
                ids.append(value.value)
    return ids


def with_nested(inputs: list[Any]) -> list[Any]:
    """Inputs and those that appear with an option of a dynamic choice."""
    nested = []
    for item in inputs:
        nested.append(item)
        for option in getattr(item, "options", None) or []:
            nested += with_nested(getattr(option, "inputs", None) or [])
    return nested


def is_written(value: ast.expr, names: Collection[str]) -> bool:
    """Whether an expression is a literal text, or a list of them; names may stand in it."""
    match value:
        case ast.Constant():
            return isinstance(value.value, str)
        case ast.Name():
            return value.id in names
        case ast.Starred() | ast.FormattedValue():
            return is_written(value.value, names)
        case ast.List():
            return all(is_written(item, names) for item in value.elts)
        case ast.JoinedStr():
            return all(is_written(item, names) for item in value.values)
    return False


def computed_texts(sources: Iterable[str]) -> list[str]:
    """The texts of nodes that are computed, as from a list of the pack's. Parameters and names of literals are not."""
    nodes = [node for text in sources for node in ast.walk(ast.parse(text))]
    names = {node.arg for node in nodes if isinstance(node, ast.arg)} | {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign) and is_written(node.value, ())
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    arguments = [keyword for node in nodes if isinstance(node, ast.Call) for keyword in node.keywords]
    texts = [keyword.value for keyword in arguments if keyword.arg in TEXTS]
    return [ast.unparse(value) for value in texts if not is_written(value, names)]


def test_texts_are_written_and_not_computed() -> None:
    """One more method, metric or table changes no tooltip, so it asks for no translation."""
    paths = [path for folder in TEXTS_OF for path in sorted((ROOT / folder).rglob("*.py"))]
    assert computed_texts(path.read_text(encoding="utf-8") for path in paths) == []


def test_a_computed_text_is_seen() -> None:
    own = """
ENDS = "Two."
ALL = " ".join(METHODS)
def make(what, *words):
    io.Int.Input("a", tooltip=f"{what} {ENDS}", search_aliases=["a", *NAMES])
    io.Int.Input("b", tooltip=ALL, display_name="b")
    io.Schema(description=f"All of {', '.join(METRICS)}.")
NAMES = ["x", "y"]
"""
    assert computed_texts([own]) == ["ALL", "f\"All of {', '.join(METRICS)}.\""]


def texts_of(node: Any) -> list[str]:
    """The description of a node and the tooltips of its inputs and outputs, as they are shown."""
    schema = node.GET_SCHEMA()
    return [schema.description, *(item.tooltip or "" for item in (*with_nested(schema.inputs), *schema.outputs))]


def listed_names(text: str, names: Collection[str]) -> list[str]:
    """Where a text lists two or more of the names, or says "only" of one, without calling them examples."""
    name = rf"(?<![\w-])(?:(?:an?|plain) )?(?:{'|'.join(map(re.escape, names))})(?![\w-])"
    several = rf"{name}(?:(?:,? (?:and|or) |, ?|/){name})+"
    alone = rf"{name} (?:\w+ )?only\b|\bonly (?:for |with |of )?{name}"
    examples = re.compile(r"(?:such as|for example|e\.g\.),? $")
    listed = [*re.finditer(several, text), *re.finditer(alone, text)]
    return [match[0] for match in listed if not examples.search(text[: match.start()])]


def names_of_records(comfyui: Any) -> set[str]:
    """What methods, metrics, protocols, projectors and file formats are called. PEFT is also the name of a program."""
    methods = comfyui.module("deft_ops.methods").METHODS
    names = {*methods} | {record.title for record in methods.values()} - {"PEFT"}
    names |= {*comfyui.module("scoring.metrics").METRICS, *comfyui.module("scoring.protocols").PROTOCOLS}
    names |= {*comfyui.module("deft_ops.projectors").READ_PROJECTORS}
    return names | {*comfyui.module("deft_ops.files").FORMAT_NAMES} - {"native", "peft"}


def test_texts_list_no_records(comfyui: Any) -> None:
    """One more method, metric, protocol or format makes no tooltip or description of a node wrong."""
    texts = [text for node in comfyui.pack_nodes.values() for text in texts_of(node)]
    names = names_of_records(comfyui)
    assert {text: listed for text in texts if (listed := listed_names(text, names))} == {}


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("Small changes are kept. DEFT, PaRa and plain LoRA only.", ["DEFT, PaRa and plain LoRA", "plain LoRA only"]),
        ("DEFT and PaRa keep their rank.", ["DEFT and PaRa"]),
        ("For DEFT only.", ["DEFT only"]),
        ("Only read with LoRA, only for PaRa.", ["only for PaRa"]),
        ("Reads any method, such as DEFT, PaRa or LoRA.", []),
        ("For programs that only read LoRA, T-LoRA's own and LoRAs.", []),
    ],
)
def test_a_list_of_records_is_seen(text: str, listed: list[str]) -> None:
    assert listed_names(text, {"DEFT", "PaRa", "LoRA"}) == listed


def test_ids_are_literal_unique_and_all_loaded(comfyui: Any) -> None:
    ids = written_ids()
    assert len(ids) == len(set(ids))
    assert set(ids) == set(comfyui.pack_nodes)
    assert ids
    assert all(re.fullmatch(r"DEFT[A-Za-z]+", node_id) for node_id in ids)


def test_every_node_explains_itself(comfyui: Any) -> None:
    missing = []
    for node_id, node in comfyui.pack_nodes.items():
        schema = node.GET_SCHEMA()
        if not schema.description:
            missing.append(f"{node_id}: description")
        if not schema.search_aliases:
            missing.append(f"{node_id}: search_aliases")
        if not schema.display_name or not schema.category:
            missing.append(f"{node_id}: display name or category")
        missing += [f"{node_id}: tooltip of input {i.id}" for i in with_nested(schema.inputs) if not i.tooltip]
        missing += [f"{node_id}: tooltip of output {o.display_name}" for o in schema.outputs if not o.tooltip]
        missing += [f"{node_id}: name of an output" for o in schema.outputs if not o.display_name]
    assert missing == []


def test_what_people_type_is_among_the_names_for_the_search(comfyui: Any) -> None:
    """All words of a query in one of them, within its first 30 characters and without the search's own operators.

    tests/server/test_front_end.py asks the page itself.
    """
    names = {node_id: node.GET_SCHEMA().search_aliases for node_id, node in comfyui.pack_nodes.items()}
    for query, right in WORDS.items():
        assert [node_id for node_id in right if query not in names[node_id]] == [], query
    every = [name for own in names.values() for name in own]
    assert [name for name in every if len(name) > 30 or re.search(r"[!^'|=$]", name)] == []
    assert [node_id for node_id, own in names.items() if len(own) != len(set(own))] == []
    assert [node_id for node_id, own in names.items() if not re.search(r"[\u4e00-\u9fff]", " ".join(own))] == []


def test_loading_imports_nothing_heavy(comfyui: Any) -> None:
    assert {name.split(".")[0] for name in comfyui.modules_of_loading} & HEAVY == set()


def test_extension_file_settings(comfyui: Any) -> None:
    """ComfyUI's own reader takes pyproject.toml, and serves the pack's web folder."""
    from comfy_config import config_parser

    configuration = config_parser.extract_node_configuration(str(comfyui.pack_path))
    assert configuration.project.name == "deft-nodes"
    assert configuration.project.supported_comfyui_version == ">=0.24.0"
    assert configuration.project.supported_os
    assert configuration.project.supported_accelerators
    assert Path(comfyui.nodes.EXTENSION_WEB_DIRS[comfyui.pack_path.name]).resolve() == (ROOT / "web").resolve()


@pytest.mark.parametrize("name", ["deft_ops", "nodes"])
def test_the_pack_is_one_copy(comfyui: Any, name: str) -> None:
    """Modules reached by the harness are the ones ComfyUI loaded, under the folder's own name."""
    assert comfyui.module(name).__name__.endswith(f"deft nodes-1_x_0.{name}")
