"""PEFT's image benchmark: its plan and line beside PEFT's own settings, and run with the demo's model.

The whole plan is run by tests/server/test_sweep_peft.py.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from deft_pack.workflow_sources import peft_image, plans

from .. import peft_files
from . import architectures
from .conftest import BASE, ROOT
from .test_sweep_plans import cell, plan_of, titled, values_of
from .test_tables import of_kind, prompt_of

PEFT_TARGETS = ["to_v", "linear_in", "to_qkv_mlp_proj", "to_k", "add_k_proj", "linear_out", "to_q", "add_q_proj"]
PEFT_TARGETS += ["to_out.0", "add_v_proj", "to_add_out"]  # of its adapter_config.json, the same in all rows


def test_the_benchmark_trains_the_layers_of_peft(comfyui_session: Any) -> None:
    """Those that PEFT finds in diffusers' network by its target_modules, by their names in ComfyUI's.

    The published number of LoRA's values, 38,338,560, is of these layers with q, k and v apart; here they are one.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    targets, names = (comfyui_session.module(name) for name in ("trainers.settings.targets", "models.names"))
    key = comfyui_session.module("models.names.targets").target_key
    theirs = inject_adapter_in_model(LoraConfig(target_modules=PEFT_TARGETS), architectures.diffusers_flux2())
    patcher = architectures.comfyui_flux2()
    table = names.diffusers_names(patcher)
    found = {
        key(table[name]).removeprefix("diffusion_model.").removesuffix(".weight")
        for name, module in theirs.named_modules()
        if isinstance(module, LoraLayer)
    }
    ours = targets.select(
        patcher.model.diffusion_model, peft_image.LAYERS, exclude=plan_of("peft_benchmark")["set"]["Settings.exclude"]
    )
    assert set(ours) == found
    width, mlp = 3072, 9216  # of klein 4B: 5 double blocks, 20 single ones
    double = 2 * (4 * 2 * width + (width + 2 * mlp) + (mlp + width))
    published = 32 * (5 * double + 20 * (width + 3 * width + 2 * mlp))
    assert published == peft_table().costs["LoRA", 32, ""].values


def peft_table() -> Any:
    from deft_pack.scoring.published import PUBLISHED

    return PUBLISHED[plans.PUBLISHED]


def test_rows_of_the_benchmark_are_published_ones() -> None:
    """Each of its rows is one of PEFT's, in its settings; those of PEFT that are not here cannot be trained."""
    from deft_pack.deft_ops.methods import METHODS, TRAINABLE

    table, plan = peft_table(), plan_of("peft_benchmark")
    rows = values_of(plan["axes"]["method"])
    found = {key: [label for label in rows if table.matches(key, label, "", None, "")] for key in table.values}
    assert {label for labels in found.values() for label in labels} == set(rows)
    lacking = {key[0].lower() for key, labels in found.items() if not labels}
    assert lacking == {"loha", "ia3"}
    assert lacking <= set(METHODS)
    assert not lacking & set(TRAINABLE)
    for (method, rank, _), (label,) in ((key, labels) for key, labels in found.items() if labels):
        here = cell("peft_benchmark", method=label)
        train = of_kind(here, "DEFTTrainAdapter")[0]
        assert (train["method"], train.get("method.rank")) == (method.lower(), rank)
        assert train["learning_rate"] == (1e-3 if method == "LoKr" else 1e-4)
        assert (train["steps"], train["batch_size"]) == (750, 2)
        assert of_kind(here, "DEFTScoreImages")[0]["label"] == label
    drift = cell("peft_benchmark", method="OFT", score="drift", seed="2", prompt="drift 00")
    assert not of_kind(drift, "DEFTScoreImages")
    assert of_kind(drift, "DEFTScoreDrift")[0]["label"] == "OFT"
    assert of_kind(drift, "RandomNoise")[0]["noise_seed"] == 100_002
    assert of_kind(drift, "DEFTTrainAdapter")[0]["seed"] == 2


@pytest.mark.timeout(600)
def test_the_line_on_flux_2_klein_runs_as_it_is(comfyui: Any) -> None:
    """With the demo's model and scorers."""
    shutil.copy(ROOT / "demo" / "subjects" / "teddy_bear" / "4.png", BASE / "input" / "example.png")
    prompt = peft_files.small(prompt_of("sweep_flux2_klein"))
    ids = titled(prompt)
    prompt[ids["Scorer"]]["inputs"]["protocol"] = "demo"
    run = comfyui.run(prompt)
    metrics = {}
    for title in ("Save scores", "Save drift"):
        (file,) = run.files(ids[title])
        records = [json.loads(line) for line in (BASE / "output" / file).read_text().splitlines()]
        metrics[title] = [record["metric"] for record in records if "metric" in record]
        assert {record["label"] for record in records if "label" in record} == {"DEFT r32"}
        assert records[0]["provenance"]["seeds"] == [100_000]
    assert metrics == {"Save scores": ["CLIP-I", "CLIP-T", "DINO"], "Save drift": ["drift"]}
    shutil.rmtree(BASE / "output" / "sweep_flux2_klein")
    (BASE / "input" / "example.png").unlink()
