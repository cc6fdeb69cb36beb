"""What is written for LoRA managers, what cannot be saved, and what is said of coarse bases: the nodes themselves."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ..tools import header
from . import models
from .pack import Pack
from .test_adapter_nodes import node, training_prompt
from .test_info import PROJECTION, cast, moved
from .test_patches import SD3_PROJECTION, UNET_CONVOLUTION
from .test_quantised import lazy_sd3
from .test_textual_inversion import inversion
from .test_training import as_loaded

UNTOLD = "Could not check whether the adapter was trained on this base"


def trained(pack: Pack, model: Any, captions: list[str], pictures: int = 2, **settings: Any) -> Any:
    with torch.inference_mode():
        material = pack.material.Material([models.latents(model, pictures)], [models.conditioning()], words=captions)
        chosen = pack.settings.Settings(**({"method": "deft", "rank": 2, "steps": 2, "learning_rate": 1e-2} | settings))
        return pack.loop.train(model, material, chosen, lambda progress: None).adapter


# --------------------------------------------------------------------------------------------------------- the bases


def test_every_base_is_one_of_comfyuis(pack: Pack) -> None:
    """The names by which bases are known are those of ComfyUI's configurations, and its own models are told by them."""
    import comfy.model_base
    import comfy.supported_models

    configs = {config.__name__: config for config in comfy.supported_models.models}
    for name in ("SD15", "SD20", "SDXL", "SD3", "Flux", "FluxSchnell", "Chroma", "Lumina2", "ZImage", "QwenImage"):
        assert name in configs
        assert name in pack.modelspec._CONFIGS
    made = {
        name: set(re.findall(r"model_base\.(\w+)\(", inspect.getsource(config.get_model)))
        for name, config in configs.items()
    }
    for name in pack.modelspec._CLASSES:
        several = {config for config, kinds in made.items() if name in kinds}
        assert several <= {name, "FluxInpaint", "FluxSchnell"}  # which are Flux by ModelSpec's way of counting
    # Why these are not known by the model's class: it is that of several bases.
    assert all("BaseModel" in made[name] for name in ("SD15", "SD20"))
    assert all(made[name] == {"Lumina2"} for name in ("Lumina2", "ZImage"))
    assert all(made[name] == {"SDXL"} for name in ("SDXL", "SSD1B"))


def test_models_of_comfyuis_own_making(pack: Pack) -> None:
    """An SD3 that ComfyUI detects by its weights: with normed queries and one attention, as 3.5 large."""
    fields = pack.modelspec.base_fields(pack.modelspec.base_of(models.sd3().model))
    assert fields["modelspec.architecture"] == "stable-diffusion-3-5-large/lora"
    assert fields["ss_base_model_version"] == "sd3"
    assert "ss_v2" in fields
    assert pack.modelspec.base_of(models.unet("sdxl").model) is None  # its configuration is the test's own


# ----------------------------------------------------------------------------------------------- what managers read


def test_a_trained_file_says_base_words_and_trigger(pack: Pack, run: Any) -> None:
    model = as_loaded(models.sd3)
    captions = ["sks bear, on a hill", "sks bear, in a car"]
    first, second = (
        Path(
            run(
                "DEFTSaveAdapter",
                trained(pack, model, captions),
                "saved/bear",
                pack.saving.SAVED_FORMATS[0],
                "models/loras",
            )[0]
        )
        for _ in range(2)
    )
    metadata = header(first)
    assert metadata["modelspec.architecture"] == "stable-diffusion-3-5-large/lora"
    assert metadata["ss_base_model_version"] == "sd3"
    assert metadata["modelspec.resolution"] == "1024x1024"
    assert json.loads(metadata["ss_tag_frequency"]) == {"img": {"sks bear": 2, "on a hill": 1, "in a car": 1}}
    assert json.loads(metadata["ss_datasets"])[0]["subsets"][0]["class_tokens"] == metadata["modelspec.trigger_phrase"]
    assert metadata["modelspec.trigger_phrase"] == "sks bear"
    assert metadata["modelspec.title"] == "bear_00001"
    assert metadata["ss_network_dim"] == "2"
    named = ("modelspec.title", "ss_output_name", "training_cost")  # after the counter, and what is measured
    assert {key: value for key, value in header(second).items() if key not in named} == {
        key: value for key, value in metadata.items() if key not in named
    }
    without = trained(pack, model, [])
    assert not {"ss_tag_frequency", "ss_datasets", "modelspec.trigger_phrase"} & without.metadata.keys()
    assert without.metadata["modelspec.architecture"] == metadata["modelspec.architecture"]


