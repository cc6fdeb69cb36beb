"""PEFT's image benchmark: its plan and line beside PEFT's own settings, and run with the demo's model.

The whole plan is run by tests/server/test_sweep_peft.py.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch

from deft_pack.workflow_sources import peft_image, plans

from .. import peft_files
from . import architectures
from .conftest import BASE, ROOT
from .test_sweep_plans import cell, plan_of, titled, values_of
from .test_tables import of_kind, prompt_of

PEFT_TARGETS = ["to_v", "linear_in", "to_qkv_mlp_proj", "to_k", "add_k_proj", "linear_out", "to_q", "add_q_proj"]
PEFT_TARGETS += ["to_out.0", "add_v_proj", "to_add_out"]  # of its adapter_config.json, the same in all rows


def test_the_benchmark_trains_the_layers_of_peft(comfyui_session: Any) -> None:
    """The layers are those that PEFT finds in diffusers' network by its target_modules, by their names in ComfyUI's.

    The published number of LoRA's values, 38,338,560, is of these layers with q, k and v apart; here they are one.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    targets, names = (comfyui_session.module(name) for name in ("trainers.settings.targets", "models.names"))
    key = comfyui_session.module("models.names.targets").target_key
    theirs = inject_adapter_in_model(LoraConfig(target_modules=PEFT_TARGETS), architectures.diffusers_flux2())
    patcher = architectures.comfyui_flux2()
    table = names.diffusers_names(patcher)
    of_peft = {
        key(table[name]).removeprefix("diffusion_model.").removesuffix(".weight")
        for name, module in theirs.named_modules()
        if isinstance(module, LoraLayer)
    }
    ours = targets.select(
        patcher.model.diffusion_model, peft_image.LAYERS, exclude=plan_of("peft_benchmark")["set"]["Settings.exclude"]
    )
    assert set(ours) == of_peft
    width, mlp = 3072, 9216  # of klein 4B: 5 double blocks, 20 single ones
    double = 2 * (4 * 2 * width + (width + 2 * mlp) + (mlp + width))
    published = 32 * (5 * double + 20 * (width + 3 * width + 2 * mlp))
    assert published == peft_table().costs["LoRA", 32, ""].values


def test_dreambooth_trains_all_that_pefts_full_fine_tuning_does(comfyui_session: Any) -> None:
    """There are as many values as its result file says (num_trainable_params, full-finetuning--flux2-klein-default)."""
    import comfy.ldm.flux.model
    import comfy.ops

    targets = comfyui_session.module("trainers.settings.targets")
    config = architectures.FLUX2 | {
        "guidance_embed": False,
        "in_channels": 128,
        "out_channels": 128,
        "context_in_dim": 7680,
        "hidden_size": 3072,
        "num_heads": 24,
        "depth": 5,
        "depth_single_blocks": 20,
        "axes_dim": [32, 32, 32, 32],
    }
    klein = comfy.ldm.flux.model.Flux(**config, dtype=torch.bfloat16, device="meta", operations=comfy.ops.manual_cast)
    row = cell("peft_benchmark", method="DreamBooth")
    train, settings = of_kind(row, "DEFTTrainAdapter")[0], of_kind(row, "DEFTTrainingSettings")[0]
    layers = targets.select(klein, train["layers"], train["pattern"], settings["exclude"]).values()
    biases = [layer.bias for layer in layers if getattr(layer, "bias", None) is not None]
    assert sum(value.numel() for value in [*(layer.weight for layer in layers), *biases]) == 3_875_544_576


def peft_table() -> Any:
    from deft_pack.scoring.published import PUBLISHED

    return PUBLISHED[plans.PEFT_TABLE]


def test_rows_of_the_benchmark_are_published_ones() -> None:
    """All methods of adapters that are trained here, those of PEFT in its settings; PEFT's others cannot be trained."""
    from deft_pack.deft_ops.methods import METHODS, TRAINABLE

    table, plan = peft_table(), plan_of("peft_benchmark")
    rows = values_of(plan["axes"]["method"])
    matching = {key: [label for label in rows if table.matches(key, label, "", None, "")] for key in table.values}
    assert set(rows) - {label for labels in matching.values() for label in labels} == {"SVDiff", "DreamBooth"}
    assert {sets["Train.method"] for sets in rows.values()} == set(TRAINABLE)
    lacking = {key[0].lower() for key, labels in matching.items() if not labels}
    assert lacking == {"loha", "ia3"}
    assert lacking <= set(METHODS)
    assert not lacking & set(TRAINABLE)
    for (method, rank, _), (label,) in ((key, labels) for key, labels in matching.items() if labels):
        here = cell("peft_benchmark", method=label)
        train = of_kind(here, "DEFTTrainAdapter")[0]
        assert (train["method"], train.get("method.rank")) == (method.lower(), rank)
        assert train["learning_rate"] == (1e-3 if method == "LoKr" else 1e-4)
        assert (train["steps"], train["batch_size"]) == (750, 2)
        assert of_kind(here, "DEFTScoreImages")[0]["label"] == label
    of_all = cell("peft_benchmark", method="DreamBooth")  # PEFT's experiments/full-finetuning, training_params.json
    train, settings = of_kind(of_all, "DEFTTrainAdapter")[0], of_kind(of_all, "DEFTTrainingSettings")[0]
    assert (train["steps"], train["learning_rate"], train["batch_size"]) == (300, 5e-5, 2)
    assert (settings["weight_decay"], settings["max_grad_norm"]) == (0.01, 1.0)
    of_none = cell("peft_benchmark", method="SVDiff")  # the benchmark's, but for the method's own rate
    train, usual = of_kind(of_none, "DEFTTrainAdapter")[0], METHODS["svdiff"].training.usual_rates
    assert usual.lowest == usual.highest == train["learning_rate"]
    assert (train["steps"], train["batch_size"], train["layers"]) == (750, 2, peft_image.LAYERS)
    assert of_kind(of_none, "DEFTTrainingSettings") == of_kind(cell("peft_benchmark"), "DEFTTrainingSettings")
    drift = cell("peft_benchmark", method="OFT", score="drift", seed="2", prompt="drift 00")
    assert not of_kind(drift, "DEFTScoreImages")
    assert of_kind(drift, "DEFTScoreDrift")[0]["label"] == "OFT"
    assert of_kind(drift, "RandomNoise")[0]["noise_seed"] == 100_002
    assert of_kind(drift, "DEFTTrainAdapter")[0]["seed"] == 2


@pytest.mark.timeout(600)
def test_the_line_on_flux_2_klein_runs_as_it_is(comfyui: Any) -> None:
    """Run with the demo's model and scorers."""
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
