"""The help of every node opened in a browser, in both languages, and the names that the nodes show there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import OPENED, Seen

ROOT = Path(__file__).resolve().parent.parent.parent
LAST_HEADING = {"en": "Mistakes", "zh": "常见错误"}
CONTROLS = ("control_after_generate", "fixed")  # the page's own widget behind a seed, by what it starts at


def names(language: str, node_id: str) -> dict[str, Any]:
    """A node's entry of a locale file."""
    entry: dict[str, Any] = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text())[node_id]
    return entry


@pytest.mark.timeout(600)
@pytest.mark.parametrize("language", OPENED)
def test_every_node_has_help_and_names(in_language: Seen, language: str) -> None:
    seen = in_language(language, "help")
    assert (seen["refused"], seen["errors"]) == ([], [])
    for node_id in OPENED[language]:
        node, entry = seen["nodes"][node_id], names(language, node_id)
        assert node["title"] == node["heading"] == entry["display_name"]
        ((picture),) = node["pictures"]
        assert picture["src"].endswith(f"/extensions/deft-nodes/docs/{node_id}/node.png")
        assert picture["width"] >= 300
        assert f"\n{LAST_HEADING[language]}\n" in node["text"], node_id
        assert "<!--" not in node["text"], node_id  # the marks around the lists
        own = {name: shown for name, shown in node["inputs"].items() if name not in CONTROLS}
        assert own == {name: entry["inputs"][name.replace(".", "_")]["name"] for name in own}, node_id
        assert [name for name in own if name.rpartition(".")[2] not in node["text"]] == [], node_id
        assert node["outputs"] == [output["name"] for output in entry["outputs"].values()]