def test_what_is_exported_says_the_same(pack: Pack, run: Any) -> None:
    model = as_loaded(models.sd3)
    adapter = trained(pack, model, ["sks bear"])
    _, path, _ = run("DEFTExportLoRA", adapter, model, "saved/lora", "models/loras")
    exported = header(path)
    for name in ("modelspec.architecture", "ss_base_model_version", "ss_tag_frequency", "modelspec.trigger_phrase"):
        assert exported[name] == adapter.metadata[name]
    assert exported["ss_network_module"] == "deft-nodes.lora"
    names = [f"diffusion_model.joint_blocks.0.x_block.{part}" for part in ("attn.proj", "mlp.fc1")]
    single = pack.adapter(model, names)
    single.metadata |= adapter.metadata
    (folder,) = run("DEFTSaveAdapter", single, "saved/peft", "PEFT folder", "models/loras", model)
    metadata = header(Path(folder) / "adapter_model.safetensors")
    assert metadata["modelspec.title"] == Path(folder).name.rstrip("_")
    for name in ("modelspec.architecture", "ss_base_model_version", "ss_tag_frequency"):
        assert metadata[name] == adapter.metadata[name]


def test_the_connected_model_names_the_base_of_an_adapter_that_does_not(pack: Pack, run: Any) -> None:
    model = models.sd3()
    adapter = pack.adapter(model, [SD3_PROJECTION])
    native = pack.saving.SAVED_FORMATS[0]
    (path,) = run("DEFTSaveAdapter", dict(adapter), "saved/a", native, "models/loras", model)
    assert header(path)["modelspec.architecture"] == "stable-diffusion-3-5-large/lora"
    (path,) = run("DEFTSaveAdapter", dict(adapter), "saved/a", native, "models/loras")
    assert "modelspec.architecture" not in header(path)
    assert "ss_base_model_version" not in header(path)
    adapter.metadata["ss_base_model_version"] = "sdxl_base_v1-0"  # what a file says of itself stays
    (path,) = run("DEFTSaveAdapter", adapter, "saved/a", native, "models/loras", model)
    assert header(path)["ss_base_model_version"] == "sdxl_base_v1-0"
    assert "modelspec.architecture" not in header(path)


def test_captions_that_reach_the_nodes_as_text(comfyui: Any, embeddings: Path) -> None:
    """Train Adapter keeps their tags; an embedding's captions have a mark for the token, so theirs are not kept."""
    prompt = training_prompt(captions=["text", 0]) | {"text": node("PrimitiveString", value="sks bear, snow")}
    metadata = comfyui.run(prompt, want=["train"]).output("train").metadata
    (counts,) = json.loads(metadata["ss_tag_frequency"]).values()
    pictures = json.loads(metadata["training"])["pictures"]
    assert pictures > 1
    assert counts == {"sks bear": pictures, "snow": pictures}  # one caption, of every picture
    assert metadata["modelspec.trigger_phrase"] == "sks bear, snow"
    comfyui.run(training_prompt() | {"train": inversion(steps=2)}, want=["train"])
    header_of_file = header(embeddings / "deft-test.safetensors")
    assert header_of_file["modelspec.title"] == "deft-test"
    assert header_of_file["modelspec.sai_model_spec"] == "1.0.1"
    assert header_of_file["modelspec.architecture"].endswith("/textual-inversion")
    assert header_of_file["ss_base_model_version"] == "sd3"
    assert "ss_tag_frequency" not in header_of_file
    assert "modelspec.trigger_phrase" not in header_of_file


# ------------------------------------------------------------------------------------------------- what is not saved


@pytest.mark.parametrize("method", ["svdiff", "oft"])
def test_what_a_peft_folder_cannot_hold_is_said(pack: Pack, run: Any, method: str, loras: Path) -> None:
    model = models.sd3()
    layers = {"svdiff": {"delta": torch.ones(64)}, "oft": {"oft_rotation": torch.eye(8).repeat(8, 1, 1)}}[method]
    adapter = pack.adapters.from_layers({SD3_PROJECTION: layers})
    assert pack.adapters.describe(adapter)["method"] == method
    with pytest.raises(
        ValueError,
        match=rf"layer {re.escape(SD3_PROJECTION)} is of the method {method}, and PEFT"
        r".*\. Choose the native format; PEFT's is for deft, para, lora, dora, lokr\.",
    ):
        run("DEFTSaveAdapter", adapter, "saved/no", "PEFT folder", "models/loras", model)
    assert not list((loras / "saved").glob("no*"))


@pytest.mark.parametrize("method", ["deft", "para", "lora"])
def test_a_peft_folder_holds_no_convolution(pack: Pack, run: Any, method: str, loras: Path) -> None:
    """A convolution's factors are flat in an adapter: its weight tells."""
    model = models.unet()
    adapter = pack.adapter(model, [UNET_CONVOLUTION], method)
    with pytest.raises(ValueError, match=rf"layer {re.escape(UNET_CONVOLUTION)} is a convolution"):
        run("DEFTSaveAdapter", adapter, "saved/no", "PEFT folder", "models/loras", model)
    assert not list((loras / "saved").glob("no*"))


