"""The side bar's tab of trainings in ComfyUI's own front end, used as a person does."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deft_pack.sweeps.plan import read_plan
from deft_pack.sweeps.report import Layout, write_report
from deft_pack.workflow_sources.packing import flattened

from ..unit.test_run_history import line
from ..unit.test_sweep_report import EVIL, Store, jsonl, png, score
from .example_files import WORKFLOWS
from .sweep_tools import cells, sweeps
from .test_front_end import MODES, SEED

DUCK, CAT = "pages/duck_0123456789", "pages/cat_abcdef0123"
TITLE = "<img src=x> deft rank 4"  # shown as text


@pytest.fixture
def runs(server: Any) -> Iterator[Path]:
    """Two runs as trainings leave them; the adapter's file is the demo's."""
    output = server.base / "output"
    (adapter,) = (Path(__file__).parents[2] / "demo" / "models" / "loras").glob("*duck_deft.safetensors")
    for name, first in ((DUCK, 1.0), (CAT, 0.5)):
        folder = output / name
        folder.mkdir(parents=True)
        (folder / "log.jsonl").write_text("".join(line(step, first / step) for step in range(1, 101)))
        facts = {"title": TITLE, "method": "deft", "base": "SDXL", "steps": 100, "created": 1e9, "state": "finished"}
        (folder / "run.json").write_text(json.dumps(facts | {"settings": {"rank": 4, "options": {"alpha": 16}}}))
        shutil.copy(adapter, folder / "adapter_00000100.safetensors")
        for step in (50, 100):
            Image.new("RGB", (48, 32), (step, 0, 0)).save(folder / f"preview_{step:08}.jpg")
    yield output
    shutil.rmtree(output / "pages")


def sweep_report(folder: Path) -> Path:
    """The page of a sweep of three methods, two prompts and two ranks; the base has no rank, one label is hostile."""
    store = Store(folder / "store")
    for (method, like), prompt in product((("Base", 0.3), ("LoRA", 0.5), ("DEFT", 0.7)), (EVIL, "snow")):
        for rank in ("4", "16") if method != "Base" else ("",):
            labels = {"method": method, "prompt": prompt} | ({"rank": rank} if rank else {})
            values = {"DINO": like + int(rank or 0) / 100, "CLIP-T": 1 - like}
            files = {"s.jsonl": jsonl(*(score(name, value, prompt) for name, value in values.items()))}
            key = f"{method}{rank}{(EVIL, 'snow').index(prompt)}"
            store.add(key, "picture", labels, files | {"a.png": png((20 * len(store.cells), 9, 9))})
    return write_report(store.cells, folder / "out", EVIL, Layout(rows=("method",)))[0]


SAVED_SIZE = [300, 700]  # of the grid's node


def without_subgraphs(name: str, folder: Path) -> str:
    """The file of an example as it was saved before it had subgraphs."""
    graph = flattened(json.loads((WORKFLOWS / name).read_text(encoding="utf-8")))
    for node in graph["nodes"]:
        if node["type"] == "DEFTComparisonGrid":
            node["size"] = SAVED_SIZE
    (folder / name).write_text(json.dumps(graph), encoding="utf-8")
    return str(folder / name)


ROOMS = {"DEFTComparisonGrid": 720, "DEFTScoreTable": 960, "DEFTFidelityPlot": 600}
REPORT = {
    "filter": {"axis": "prompt", "label": "snow", "words": "lora 16"},
    "sort": "DINO",
    "across": "rank",
    "up": "DINO",
}


def check_report(seen: dict[str, Any]) -> None:
    """The order, numbers and pictures that follow from the values in `sweep_report`."""
    assert seen["errors"] == []
    assert seen["asked"] == []  # nothing but files
    assert seen["address"].startswith("file:")
    assert seen["rows"] == ["Base", "LoRA", "DEFT"]
    assert (len(seen["tiles"]), seen["dots"]) == (10, 10)
    light, dark = seen["paper"][0], seen["paper"][1]
    assert light != dark
    assert seen["paper"] == [light, dark, light, dark]  # of the system twice, then light, then dark and kept
    assert seen["sorted"] == [["DEFT", "LoRA", "Base"], ["Base", "LoRA", "DEFT"], ["Base", "LoRA", "DEFT"]]
    assert (len(seen["filtered"]["tiles"]), seen["filtered"]["dots"]) == (5, 5)
    assert all(json.loads(labels)["prompt"] == "snow" for labels in seen["filtered"]["tiles"])
    best = {"Base": [0.3], "LoRA": [0.66, 0.54], "DEFT": [0.86, 0.74]}
    assert seen["ordered"] == [[name, pytest.approx(value)] for name, values in best.items() for value in values]
    assert [json.loads(labels) for labels in seen["searched"]["tiles"]] == [
        {"method": "LoRA", "prompt": "snow", "rank": "16"}
    ]
    assert seen["searched"]["said"] == "1 of 10 pictures"
    assert seen["lines"] == [2, 2]  # LoRA's and DEFT's means of two ranks; the base has none
    first, second, closed = seen["large"]
    assert first["open"]
    assert second["open"]
    assert not closed["open"]
    assert first["source"] != second["source"]
    assert EVIL in first["text"] + second["text"]


PLANS: dict[str, dict[str, Any]] = {
    "canvas": {
        "source": str(WORKFLOWS / "2 Use my adapter (demo).json"),
        "chosen": [("40:41", "text"), ("40:44", "seed")],  # of nodes in a subgraph
    },
    "vue": {
        "chosen": [("7", "prompts"), ("41", "steps")],
        "retitle": {"7": '提示词: "x" # y', "41": "Same", "42": "Same"},
        "locale": "zh",
    },
}
SET_BY = {
    "canvas": [("Prompt.text", "a sks teddy bear on a blue background"), ("Draw.seed", 7)],
    "vue": [
        (
            '提示词: "x" # y.prompts',
            "\n".join(
                f"a sks teddy bear on a {color} background" for color in ("red", "blue", "green", "teal", "white")
            ),
        ),
        ("41.steps", 20),  # two nodes have its title
    ],
}
HEADINGS = {"canvas": "A plan for batch runs of this workflow", "vue": "此工作流的批量运行计划"}


def check_plan(seen: dict[str, Any], mode: str, server: Any, folder: Path) -> None:
    """The two files are what the page sends and a plan of it, which runs as it is and with another seed."""
    assert seen["toasts"] == []
    assert seen["heading"] == HEADINGS[mode]
    assert (seen["checked"], seen["hidden"]) == (0, 0)  # nothing is chosen; the filter leaves no node
    workflow, plan = map(Path, seen["files"])
    name = {"canvas": "2_Use_my_adapter_demo", "vue": "load_and_apply"}[mode]
    assert (workflow.name, plan.name) == (f"{name}.json", f"{name}.yaml")
    assert json.loads(workflow.read_text(encoding="utf-8")) == seen["sent"]
    axes = read_plan(plan).axes
    assert [value.targets for axis in axes for value in axis.values] == [(each,) for each in SET_BY[mode]]
    options = ["--server", server.url, "--store", str(folder / "cells")]
    shown = sweeps("plan", plan, *options)
    assert "1 picture cells, 0 of them in the store" in shown
    if mode == "vue":
        return
    text = plan.read_text(encoding="utf-8")
    plan.write_text(text.replace("seeds: 1 ", "seeds: 2 "), encoding="utf-8")
    sweeps("run", plan, *options)
    made = {cell["labels"]["seed"]: cell["prompt"] for cell in cells(folder / "cells").values()}
    assert set(made) == {"7", "8"}
    for seed, prompt in made.items():
        sent = copy.deepcopy(seen["sent"])
        sent["40:44"]["inputs"]["seed"] = int(seed)
        assert prompt == sent


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", MODES)
def test_the_tab(server: Any, drive_browser: Any, runs: Path, mode: str, tmp_path: Path) -> None:
    values = {"DEFTTrainAdapter": {"steps": 5000}, "DEFTTrainingPreviews": {"every": 100_000}}
    options = {"vue": MODES[mode], "select": DUCK, "compare": CAT, "set": values, "seed": SEED + 30 + MODES[mode]}
    options["plan"] = PLANS[mode] | {"folder": str(tmp_path)}
    if mode == "vue":
        (tmp_path / "saved").mkdir()
        options["plan"]["source"] = without_subgraphs("load_and_apply.json", tmp_path / "saved")
    if mode == "canvas":  # the page of a sweep needs no server: it is opened in the same browser
        options["report"] = REPORT | {"file": str(sweep_report(tmp_path))}
    source = without_subgraphs("train_with_previews.json", tmp_path)
    seen = drive_browser("runs", json.dumps(options), source)
    assert seen["errors"] == []
    if mode == "canvas":
        check_report(seen["report"])
    check_plan(seen["plan"], mode, server, tmp_path)
    assert seen["toasts"] == []
    selected, compared = seen["selected"], seen["compared"]
    duck = next(row for row in selected["rows"] if row.startswith("duck"))
    assert all(part in duck for part in ("0123456789", "deft", "SDXL", "finished", "step 100/100", "loss 0.01"))
    assert TITLE in selected["head"]
    assert selected["markup"] == 0
    assert selected["previews"] == [["step 50", 48], ["step 100", 48]]
    assert "step 100\nUse" in selected["body"]
    assert 'options{"alpha":16}' in selected["settings"]
    assert (selected["points"], len(selected["legend"])) == (100, 1)
    assert (compared["points"], len(compared["legend"])) == (200, 2)
    assert compared["drawn"] > selected["drawn"] > 500
    # "Use": a loader with the file, where it is seen; the server takes the file.
    # New nodes of results have room for their pictures; a saved one keeps its size.
    assert seen["sizes"]["saved"] == SAVED_SIZE
    for name, width, height, least, widgets in seen["sizes"]["made"]:
        if name in ROOMS:
            assert width == ROOMS[name]
            assert height >= widgets + 300
        else:
            assert least <= width < 500
    ((used),) = seen["used"]
    assert used["file"] == f"output/{DUCK}/adapter_00000100.safetensors"
    left, top, width, height = used["seen"]
    assert left < used["pos"][0] < left + width
    assert top < used["pos"][1] < top + height
    # After another tab it is as it was.
    assert seen["back"] == compared
    # A training that goes on, and its end by the tab's own button.
    during, stopped = seen["during"], seen["stopped"]
    assert all(part in during["head"] for part in ("running", "/5000", "s a step", "left", "Stop"))
    assert stopped["end"] == "execution_interrupted"
    assert "stopped" in stopped["head"]
    assert "Stop" not in stopped["head"]
    assert stopped["points"] > 20
    assert "Use" in stopped["body"]  # the last whole step is kept


def test_the_server_takes_a_run_s_adapter(server: Any, runs: Path) -> None:
    prompt = {
        "1": {
            "class_type": "DEFTLoadAdapterFile",
            "inputs": {"file": f"output/{DUCK}/adapter_00000100.safetensors", "projector": "auto"},
        },
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}},
    }
    assert "deft" in str(server.run(prompt).outputs["2"])
