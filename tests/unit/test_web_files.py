"""What the page loads of the pack by itself, and what comes with it from elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import deft_pack
from deft_pack.deft_ops.version import VERSION
from deft_pack.sweeps.training_nodes import TRAINERS

ROOT = Path(__file__).resolve().parent.parent.parent
WEB = ROOT / deft_pack.WEB_DIRECTORY
# Of uPlot 1.6.32 (npm), dist/uPlot.esm.js and dist/uPlot.min.css.
UPLOT = {
    "uPlot.mjs": "5dd9b3281aa64b461b42d9945f6adb2649d346502b12281a9ae0d46599a80eba",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


def test_one_file_is_loaded_by_itself() -> None:
    """ComfyUI's page imports every .js below the folder, libraries too."""
    assert [path.relative_to(WEB).as_posix() for path in WEB.rglob("*.js")] == ["deft.js"]


def test_the_version_is_in_every_address() -> None:
    """Browsers keep .mjs and .css of an earlier version otherwise."""
    text = (WEB / "deft.js").read_text()
    assert re.findall(r"^const VERSION = '(.*)'$", text, re.M) == [VERSION]
    for path in [WEB / "deft.js", *(WEB / "deft").glob("*.mjs")]:
        if path.name in UPLOT:
            continue
        for line in path.read_text().splitlines():
            if re.search(r"\.(mjs|css)\b", line) and not line.lstrip().startswith("//"):
                assert "${search}" in line or "?v=${VERSION}" in line, (path.name, line)


def test_what_a_file_takes_of_another_is_exported_there() -> None:
    """Import by destructuring gives undefined for a name that is not there, without an error."""
    pattern = r"^const \{ ([\w, ]+) \} = await (?:part\('(\w+)'\)|import\(`\./(\w+)\.mjs)"
    taken = []
    for path in [WEB / "deft.js", *(WEB / "deft").glob("*.mjs")]:
        if path.name not in UPLOT:
            for names, by_part, by_file in re.findall(pattern, path.read_text(encoding="utf-8"), re.M):
                taken += [(path.name, by_part or by_file, name) for name in names.split(", ")]
    assert len(taken) > 20
    for file, module, name in taken:
        text = (WEB / "deft" / f"{module}.mjs").read_text(encoding="utf-8")
        assert re.search(rf"^export (?:async )?(?:const|let|function) {name}\b", text, re.M), (file, module, name)


def test_what_is_not_ours_is_unchanged_and_has_its_licence() -> None:
    for name, digest in UPLOT.items():
        assert hashlib.sha256((WEB / "deft" / name).read_bytes()).hexdigest() == digest
    assert "The MIT License" in (WEB / "deft" / "uPlot-LICENSE.txt").read_text()


def test_text_from_disk_is_never_markup() -> None:
    """Names of runs and messages may hold anything: they go into text, not into HTML."""
    for path in [WEB / "deft.js", *(WEB / "deft").glob("*.mjs")]:
        if path.name not in UPLOT:
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", path.read_text())


def test_settings_have_names_in_both_languages() -> None:
    settings = re.search(r"^  settings: \[.*?^  \],$", (WEB / "deft.js").read_text(), re.M | re.S)
    assert settings
    ids = set(re.findall(r"id: '(DEFT\.\w+)'", settings[0]))
    assert ids
    for language in ("en", "zh"):
        names = json.loads((ROOT / "locales" / language / "settings.json").read_text(encoding="utf-8"))
        assert set(names) >= {name.replace(".", "_") for name in ids}


def test_curves_are_at_every_training_node_of_the_pack() -> None:
    """The page has a list of its own, of the table for batch runs and scores."""
    listed = re.search(r"^const TRAINERS = new Set\(\[(.*)\]\)$", (WEB / "deft" / "node.mjs").read_text(), re.M)
    assert listed
    assert sorted(re.findall(r"'(\w+)'", listed[1])) == sorted(kind for kind in TRAINERS if kind.startswith("DEFT"))