@pytest.mark.parametrize("prefix", ["", "base_model.model.", "transformer."])
@pytest.mark.parametrize("method", ["deft", "para", "lora"])
def test_a_peft_folder_of_what_has_diffusers_names(pack: Pack, run: Any, method: str, prefix: str) -> None:
    """PEFT and the DEFT repository write such files; a slice of a fused weight is a layer of its own there."""
    model = models.sd3()
    names = [f"{prefix}transformer_blocks.0.attn.{part}" for part in ("to_out.0", "to_q", "add_v_proj")]
    adapter = pack.adapter(model, names, method, dict.fromkeys(names, (64, 64)))
    (folder,) = run("DEFTSaveAdapter", adapter, "saved/theirs", "PEFT folder", "models/loras", model)
    record = json.loads((Path(folder) / "adapter_config.json").read_text())
    assert set(record["target_modules"]) == {name.removeprefix(prefix) for name in names}
    again, _, report = pack.apply(pack.files.read(folder), model)
    assert report.matched == 3
    assert not report.unmatched
    base, weights = models.weights(model), models.patched_weights(again)
    expected = models.patched_weights(pack.apply(adapter, model)[0])
    changed = [key for key in base if not torch.equal(base[key], expected[key])]
    assert len(changed) == 3
    assert all(models.relative(weights[key] - base[key], expected[key] - base[key]) < 1e-5 for key in changed)


@pytest.mark.parametrize("training", ["by someone else", "[1]", "null", '{"steps": {"all": 3}}'])
def test_a_foreign_training_header(pack: Pack, run: Any, training: str, loras: Path) -> None:
    model = models.sd3()
    (loras / "saved").mkdir(exist_ok=True)
    tensors = dict(pack.adapter(model, [SD3_PROJECTION]))
    save_file(tensors, loras / "saved" / "other.safetensors", {"training": training})
    adapter, _ = run("DEFTLoadAdapterFile", "saved/other.safetensors", "auto")
    (path,) = run("DEFTSaveAdapter", adapter, "saved/again", pack.saving.SAVED_FORMATS[0], "models/loras")
    assert header(path)["training"] == training
    _, path, _ = run("DEFTExportLoRA", adapter, model, "saved/lora", "models/loras")
    assert header(path)["training"] == training
    assert "training: " in pack.inspect(adapter, model).text()


def test_complex_numbers_are_refused_where_they_are_met(pack: Pack, run: Any) -> None:
    model = models.sd3()
    adapter = pack.adapter(model, [SD3_PROJECTION])
    adapter["other.lora_up.weight"] = torch.ones(3, 2, dtype=torch.complex64)
    message = r"has complex numbers \(complex64\) in other.lora_up.weight, which are not supported"
    for call in (
        lambda: run("DEFTSaveAdapter", adapter, "saved/no", pack.saving.SAVED_FORMATS[0], "models/loras"),
        lambda: pack.apply(adapter, model),
        lambda: pack.inspect(adapter, model),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# ------------------------------------------------------------------------------------------------------ coarse bases


def reports(pack: Pack, adapter: Any, model: Any) -> list[str]:
    """What Apply, Adapter Info and Export say."""
    return [
        pack.apply(adapter, model)[2].text(),
        pack.inspect(adapter, model).text(),
        pack.export(adapter, model)[1].text(),
    ]


@pytest.mark.parametrize("kind", ["fp8_e4m3", "fp8_e5m2", "gguf"])
def test_a_coarse_base_could_be_another(pack: Pack, kind: str) -> None:
    """A fine-tune of the base (3 %) looks the same, and that is said; an unrelated base is still told."""
    dtype = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}.get(kind, torch.float32)

    def coarse(model: Any) -> Any:
        return lazy_sd3() if kind == "gguf" else cast(model, dtype)

    own = models.sd3()
    adapter = pack.adapter(own, [PROJECTION])
    adapter.metadata |= {"base_hash": pack.fingerprint.fingerprint(own), "base_model": "SD3"}
    tuned = pack.adapter(own, [PROJECTION])
    tuned.metadata |= {"base_hash": pack.fingerprint.fingerprint(moved(models.sd3(), 0.03)), "base_model": "SD3"}
    other = pack.adapter(own, [PROJECTION])
    other.metadata |= {"base_hash": pack.fingerprint.fingerprint(models.sd3(seed=1)), "base_model": "SD3"}
    for each in (adapter, tuned):
        for text in reports(pack, each, coarse(models.sd3())):
            assert f"{UNTOLD}: the connected model is stored in so few bits" in text
            assert "WARNING" not in text
    for text in reports(pack, other, coarse(models.sd3())):
        assert "WARNING: the adapter was trained on another base" in text
        assert UNTOLD not in text
    if kind != "gguf":  # trained on it, used on the fine one
        adapter.metadata["base_hash"] = pack.fingerprint.fingerprint(coarse(models.sd3()))
        for text in reports(pack, adapter, models.sd3()):
            assert f"{UNTOLD}: the model that the adapter was trained on is stored in so few bits" in text


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_fine_base_is_told_and_nothing_is_said(pack: Pack, dtype: torch.dtype) -> None:
    adapter = pack.adapter(models.sd3(), [PROJECTION])
    adapter.metadata |= {"base_hash": pack.fingerprint.fingerprint(models.sd3()), "base_model": "SD3"}
    for text in reports(pack, adapter, cast(models.sd3(), dtype)):
        assert UNTOLD not in text
        assert "WARNING" not in text
