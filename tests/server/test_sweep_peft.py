"""PEFT's image benchmark, the whole plan with the demo's model: prepared, run and reported by the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from ..peft_files import CAPTIONS, DRIFT, PLAN, PROMPTS, WORKFLOW, peft_files, small
from .sweep_tools import cells, sweeps

ROWS = ["DEFT r32", "PaRa r32", "LoRA r32", "LoRA r64", "DoRA r64", "LoKr r32", "OFT"]


@pytest.fixture
def dinov2(server: Any) -> Path:
    """DINOv2-base with random weights, so that its scores are the published ones by protocol."""
    import timm

    path = server.base / "models" / "scorers" / "dinov2-base.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("vit_base_patch14_dinov2", img_size=224, num_classes=0)
    save_file({name: value.half() for name, value in model.state_dict().items()}, path)
    return path


@pytest.mark.timeout(1800)
def test_the_whole_benchmark(server: Any, dinov2: Path, tmp_path: Path) -> None:
    photos, parameters = peft_files(tmp_path)
    said = sweeps("peft", photos, parameters, "--input", server.base / "input", "--prompts", tmp_path / PROMPTS)
    assert all(f": {caption}" in said for caption in CAPTIONS)
    plan = yaml.safe_load(PLAN.read_text())
    (tmp_path / "line.json").write_text(json.dumps(small(json.loads(WORKFLOW.read_text()))))
    plan["workflow"] = "line.json"
    plan["set"]["Train.steps"] = 2
    path, store = tmp_path / PLAN.name, tmp_path / "store"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    prompts = 2 + len(DRIFT)
    done = sweeps("run", path, "--store", store, "--server", server.url, timeout=1500)
    assert f"{7 * 3 * (1 + prompts)} done, 0 failed, 0 cancelled" in done
    found = cells(store).values()
    trained = [cell["labels"] for cell in found if cell["kind"] == "training"]
    assert sorted((one["method"], one["seed"]) for one in trained) == sorted(
        (row, str(seed)) for row in ROWS for seed in range(3)
    )
    for cell in found:
        if cell["kind"] == "picture":
            pictures = [file for file in cell["files"] if file["name"].endswith(".png")]
            assert len(pictures) == (3 if cell["labels"]["score"] == "likeness" else 1)

    sweeps("report", path, "--store", store)
    report = store / "report"
    with open(report / "scores.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["method"] for line in lines] == ROWS
    for line in lines:
        assert -1 <= float(line["DINOv2"]) <= 1
        assert 0 < float(line["drift"]) <= 1  # each row has changed the model
        assert all(float(line[name]) > 0 for name in ("training s", "values", "MiB", "s a step", "peak MiB"))
    for metric in ("DINOv2", "drift"):
        with open(report / f"scores-{metric}.csv", newline="") as file:
            across = list(csv.DictReader(file))
        assert [line["method"] for line in across] == ROWS
        for line in across:  # trainings of other seeds are other trainings
            assert len({line[f"seed {seed}"] for seed in range(3)}) == 3
    text = (report / "report.md").read_text()
    assert "## Beside published values: PEFT, image generation" in text
    assert "95% interval of the measured mean, over 3 seeds" in text
    assert "Warning" not in text
    beside = [[part.strip() for part in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    published = {"DEFT": "0.7088", "PaRa": "0.6892", "DoRA": "0.6680", "LoKr": "0.6974", "OFT": "0.7078"}
    for line in lines:
        method, _, rank = line["method"].partition(" r")
        (row,) = [
            one
            for one in beside
            if len(one) == 7
            and one[4] == line["method"]
            and one[3].startswith("0.6")
            or len(one) == 7
            and one[4] == line["method"]
            and one[3].startswith("0.7")
        ]
        assert row[:2] == [method, rank]
        assert row[3] == published.get(method, {"32": "0.6972", "64": "0.7431"}.get(rank))
        mean, _, interval = row[5].partition(" ")
        assert float(mean) == pytest.approx(float(line["DINOv2"]), abs=5.1e-5)
        low, high = map(float, interval.strip("[]").split(","))
        assert low <= float(mean) <= high
        assert low < high
        assert float(row[6]) == pytest.approx(float(line["DINOv2"]) - float(row[3]), abs=1.1e-4)
    costs = {one[2]: one for one in beside if len(one) == 11}
    assert costs["DoRA r64"][:4] == ["DoRA", "64", "DoRA r64", "1436"]
    assert costs["DoRA r64"][4] != ""  # measured
    assert [one[2] for one in beside if len(one) == 11 and one[0] in ("LoHa", "IA3")] == ["not measured"] * 2
    page = (report / "index.html").read_text()
    assert '<a href="#published">' in page
    assert "0.7088" in page
