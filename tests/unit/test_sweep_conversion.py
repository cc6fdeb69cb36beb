"""Workflows in UI form become what ComfyUI's page sends, or are refused.

conversion/cases.jsonl has small workflows with what the page itself made of them: `api` in the front end 1.47.12
(ComfyUI 0.30.0), `old` in 1.45.15 (ComfyUI 0.24.0) where it differs, `error` where the page fails. object_info.json is
what ComfyUI 0.30.0 says of the nodes in them. tests/server compares ComfyUI's own templates with the page.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deft_pack.sweeps.conversion import NotConvertible, convert
from deft_pack.sweeps.conversion.dynamic_prompts import OpenChoice, read

FOLDER = Path(__file__).parent / "conversion"
INFO = json.loads((FOLDER / "object_info.json").read_text())
CASES = {case["name"]: case for case in map(json.loads, (FOLDER / "cases.jsonl").read_text().splitlines())}
# Refused though the page sends something: a date, which is another text at each run, and a node that is not there.
REFUSED = {
    "name04": "Save Image (4): `filename_prefix`: has %date:yyyy%, which is another text at each run",
    "unknown0": "NoSuchNode (2): this ComfyUI has no node NoSuchNode; install its pack",
}


def converted(workflow: dict[str, Any], front_end: str = "1.47.12") -> dict[str, Any]:
    """The prompt of a workflow, its texts read, without the nodes' titles."""
    result = convert(workflow, INFO, front_end)
    for node_id, name in result.dynamic:
        result.prompt[node_id]["inputs"][name] = read(result.prompt[node_id]["inputs"][name])
    return {key: {name: node[name] for name in ("class_type", "inputs")} for key, node in result.prompt.items()}


def exactly(value: Any) -> str:
    """JSON: true is not 1 there, and 1.0 is not 1."""
    return json.dumps(value, sort_keys=True, indent=1)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "api" in case and name not in REFUSED])
def test_the_prompt_is_the_page_s(name: str) -> None:
    case = CASES[name]
    assert exactly(converted(case["workflow"])) == exactly(case["api"])


def test_numbers_are_those_of_javascript() -> None:
    """Recorded in the page: JSON.stringify(JSON.parse(text))."""
    workflow = json.loads(json.dumps(CASES["converted"]["workflow"]))
    for saved, sent in ((8.0, 8), (2**64 - 1, 18446744073709552000), (2**53 + 1, 9007199254740992), (0.5, 0.5)):
        for node in workflow["nodes"]:
            if node["type"] == "PrimitiveInt":
                node["widgets_values"][0] = saved
        assert exactly(converted(workflow)["2"]["inputs"]["value"]) == exactly(sent)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "api" in case and name not in REFUSED])
def test_an_older_page_gives_subgraphs_their_own_values(name: str) -> None:
    """Before 1.47 a subgraph's node shows what is inside; its saved values are not read."""
    case = CASES[name]
    assert exactly(converted(case["workflow"], "1.45.15")) == exactly(case.get("old", case["api"]))


def test_a_front_end_that_is_not_known_is_refused() -> None:
    workflow = CASES["sub_plain"]["workflow"]
    for version in ("1.48.0", "1.44.19"):
        with pytest.raises(NotConvertible, match=rf"front end {version}\).*1.45 to 1.47.*Export \(API\)"):
            converted(workflow, version)
    # Where old and new rules differ, the version must be known; elsewhere it need not be.
    for version in ("1.46.15", ""):
        with pytest.raises(NotConvertible, match=r"other values in older front ends.*Export \(API\)"):
            converted(workflow, version)
        assert exactly(converted(CASES["combo00"]["workflow"], version)) == exactly(CASES["combo00"]["api"])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "error" in case])
def test_what_the_page_cannot_run_is_refused(name: str) -> None:
    with pytest.raises(NotConvertible, match=r"\(\d+\): .*connect it"):
        converted(CASES[name]["workflow"])


@pytest.mark.parametrize("name, text", REFUSED.items())
def test_what_cannot_be_known_is_refused(name: str, text: str) -> None:
    with pytest.raises(NotConvertible) as refusal:
        converted(CASES[name]["workflow"])
    assert str(refusal.value).startswith(text)


# By the page's processDynamicPrompt, recorded in the front end 1.47.12.
TEXTS = {
    "a cat // a remark\nin the snow": "a cat \nin the snow",
    "a /* b\nc */ d": "a  d",
    "see http://x.org": "see http:",
    "{one}": "one",
    "{a|a}": "a",
    "{ {b} ": " b ",
    "x } y | z": "x } y | z",
    r"\{a\|b\}": "{a|b}",
    r"C:\temp": r"C:\temp",
    "end\\": r"end\undefined",
    '{ "a": 1 }': ' "a": 1 ',
}


@pytest.mark.parametrize("text, sent", TEXTS.items())
def test_texts_are_read_as_the_page_reads_them(text: str, sent: str) -> None:
    assert read(text) == sent


def test_a_choice_is_left_to_the_caller() -> None:
    with pytest.raises(OpenChoice, match=r"\{red\|green\}"):
        read("a {red|green} cat")
    assert read("a {red|{dark|light} green} cat", lambda options: options[-1]) == "a light green cat"
    seen: list[list[str]] = []
    read("{a|b} {c|d}", lambda options: seen.append(list(options)) or options[0])  # type: ignore[func-returns-value]
    assert seen == [["a", "b"], ["c", "d"]]
