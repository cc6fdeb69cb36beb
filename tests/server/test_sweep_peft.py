"""PEFT's image benchmark, the whole plan with the demo's model: prepared, run and reported by the command line."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from deft_pack.scoring.published import PUBLISHED

from ..everyday import is_everyday
from ..peft_files import CAPTIONS, DRIFT, PLAN, PROMPTS, WORKFLOW, peft_files, small
from .sweep_tools import cells, sweeps

UNPUBLISHED = ["SVDiff", "DreamBooth"]
ROWS = ["DEFT r32", "PaRa r32", "LoRA r32", "LoRA r64", "DoRA r64", "LoKr r32", "OFT", *UNPUBLISHED]
if is_everyday():  # comfy/test_sweep_plans.py runs the plan's nodes, comfy/test_every_method.py each method
    ROWS = ["DEFT r32", "LoRA r64"]
SEEDS = ["0", "1"] if is_everyday() else ["0", "1", "2"]


@pytest.fixture
def dinov2(server: Any) -> Path:
    """DINOv2-base with random weights, so that its scores are of the protocol that the published ones are of.

    They are larger than those that a training begins with, which give all pictures the same features.
    """
    import timm

    path = server.base / "models" / "scorers" / "dinov2-base.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        shapes = timm.create_model("vit_base_patch14_dinov2", img_size=224, num_classes=0).state_dict()
    generator, weights = torch.Generator().manual_seed(0), {}
    for name, shape in shapes.items():
        weights[name] = torch.full(shape.shape, float(not name.endswith("bias")), dtype=torch.float16)
        if shape.ndim > 1:
            weights[name] = torch.randn(shape.shape, generator=generator).mul_(0.05).half()
    save_file(weights, path)
    return path


@pytest.mark.timeout(1800)
def test_the_whole_benchmark(server: Any, dinov2: Path, tmp_path: Path) -> None:
    photos, parameters = peft_files(tmp_path, valid_size=2, test_size=1)
    output = sweeps("peft", photos, parameters, "--input", server.base / "input", "--prompts", tmp_path / PROMPTS)
    assert all(f": {caption}" in output for caption in CAPTIONS)
    plan = yaml.safe_load(PLAN.read_text())
    (tmp_path / "line.json").write_text(json.dumps(small(json.loads(WORKFLOW.read_text()))))
    plan["workflow"] = "line.json"
    plan["set"] |= {"Train.steps": 2, "Train.learning_rate": 0.01}  # so that two steps change the pictures
    methods = plan["axes"]["method"]["values"]
    plan["axes"]["method"]["values"] = methods = {name: methods[name] for name in methods if name in ROWS}
    seeds = plan["axes"]["seed"]["values"]
    plan["axes"]["seed"]["values"] = {seed: seeds[seed] for seed in SEEDS}
    for row in methods.values():
        for name in ("Train.learning_rate", "Train.steps"):
            row.pop(name, None)
    path, store = tmp_path / PLAN.name, tmp_path / "store"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    prompts = 1 + len(DRIFT)
    done = sweeps("run", path, "--store", store, "--server", server.url, timeout=1500)
    assert f"{len(ROWS) * len(SEEDS) * (1 + prompts)} done, 0 failed, 0 cancelled" in done
    stored_cells = cells(store).values()
    trained = [cell["labels"] for cell in stored_cells if cell["kind"] == "training"]
    assert sorted((one["method"], one["seed"]) for one in trained) == sorted(
        (row, seed) for row in ROWS for seed in SEEDS
    )
    for cell in stored_cells:
        if cell["kind"] == "picture":
            pictures = [file for file in cell["files"] if file["name"].endswith(".png")]
            assert len(pictures) == (3 if cell["labels"]["score"] == "likeness" else 1)

    sweeps("report", path, "--store", store)
    measured = check_tables(store / "report")
    check_published(store / "report", measured)


def check_tables(report: Path) -> list[dict[str, str]]:
    """Each method with both metrics, its costs, and trainings that are not the same; the lines of scores.csv."""
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
        assert all(len({line[f"seed {seed}"] for seed in SEEDS}) == len(SEEDS) for line in across)
    return lines


def rows_below(text: str, heading: str) -> dict[tuple[str, str], list[str]]:
    """The lines of the table below a heading of the report, by method and rank."""
    section = text.split(f"\n### {heading}\n")[1].split("\n## ")[0].split("\n### ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {(row[0], row[1]): row[2:] for row in rows[2:]}


def check_published(report: Path, measured: list[dict[str, str]]) -> None:
    """The measured values of each row stand beside PEFT's, with intervals over the seeds; so do the costs."""
    text = (report / "report.md").read_text()
    assert "## Beside published values: PEFT, image generation" in text
    assert f"95% interval of the measured mean, over {len(SEEDS)} seeds" in text
    assert "**Warning:**" not in text
    table = PUBLISHED["PEFT, image generation"]
    costs = rows_below(text, "Costs")
    for metric in ("DINOv2", "drift"):
        beside = rows_below(text, metric)
        assert len([row for row in beside if row[0]]) == len(table.values) == 9  # others have no method there
        for line in measured:
            if line["method"] in UNPUBLISHED:
                assert f"| not published | {line['method']} |" in text
                continue
            method, _, rank = line["method"].partition(" r")
            _, published, label, value, difference = beside[method, rank]
            assert label == line["method"]
            assert float(published) == table.values[method, int(rank) if rank else None, ""][metric]
            mean, low, high = map(float, re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", value).groups())  # type: ignore[union-attr]
            assert mean == pytest.approx(float(line[metric]), abs=5.1e-5)
            assert low < mean < high
            assert float(difference) == pytest.approx(float(line[metric]) - float(published), abs=5.1e-5)
            assert costs[method, rank][0] == line["method"]
            assert float(costs[method, rank][2]) == pytest.approx(float(line["training s"]), abs=0.51)
        for method, rank in (("LoHa", "32"), ("IA3", "")):
            assert beside[method, rank][2] == costs[method, rank][0] == "not measured"
    page = (report / "index.html").read_text()
    assert '<a href="#published">' in page
    assert "0.7088" in page
