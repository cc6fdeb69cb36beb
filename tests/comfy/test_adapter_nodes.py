"""Training, saving, loading, applying and exporting through ComfyUI's executor, on the demo model."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from deft_pack.workflow_sources.prompt import SETTINGS as DEFAULTS

from . import models
from .pack import Pack

DENOISER = Path(__file__).resolve().parents[2] / "demo/models/diffusion_models/deft_demo_denoiser.safetensors"
METHODS: dict[str, dict[str, Any]] = {
    "deft": {
        "method": "deft",
        "method.rank": 4,
        "method.alpha": 0,
        "method.projector": "qr",
        "method.start": "identity",
    },
    "para": {"method": "para", "method.rank": 4, "method.rank_cap": 0.0},
    "lora": {"method": "lora", "method.rank": 4, "method.alpha": 2},
    "svdiff": {"method": "svdiff", "method.norm_rate": 0.001, "method.keep_decomposition": False},
    "dreambooth": {"method": "dreambooth", "learning_rate": 1e-3},
}
# Training Settings as they come, but without checkpoints: each test trains anew.
SETTINGS: dict[str, Any] = DEFAULTS | {
    "run_name": "tests/run",
    "checkpoint_every": 0,
    "keep": 2,
    "resume": False,
}
Prompt = dict[str, dict[str, Any]]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """One node of an API-format prompt; a link is [id, slot]."""
    return {"class_type": kind, "inputs": inputs}


def trainer(kind: str = "deft", **changed: Any) -> dict[str, Any]:
    """Train Adapter: three steps that change something."""
    inputs: dict[str, Any] = {
        "model": ["model", 0],
        "latents": ["latents", 0],
        "positive": ["captions", 0],
        "steps": 3,
        "learning_rate": 0.01,
        "batch_size": 2,
        "layers": "attention",
        "pattern": "",
        "seed": 1,
        "precision": "fp32",
        "gradient_checkpointing": False,
        "settings": ["settings", 0],
    }
    return node("DEFTTrainAdapter", **(inputs | METHODS[kind] | changed))


def settings(**changed: Any) -> dict[str, Any]:
    """Training Settings."""
    return node("DEFTTrainingSettings", **(SETTINGS | changed))


def training_prompt(kind: str = "deft", **changed: Any) -> Prompt:
    """Five pictures with their captions to an adapter, node "train"."""
    return {
        "model": node("UNETLoader", unet_name="deft_demo_denoiser.safetensors", weight_dtype="default"),
        "clip": node("DEFTDemoTextEncoder"),
        "vae": node("VAELoader", vae_name="deft_demo_vae.safetensors"),
        "subject": node("DEFTDemoSubject", subject="teddy_bear", token="sks"),
        "latents": node("VAEEncode", pixels=["subject", 0], vae=["vae", 0]),
        "captions": node("CLIPTextEncode", text=["subject", 1], clip=["clip", 0]),
        "settings": settings(),
        "train": trainer(kind, **changed),
    }


def sampler(model: list, **changed: Any) -> dict[str, Any]:
    """Two steps of KSampler on the nodes of `sampling`."""
    inputs: dict[str, Any] = {
        "model": model,
        "seed": 3,
        "steps": 2,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "positive": ["prompt", 0],
        "negative": ["prompt", 0],
        "latent_image": ["empty", 0],
        "denoise": 1.0,
    }
    return node("KSampler", **(inputs | changed))


def sampling(model: list, key: str) -> Prompt:
    """Two steps of KSampler on a model, node `key`."""
    return {
        "prompt": node("CLIPTextEncode", text="a sks teddy bear on a red background", clip=["clip", 0]),
        "empty": node("EmptySD3LatentImage", width=64, height=64, batch_size=1),
        key: sampler(model),
    }


def applied(adapter: list, **changed: Any) -> dict[str, Any]:
    """Apply Adapter with its defaults."""
    inputs: dict[str, Any] = {
        "model": ["model", 0],
        "adapter": adapter,
        "strength_model": 1.0,
        "strength_clip": 1.0,
        "removal": 1.0,
        "injection": 1.0,
        "stacking": "sequential",
    }
    return node("DEFTApplyAdapter", **(inputs | changed))


def loader(file: str, **changed: Any) -> dict[str, Any]:
    """Load Adapter with its defaults."""
    inputs: dict[str, Any] = {
        "model": ["model", 0],
        "file": file,
        "strength_model": 1.0,
        "strength_clip": 1.0,
        "projector": "auto",
    }
    return node("DEFTAdapterLoader", **(inputs | changed))


def saver(**changed: Any) -> dict[str, Any]:
    """Save Adapter of what node "train" made."""
    inputs: dict[str, Any] = {
        "adapter": ["train", 0],
        "filename_prefix": "tests/round",
        "place": "models/loras",
        "format": "native (.safetensors)",
    }
    return node("DEFTSaveAdapter", **(inputs | changed))


def latent(run: Any, key: str) -> Tensor:
    """The samples of a KSampler."""
    return run.output(key)["samples"]


@pytest.fixture
def lora_file(loras: Path) -> Any:
    """Writes tensors as a file of models/loras and removes it afterwards; returns its name."""
    made = []

    def write(name: str, tensors: dict[str, Tensor]) -> str:
        save_file(tensors, loras / name)
        made.append(loras / name)
        return name

    yield write
    for path in made:
        path.unlink()


# ----------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("method", METHODS)
def test_a_trained_adapter_works_in_our_nodes_and_in_core_nodes(
    comfyui: Any, pack: Pack, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(100.0, 6.0)  # read before and after the training
    monkeypatch.setattr(pack.loop, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    prompt = training_prompt(method) | {
        "apply": applied(["train", 0]),
        **sampling(["apply", 0], "ours"),
        "core": node("LoraModelLoader", model=["model", 0], lora=["train", 0], strength_model=1.0, bypass=False),
        **sampling(["core", 0], "theirs"),
        **sampling(["model", 0], "base"),
        "save": node("SaveLoRA", lora=["train", 0], prefix=f"tests/core_{method}"),
        "graph": node("LossGraphNode", loss=["train", 1], filename_prefix="tests/loss"),
    }
    run = comfyui.run(prompt, want=["train", "apply", "ours", "theirs", "base"])
    adapter, losses, report = (run.output("train", slot) for slot in range(3))
    assert len(losses["loss"]) == 3
    assert report == run.text("train")
    title = method if method in ("svdiff", "dreambooth") else f"{method} rank 4"
    assert f"{title}: 11 layers" in report
    assert [line for line in report.splitlines() if "WARNING" in line and "the usual one" not in line] == []
    assert all(isinstance(tensor, Tensor) and tensor.dtype == torch.float32 for tensor in adapter.values())
    kind = "diff" if method == "dreambooth" else method  # ComfyUI's own patch
    layers = len(adapter) if method == "dreambooth" else 11  # weights and biases
    assert run.output("apply", 2) == f"the adapter: {layers} layers applied ({layers} {kind})"
    assert torch.equal(latent(run, "ours"), latent(run, "theirs"))
    assert models.relative(latent(run, "ours"), latent(run, "base")) > 1e-3
    (saved,) = (comfyui.base / "output" / "tests").glob(f"core_{method}_*.safetensors")
    tensors = load_file(saved)
    assert tensors.keys() == adapter.keys()
    assert all(torch.equal(tensors[key], adapter[key]) for key in tensors)
    assert run.ui["graph"]["images"]
    cost = pack.nodes.scoring.cost_of(adapter, pack.scoring.scorer.Labels(method))
    assert cost.training_seconds == 6.0
    assert cost.bytes >= 4 * cost.values > 0
    assert f"{cost.values:,} trained values" in report
    progress = [data["value"] for event, data in run.messages if event == "progress" and data["node"] == "train"]
    assert progress[0] == 1
    assert progress[-1] == 3  # ComfyUI leaves out those that come too fast
    texts = [str(data) for _, data in run.messages if "loss" in str(data) and "train" in str(data)]
    assert any("step 1/3" in text for text in texts)
    assert any("step 3/3" in text for text in texts)


def test_dreambooth_becomes_a_whole_model_by_core_nodes(comfyui: Any) -> None:
    """Train, apply, and ComfyUI's own node that saves a model: its weights are the base's and the difference."""
    prompt = training_prompt("dreambooth") | {
        "apply": applied(["train", 0]),
        "whole": node("ModelSave", model=["apply", 0], filename_prefix="tests/whole"),
    }
    adapter = comfyui.run(prompt, want=["train"]).output("train")
    (saved,) = (comfyui.base / "output" / "tests").glob("whole_*.safetensors")
    tensors, base = load_file(saved), load_file(DENOISER)
    for key, change in adapter.items():
        layer, _, suffix = key.rpartition(".")
        name = f"{layer.removeprefix('diffusion_model.')}.{'weight' if suffix == 'diff' else 'bias'}"
        stored, plain = tensors[f"model.diffusion_model.{name}"].float(), base[name].float()
        assert change.any()
        assert torch.allclose(stored, plain + change, atol=1e-3)
        assert (stored - plain).norm() > 0.5 * change.norm()


def test_a_preset_goes_before_the_widgets(comfyui: Any, pack: Pack) -> None:
    presets = pack.trainers.settings.presets.PRESETS
    name = "PaRa (its paper, SDXL)"
    prompt = training_prompt("para", steps=3) | {"settings": settings(preset=name, p_rate=0.5)}
    prompt["train"]["inputs"]["pattern"] = "no such layer"  # the preset has none
    published = {"steps": 1000, "learning_rate": 1e-4, "rank_cap": 40.0, "layers": "attention without cross-attention"}
    assert published.items() <= presets[name].values.items()
    short = {**presets[name].values, "steps": 2}
    gathered = pack.nodes.training_settings.gathered
    connected = {"preset": name, "settings": {"p_rate": 0.5}, "run": {}}
    chosen, _, notes = gathered(connected, method="para", rank=9, steps=3, learning_rate=1.0, pattern="x")
    assert published.items() <= (vars(chosen) | chosen.options).items()
    assert chosen.rank == 4
    assert chosen.pattern == ""
    assert chosen.options["p_rate"] == 0.5
    assert notes == [f"preset {name}: {presets[name].source}"]
    previous = presets[name]
    presets[name] = type(previous)(previous.method, previous.source, short)  # 1000 steps are too many for a test
    try:
        report = comfyui.run(prompt, want=["train"]).text("train")
    finally:
        presets[name] = previous
    assert report.startswith("para rank 4: ")
    assert ", 2 steps in" in report
    assert report.endswith(notes[0])
    failed = comfyui.fail(training_prompt("lora") | {"settings": settings(preset=name)}, want=["train"])
    assert f"The preset {name!r} is for the method para, not lora." in failed.message


def test_every_preset_is_valid(pack: Pack) -> None:
    presets, settings_of = (
        pack.trainers.settings.presets,
        pack.settings.Settings,
    )
    for name, preset in presets.PRESETS.items():
        options = {"token": "a-1", "vectors": 1, "words": "a"} if preset.method == "textual_inversion" else {}
        chosen = presets.with_preset(settings_of(preset.method, 1, 1, 1.0, options=options), name)
        chosen.check()
        assert chosen.learning_rate < 1
        assert preset.source
        assert all((vars(chosen) | chosen.options)[key] == value for key, value in preset.values.items())
    methods = {preset.method for preset in presets.PRESETS.values()}
    assert methods == {"deft", "para", "lora", "svdiff", "dreambooth", "textual_inversion"}


def test_the_same_seed_gives_the_same_adapter_through_the_executor(comfyui: Any) -> None:
    first = comfyui.run(training_prompt(), want=["train"]).output("train")
    comfyui.reset()
    again = comfyui.run(training_prompt(), want=["train"]).output("train")
    other = comfyui.run(training_prompt(seed=2), want=["train"]).output("train")
    assert first is not again
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_the_choice_of_method_reaches_the_trainer(comfyui: Any, pack: Pack) -> None:
    changed = {
        "method.rank": 2,
        "method.alpha": 6.0,
        "method.projector": "relu",
        "method.start": "paper",
        "steps": 1,
        "layers": "all linear",
        "pattern": r"joint_blocks\.0\.",
    }
    run = comfyui.run(training_prompt(**changed), want=["train"])
    adapter = run.output("train")
    layers = pack.adapters.layers(adapter)
    assert all(name.startswith("diffusion_model.joint_blocks.0.") for name in layers)
    for group in layers.values():
        assert group["deft_Q"].shape[1] == 2
        assert float(group["alpha"]) == 6
        assert torch.equal(group["deft_right"], torch.relu(group["deft_Q"]))
    assert adapter.metadata["projector"] == "relu"
    assert run.text("train").startswith(f"deft rank 2: {len(layers)} layers")


def test_a_list_from_core_dataset_nodes(comfyui: Any) -> None:
    prompt = training_prompt(latents=["dataset", 0], positive=["dataset", 1])
    single = comfyui.run(training_prompt(), want=["train"])
    prompt["images"] = node("RebatchImages", images=["subject", 0], batch_size=1)
    prompt["dataset"] = node(
        "MakeTrainingDataset", images=["images", 0], vae=["vae", 0], clip=["clip", 0], texts=["subject", 1]
    )
    run = comfyui.run(prompt, want=["train", "dataset"])
    assert len(run.outputs["dataset"][0]) == 5
    assert len(run.outputs["dataset"][1]) == 5
    assert run.output("train").keys() == single.output("train").keys()
    # Encoding one picture at a time rounds differently, and Adam makes whole steps of it: losses tell, factors do not.
    listed, batched = (torch.tensor(result.output("train", 1)["loss"]) for result in (run, single))
    assert models.relative(listed, batched) < 1e-4


def test_one_caption_for_all_and_a_count_that_does_not_fit(comfyui: Any) -> None:
    prompt = training_prompt() | sampling(["model", 0], "unused")
    prompt["train"]["inputs"]["positive"] = ["prompt", 0]
    assert comfyui.run(prompt, want=["train"]).output("train")
    prompt = training_prompt()
    prompt["latents"] = node("EmptySD3LatentImage", width=64, height=64, batch_size=3)
    failed = comfyui.fail(prompt, want=["train"])
    assert failed.node_type == "DEFTTrainAdapter"
    assert "There are 5 captions for 3 pictures" in failed.message


def test_interruption_through_the_executor(comfyui: Any) -> None:
    """The training stops within one step, and the next prompt runs."""
    import comfy.model_management
    import comfy.utils

    assert comfyui.run(training_prompt() | sampling(["model", 0], "base"), want=["train", "base"])
    hook, seen = comfy.utils.PROGRESS_BAR_HOOK, []

    def interrupt(value: float, *others: Any, **named: Any) -> None:
        seen.append(value)
        hook(value, *others, **named)
        comfy.model_management.interrupt_current_processing()

    comfy.utils.set_progress_bar_global_hook(interrupt)
    try:
        failed = comfyui.fail(training_prompt(steps=100_000), want=["train"])
    finally:
        comfy.utils.set_progress_bar_global_hook(hook)
    assert (failed.node_type, failed.kind) == ("DEFTTrainAdapter", "interrupted")
    assert seen == [1]
    assert len(comfyui.run(training_prompt(seed=9), want=["train"]).output("train", 1)["loss"]) == 3


# -------------------------------------------------------------------------------------------------- saving and loading


def test_round_trip_of_a_native_file(comfyui: Any, loras: Path) -> None:
    run = comfyui.run(training_prompt() | {"save": saver()}, want=["train", "save"])
    adapter, path = run.output("train"), Path(run.output("save"))
    second = Path(comfyui.run(training_prompt(seed=5) | {"save": saver()}, want=["save"]).output("save"))
    try:
        assert path.parent == second.parent == loras / "tests"
        assert path != second
        assert [file.suffix for file in path.parent.iterdir()] == [".safetensors"] * 2  # nothing half-written
        name = f"tests/{path.name}"
        prompt = training_prompt() | {
            "file": node("DEFTLoadAdapterFile", file=name, projector="auto"),
            "apply": applied(["train", 0], strength_model=0.7),
            **sampling(["apply", 0], "trained"),
            "load": loader(name, strength_model=0.7),
            **sampling(["load", 0], "loaded"),
            "core": node("LoraLoaderModelOnly", model=["model", 0], lora_name=name, strength_model=0.7),
            **sampling(["core", 0], "theirs"),
        }
        run = comfyui.run(prompt, want=["file", "load", "trained", "loaded", "theirs"])
        loaded = run.output("file")
        assert loaded.keys() == adapter.keys()
        assert all(torch.equal(loaded[key], adapter[key]) for key in adapter)
        info = run.output("file", 1)
        assert "method: deft" in info
        assert "rank: 4" in info
        assert "projector: qr" in info
        assert "base_model: SD3" in info
        assert run.output("load", 2) == f"{name}: 11 layers applied (11 deft)"
        assert torch.equal(latent(run, "loaded"), latent(run, "trained"))
        assert torch.equal(latent(run, "theirs"), latent(run, "loaded"))  # ComfyUI's own Load LoRA
        with safe_open(path, "pt") as file:
            header = file.metadata()
        assert header["modelspec.title"]
        assert header["ss_network_dim"] == "4"
        assert '"steps": 3' in header["training"]
    finally:
        path.unlink()
        second.unlink()


def test_a_changed_file_is_read_again(comfyui: Any, lora_file: Callable[..., str]) -> None:
    name = "diffusion_model.joint_blocks.0.x_block.attn.proj"
    tensors = {f"{name}.deft_Q": torch.eye(192)[:, :2].contiguous()}
    file = lora_file("tests_changing.safetensors", tensors)
    prompt = {"file": node("DEFTLoadAdapterFile", file=file, projector="auto")}
    first = comfyui.run(prompt, want=["file"]).output("file")
    assert comfyui.run(prompt, want=["file"]).output("file") is first
    save_file({f"{name}.deft_Q": torch.eye(192)[:, :3].contiguous()}, comfyui.base / "models" / "loras" / file)
    assert comfyui.run(prompt, want=["file"]).output("file")[f"{name}.deft_Q"].shape[1] == 3


def test_save_into_the_output_folder(comfyui: Any) -> None:
    prompt = training_prompt("para") | {"save": saver(place="output")}
    run = comfyui.run(prompt, want=["save"])
    path = Path(run.output("save"))
    assert path.is_file()
    assert path.is_relative_to(comfyui.base / "output")
    assert run.files("save") == [path.relative_to(comfyui.base / "output").as_posix()]
    prompt["save"] = saver(place="models/loras")
    assert comfyui.run(prompt).files("save") == []


@pytest.mark.parametrize("method", ["deft", "para"])
def test_exported_lora(comfyui: Any, method: str) -> None:
    prompt = training_prompt(method, layers="all linear and convolution") | {
        "export": node(
            "DEFTExportLoRA", adapter=["train", 0], model=["model", 0], filename_prefix="tests/lora", place="output"
        ),
        "core": node("LoraModelLoader", model=["model", 0], lora=["export", 0], strength_model=1.0, bypass=False),
        **sampling(["core", 0], "theirs"),
        "apply": applied(["train", 0]),
        **sampling(["apply", 0], "ours"),
        **sampling(["model", 0], "base"),
    }
    run = comfyui.run(prompt, want=["train", "export", "theirs", "ours", "base"])
    lora, path = run.output("export"), Path(run.output("export", 1))
    assert {key.partition(".lora_")[0] for key in lora if "lora_up" in key} == {
        key.removesuffix(".deft_Q") for key in run.output("train") if key.endswith("deft_Q")
    }
    assert models.relative(latent(run, "base"), latent(run, "ours")) > 1e-3
    # The demo's weights are fp16: both sides round W + delta to fp16, each its own way.
    assert models.relative(latent(run, "theirs"), latent(run, "ours")) < 1e-3
    written = load_file(path)
    assert all(torch.equal(written[key], lora[key]) for key in lora)
    assert written.keys() == lora.keys()


def test_a_peft_folder_of_a_unet_is_read_by_peft(comfyui: Any, pack: Pack, loras: Path) -> None:
    import peft

    network = models.diffusers_sd15()
    with torch.inference_mode():
        model = models.comfy_sd15(network)
        chosen = pack.settings.Settings("deft", 3, 3, 0.02, layers="all linear")
        material = pack.material.Material([models.latents(model, 2)], [models.conditioning()])
        result = pack.loop.train(model, material, chosen, lambda progress: None)
        save = comfyui.pack_nodes["DEFTSaveAdapter"].execute
        folder = Path(save(result.adapter, "tests/peft", "PEFT folder", "models/loras", model).result[0])
        patched, _, report = pack.apply(result.adapter, model)
    assert sorted(file.name for file in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    inputs = models.network_inputs(model)
    wrapped = peft.PeftModel.from_pretrained(network, folder)
    with torch.no_grad():
        output = wrapped(inputs["x"], timestep=inputs["timesteps"], encoder_hidden_states=inputs["context"]).sample
        with wrapped.disable_adapter():
            base = network(inputs["x"], timestep=inputs["timesteps"], encoder_hidden_states=inputs["context"]).sample
    expected = models.network_output(patched, **inputs)
    assert models.relative(base, expected) > 1e-3
    assert models.relative(output, expected) < 1e-4
    # The folder lies in models/loras, so its weights are offered as a file, with the record beside it.
    load = comfyui.pack_nodes["DEFTAdapterLoader"].execute
    again, _, text = load(model, f"tests/{folder.name}/adapter_model.safetensors", 1.0, 1.0, "auto").result
    assert f"{report.matched} layers applied" in text
    assert models.relative(models.network_output(again, **inputs), expected) < 1e-4


# ----------------------------------------------------------------------------------------------------------- bad input


def one(prompt: dict[str, Any]) -> Prompt:
    """The demo model and one node, "it"."""
    return {"model": training_prompt()["model"], "it": prompt}


def test_a_missing_file(comfyui: Any, loras: Path) -> None:
    failed = comfyui.fail(one(loader("no_such.safetensors")), want=["it"])
    assert failed.stage == "validation"
    assert "no_such.safetensors" in failed.message
    for node_id, inputs in (
        ("DEFTAdapterLoader", (None, "gone.safetensors", 1.0, 1.0, "auto")),
        ("DEFTLoadAdapterFile", ("gone.safetensors", "auto")),
    ):
        with pytest.raises(FileNotFoundError, match=r"no adapter file 'gone\.safetensors' in models/loras: put it"):
            comfyui.pack_nodes[node_id].execute(*inputs)
    for name in (None, 5, "a\0.safetensors"):  # linked in from another node
        with pytest.raises(FileNotFoundError, match="no adapter file"):
            comfyui.pack_nodes["DEFTLoadAdapterFile"].execute(name, "auto")


def test_unreadable_files(comfyui: Any, loras: Path) -> None:
    for name, content, reason in (
        ("empty", b"", "is empty"),
        ("short", b"\x08", "not a readable safetensors file"),
        ("text", b"<!doctype html>" * 100, "not a readable safetensors file"),
    ):
        path = loras / f"tests_{name}.safetensors"
        path.write_bytes(content)
        try:
            failed = comfyui.fail(one(loader(path.name)), want=["it"])
        finally:
            path.unlink()
        assert failed.kind == "ValueError"
        assert path.name in failed.message
        assert reason in failed.message


def test_a_file_for_another_architecture(comfyui: Any, lora_file: Callable[..., str]) -> None:
    name = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    file = lora_file("tests_unet.safetensors", {f"{name}.deft_Q": torch.eye(32)[:, :2].contiguous()})
    failed = comfyui.fail(one(loader(file)), want=["it"])
    assert failed.kind == "ValueError"
    assert failed.node_type == "DEFTAdapterLoader"
    for part in (file, name, "SD3", "diffusion_model.x_embedder"):
        assert part in failed.message


def test_a_nan_in_a_file(comfyui: Any, lora_file: Callable[..., str]) -> None:
    name = "diffusion_model.joint_blocks.0.x_block.attn.proj.deft_Q"
    file = lora_file("tests_nan.safetensors", {name: torch.full((192, 2), float("nan"))})
    for failed in (
        comfyui.fail(one(loader(file)), want=["it"]),
        comfyui.fail(one(node("DEFTLoadAdapterFile", file=file, projector="auto")), want=["it"]),
    ):
        assert failed.kind == "ValueError"
        assert file in failed.message
        assert "NaN or infinity" in failed.message
        assert name in failed.message


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"method": "ia3"}, "method"),
        ({"method.projector": "gram"}, "projector"),
        ({"layers": "some"}, "layers"),
        ({"precision": "fp8"}, "precision"),
        ({"steps": 0}, "steps"),
        ({"method.rank": 0}, "rank"),
    ],
)
def test_values_that_no_widget_offers(comfyui: Any, changed: dict[str, Any], named: str) -> None:
    failed = comfyui.fail(training_prompt(**changed), want=["train"])
    assert failed.node_type == "DEFTTrainAdapter"
    assert named in failed.message
    message = "Unknown method: choose one of deft, para, lora, svdiff, dreambooth, dora, oft, lokr."
    assert failed.stage == "validation" or message in failed.message


def test_values_of_the_other_nodes(comfyui: Any) -> None:
    for wrong in ({"place": "/tmp"}, {"format": "pickle"}):
        failed = comfyui.fail(training_prompt() | {"save": saver(**wrong)}, want=["save"])
        assert failed.node_type == "DEFTSaveAdapter"
        assert next(iter(wrong.values())) in failed.message
    failed = comfyui.fail(training_prompt() | {"apply": applied(["train", 0], stacking="both")}, want=["apply"])
    assert failed.node_type == "DEFTApplyAdapter"
    assert "both" in failed.message


def test_a_prefix_outside_of_the_folder(comfyui: Any) -> None:
    failed = comfyui.fail(training_prompt() | {"save": saver(filename_prefix="../../outside/x")}, want=["save"])
    assert failed.node_type == "DEFTSaveAdapter"
    assert not (comfyui.base.parent / "outside").exists()
    assert not (comfyui.base / "outside").exists()


def test_peft_folders_that_cannot_be(comfyui: Any) -> None:
    failed = comfyui.fail(training_prompt() | {"save": saver(format="PEFT folder")}, want=["save"])
    assert "needs the model" in failed.message
    failed = comfyui.fail(training_prompt() | {"save": saver(format="PEFT folder", model=["model", 0])}, want=["save"])
    assert failed.kind == "ValueError"
    assert "cannot be written for PEFT" in failed.message
    assert "qkv" in failed.message
