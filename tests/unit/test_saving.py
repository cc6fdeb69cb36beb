"""What files say of themselves to LoRA managers, and what is not written: by the rules of those that read and write."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from deft_pack.deft_ops import adapter as adapters
from deft_pack.deft_ops import files, methods, modelspec
from deft_pack.deft_ops.adapter import Adapter
from deft_pack.deft_ops.costs import TrainingCost, from_text
from deft_pack.deft_ops.files import native, peft_writer

from ..tools import header
from .test_files import LAYERS, make_adapter

ROOT = Path(__file__).resolve().parent.parent.parent

NAMES = {layer: layer for layer in LAYERS}
# What kohya's sd-scripts (library/sai_model_spec.py, model_util.py, flux_utils.py, lumina_util.py, ...) writes for a
# LoRA of each base; SD3 by sd3_utils.py: without qk_norm medium, with it 5-large, with dual attention 5-medium.
KOHYA = {
    "SD15": ("stable-diffusion-v1/lora", "sd_v1", "512x512"),
    "SD20": ("stable-diffusion-v2-512/lora", "sd_v2", "512x512"),
    "SDXL": ("stable-diffusion-xl-v1-base/lora", "sdxl_base_v1-0", "1024x1024"),
    "SD3": ("stable-diffusion-3-medium/lora", "sd3", "1024x1024"),
    "Flux": ("flux-1-dev/lora", "flux1", "1024x1024"),
    "FluxSchnell": ("flux-1-schnell/lora", "flux1", "1024x1024"),
    "Chroma": ("chroma/lora", "chroma", "1024x1024"),
    "Lumina2": ("lumina-2/lora", "lumina2", "1024x1024"),
    "Anima": ("anima-preview/lora", "anima", "1024x1024"),
    "HunyuanImage21": ("hunyuan-image-2.1/lora", "hunyuan-image-2.1", None),
}
MUSUBI = {  # its utils/sai_model_spec.py and dataset/architectures.py
    "ZImage": ("Z-Image/lora", "z_image", None),
    "QwenImage": ("Qwen-Image/lora", "qwen_image", None),
    "HunyuanVideo": ("hunyuan-video/lora", "hunyuan_video", None),
    "HunyuanVideo15": ("hunyuan-video-1.5/lora", "hunyuan_video_1_5", None),
    "WAN21_T2V": ("wan2.1/lora", "wan", None),
    "HiDreamO1": ("HiDream-O1-Image/lora", "hidream_o1_image", None),
    "Ideogram4": ("Ideogram-4/lora", "ideogram4", None),
    "Krea2": ("Krea-2/lora", "krea2", None),
}


def model_of(config: str, kind: str = "EPS", **unet_config: Any) -> Any:
    """ComfyUI's model as far as it is asked: its configuration's class and settings, and its kind of prediction."""
    made = type(config, (), {"unet_config": unet_config})()
    return types.SimpleNamespace(model_config=made, model_type=types.SimpleNamespace(name=kind))


def fields_of(model: Any) -> tuple[str | None, str | None, str | None]:
    fields = modelspec.base_fields(modelspec.base_of(model))
    keys = ("modelspec.architecture", "ss_base_model_version", "modelspec.resolution")
    return tuple(fields.get(key) for key in keys)  # type: ignore[return-value]


def as_lora_manager_reads(path: Path) -> tuple[str, list[tuple[str, int]], str | None]:
    """Base, words by frequency and class words, by the rules of ComfyUI LoRA Manager (py/utils/lora_metadata.py)."""
    metadata = header(path)
    version = metadata.get("ss_base_model_version", "Unknown")
    shown = {"sdxl": "SDXL 1.0", "flux1": "Flux.1 D"}
    base = next((name for mark, name in shown.items() if mark in version.lower()), version)
    tags = json.loads(metadata.get("ss_tag_frequency", "{}"))
    first = next(iter(tags.values()), {})
    datasets = json.loads(metadata.get("ss_datasets", "[]"))
    token = datasets[0]["subsets"][0]["class_tokens"] if datasets else None
    return base, sorted(first.items(), key=lambda item: -item[1]), token


# ------------------------------------------------------------------------------------------------- what managers read


@pytest.mark.parametrize("config", [*KOHYA, *MUSUBI])
def test_bases_are_called_as_the_training_scripts_call_them(config: str) -> None:
    assert fields_of(model_of(config)) == (KOHYA | MUSUBI)[config]


def test_variants_of_one_configuration() -> None:
    assert fields_of(model_of("SD20", "V_PREDICTION")) == ("stable-diffusion-v2-768-v/lora", "sd_v2_v", "768x768")
    assert fields_of(model_of("SD15", "V_PREDICTION"))[:2] == ("stable-diffusion-v1/lora", "sd_v1_v")
    large = model_of("SD3", qk_norm="rms", x_block_self_attn_layers=[])
    assert fields_of(large)[0] == "stable-diffusion-3-5-large/lora"
    medium = model_of("SD3", qk_norm="rms", x_block_self_attn_layers=[0, 1])
    assert fields_of(medium)[0] == "stable-diffusion-3-5-medium/lora"
    assert modelspec.base_fields(modelspec.base_of(model_of("SD20")))["ss_v2"] == "True"
    assert modelspec.base_fields(modelspec.base_of(model_of("SDXL")))["ss_v2"] == "False"


@pytest.mark.parametrize("config", ["SSD1B", "KOALA_700M", "SDXLRefiner", "LotusD", "AuraFlow", "Flux2", "Kandinsky5"])
def test_an_unknown_base_is_not_called_anything(config: str, tmp_path: Path) -> None:
    assert modelspec.base_fields(modelspec.base_of(model_of(config))) == {}
    for name in ("BaseModel", "SDXL", "Lumina2", "WAN21", "whatever", ""):  # several bases, or none, of this class
        path = native.write(
            make_adapter(),
            tmp_path / "a.safetensors",
            native.native_metadata(Adapter(make_adapter(), {"base_model": name}), name="dog", version="1"),
        )
        assert not {"modelspec.architecture", "ss_base_model_version", "ss_v2"} & header(path).keys()
    assert as_lora_manager_reads(path) == ("Unknown", [], None)


def test_the_cost_of_a_training_is_in_the_header_and_read_back(tmp_path: Path) -> None:
    adapter = Adapter(make_adapter("deft"), {"base_model": "SDXL"})
    plain = native.write(adapter, tmp_path / "plain.safetensors").read_bytes()
    assert b"training_cost" not in plain
    assert files.read(tmp_path / "plain.safetensors").cost is None
    adapter.cost = TrainingCost(12.5, 0.25, 3 * 2**30, "GPU", 1000, 4000)
    path = native.write(adapter, tmp_path / "dog.safetensors")
    assert json.loads(header(path)["training_cost"]) == {
        "seconds": 12.5,
        "seconds_a_step": 0.25,
        "peak_bytes": 3 * 2**30,
        "memory": "GPU",
        "values": 1000,
        "bytes": 4000,
    }
    back = files.read(path)
    assert back.cost == adapter.cost
    assert back.metadata == files.read(tmp_path / "plain.safetensors").metadata
    again = native.write(back, tmp_path / "again.safetensors")
    assert header(again)["training_cost"] == header(path)["training_cost"]


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        ("", None),
        ("[1]", None),
        ("[" * 100_000, None),
        ('{"seconds": "long", "values": true, "bytes": -1, "peak_bytes": 1.5}', None),
        ('{"seconds": 1e400, "peak_bytes": 7, "memory": "mine"}', TrainingCost(peak_bytes=7)),
        ('{"seconds": 2, "seconds_a_step": NaN, "other": []}', TrainingCost(seconds=2)),
    ],
)
def test_what_is_no_cost_is_skipped(text: str, cost: TrainingCost | None) -> None:
    assert from_text(text) == cost


@pytest.mark.parametrize("method", ["deft", "para", "lora", "svdiff"])
def test_a_native_file_is_shown_by_lora_manager(tmp_path: Path, method: str) -> None:
    captions = ["sks dog, sitting, Grass", "sks dog, running", "sks dog, grass"]
    metadata = modelspec.base_fields(modelspec.base_of(model_of("SDXL"))) | modelspec.caption_fields(captions, 3)
    adapter = Adapter(make_adapter(method), metadata | {"base_model": "SDXL"})
    path = native.write(adapter, tmp_path / "dog.safetensors", native.native_metadata(adapter, name="dog", version="1"))
    base, words, token = as_lora_manager_reads(path)
    assert base == "SDXL 1.0"
    assert token == "sks dog"
    assert words[:2] == [("sks dog", 3), ("grass", 2)]
    assert dict(words[2:]) == {"sitting": 1, "running": 1}
    fields = header(path)
    required = ("sai_model_spec", "architecture", "implementation", "title", "resolution")  # of ModelSpec 1.0.1
    assert all(fields[f"modelspec.{name}"] for name in required)
    assert fields["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert fields["modelspec.trigger_phrase"] == "sks dog"
    assert fields["ss_network_module"] == f"deft-nodes.{method}"
    assert method == "svdiff" or fields["ss_network_dim"] == "4"
    first = path.read_bytes()
    native.write(adapter, path, native.native_metadata(adapter, name="dog", version="1"))
    assert path.read_bytes() == first  # nothing in it is of the day or the run
    assert "modelspec.date" not in fields
    assert files.read(path).keys() == adapter.keys()


def test_captions_are_counted_as_kohya_counts_them() -> None:
    """Kohya's DreamBooth data set counts texts between commas, without spaces around, in lower case, once a picture."""

    def kohya(texts: list[str]) -> dict[str, int]:
        counts: dict[str, int] = {}
        for text in texts:
            for tag in text.split(","):
                if tag.strip():
                    counts[tag.strip().lower()] = counts.get(tag.strip().lower(), 0) + 1
        return counts

    def counted(captions: list[str], pictures: int) -> dict[str, int]:
        return json.loads(modelspec.caption_fields(captions, pictures)["ss_tag_frequency"])["img"]

    several = ["A Cat, red ,, sofa", "a cat,Red", ",", "blue,"]
    assert counted(several, 4) == kohya(several)
    assert counted(["a photo of sks dog"], 5) == kohya(["a photo of sks dog"] * 5) == {"a photo of sks dog": 5}
    assert modelspec.caption_fields([], 3) == modelspec.caption_fields(["", "  "], 2) == {}
    assert modelspec.caption_fields(["a photo of sks dog"] * 2, 2)["modelspec.trigger_phrase"] == "a photo of sks dog"
    for nothing_shared in (several, ["sks dog", ""], ["a dog", "a cat"], ["x" * 101]):
        assert "modelspec.trigger_phrase" not in modelspec.caption_fields(nothing_shared, len(nothing_shared))


def test_a_peft_folder_carries_them_too(tmp_path: Path) -> None:
    from peft import load_peft_weights

    metadata = {"modelspec.architecture": "flux-1-dev/lora", "ss_base_model_version": "flux1", "format": "other"}
    adapter = make_adapter("lora")
    folder = peft_writer.write(adapter, tmp_path / "folder", NAMES, metadata=metadata)
    assert header(folder / "adapter_model.safetensors") == metadata | {"format": "pt"}
    assert as_lora_manager_reads(folder / "adapter_model.safetensors")[0] == "Flux.1 D"
    plain = load_peft_weights(str(peft_writer.write(adapter, tmp_path / "plain", NAMES)), device="cpu")
    tensors = load_peft_weights(str(folder), device="cpu")
    assert tensors.keys() == plain.keys()
    assert all(torch.equal(tensors[key], plain[key]) for key in plain)
    file = peft_writer.write_diffusers(adapter, tmp_path / "a.safetensors", NAMES, metadata=metadata)
    assert header(file)["ss_base_model_version"] == "flux1"
    assert "lora_adapter_metadata" in header(file)


def test_hashes_of_the_file_that_was_read_are_left_out(tmp_path: Path) -> None:
    """Managers look a file up by them without reading its tensors."""
    metadata = {
        "sshs_model_hash": "ab" * 32,
        "sshs_legacy_hash": "12345678",
        "modelspec.hash_sha256": "0x" + "ab" * 32,
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_tag_frequency": '{"img": {"dog": 2}}',
        "mine": "kept",
    }
    save_file(dict(make_adapter()), tmp_path / "a.safetensors", metadata)
    adapter = files.read(tmp_path / "a.safetensors")
    written = header(
        native.write(adapter, tmp_path / "b.safetensors", native.native_metadata(adapter, name="b", version="1"))
    )
    assert not {"sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"} & written.keys()
    assert {key: written[key] for key in ("ss_base_model_version", "ss_tag_frequency", "mine")} == {
        key: metadata[key] for key in ("ss_base_model_version", "ss_tag_frequency", "mine")
    }
    assert not {"modelspec.hash_sha256", "sshs_model_hash"} & modelspec.of_managers(metadata).keys()


def test_a_base_that_a_file_names_itself_stays(tmp_path: Path) -> None:
    sdxl = modelspec.base_of(model_of("SDXL"))
    assert modelspec.completed({"ss_base_model_version": "sd_v1"}, sdxl) == {}
    assert modelspec.completed({"modelspec.architecture": "flux-1-dev/lora"}, modelspec.named("Flux")) == {}
    metadata = modelspec.completed({"ss_base_model_version": "sdxl_base_v1-0"}, sdxl)
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert "ss_base_model_version" not in metadata
    adapter = Adapter(make_adapter(), {"base_model": "Flux"})
    assert native.native_metadata(adapter, name="a", version="1")["modelspec.architecture"] == "flux-1/lora"


# ------------------------------------------------------------------------------------------------- what is not written


@pytest.mark.parametrize(
    "training",
    [
        "not JSON",
        "[1, 2]",
        '"a text"',
        "3",
        "null",
        "{",
        "[" * 100_000,
        '{"steps": [1], "seed": {"a": 1}, "learning_rate": null}',
    ],
)
def test_a_foreign_training_header_is_kept_and_does_not_stop_the_saving(tmp_path: Path, training: str) -> None:
    save_file(dict(make_adapter()), tmp_path / "a.safetensors", {"training": training})
    adapter = files.read(tmp_path / "a.safetensors")
    written = native.write(adapter, tmp_path / "b.safetensors", native.native_metadata(adapter, name="b", version="1"))
    assert header(written)["training"] == training
    assert not {"ss_steps", "ss_seed", "ss_learning_rate", "ss_max_train_steps"} & header(written).keys()


def test_our_own_training_header_still_fills_the_fields(tmp_path: Path) -> None:
    adapter = Adapter(make_adapter(), {"training": '{"learning_rate": 0.001, "seed": 0, "steps": 5}'})
    metadata = native.native_metadata(adapter, name="b", version="1")
    assert (metadata["ss_steps"], metadata["ss_seed"], metadata["ss_learning_rate"]) == ("5", "0", "0.001")
    assert metadata["training"] == adapter.metadata["training"]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_tensors_are_refused_by_name(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = dict(make_adapter()) | {"diffusion_model.x.deft_R": torch.ones(2, 3, dtype=dtype)}
    message = f"complex numbers \\({str(dtype)[6:]}\\) in diffusion_model.x.deft_R"
    with pytest.raises(ValueError, match=f"^The adapter for a.safetensors has {message}"):
        native.write(Adapter(tensors), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=message):
        adapters.validate(tensors)
    torch.save({"x.B": torch.ones(8, 2, dtype=dtype)}, tmp_path / "para_rank_state.bin")
    with pytest.raises(ValueError, match=r"para_rank_state.bin has complex numbers .* in x.B, which are not supported"):
        files.read(tmp_path / "para_rank_state.bin")


def test_the_formats_page_lists_the_methods_with_a_peft_folder() -> None:
    *first, end = (record.title for record in methods.METHODS.values() if not isinstance(record.peft, str))
    assert f"{', '.join(first)} and {end}" in (ROOT / "docs" / "file_formats.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["svdiff", "oft"])
def test_what_peft_cannot_hold_is_refused_by_name(tmp_path: Path, method: str) -> None:
    layers = {
        "svdiff": {"delta": torch.randn(16)},
        "oft": {"oft_rotation": torch.linalg.qr(torch.randn(2, 8, 8))[0]},
    }[method]
    adapter = adapters.from_layers({"blocks.0.to_q": layers})
    assert adapters.describe(adapter)["method"] == method
    for write, path in ((peft_writer.write, "folder"), (peft_writer.write_diffusers, "a.safetensors")):
        with pytest.raises(ValueError) as caught:
            write(adapter, tmp_path / path, NAMES)
        assert str(caught.value) == (
            f"The adapter for {path} cannot be written for PEFT: layer blocks.0.to_q is of the method {method}, and "
            f"{methods.get(method).peft}. Choose the native format; PEFT's is for deft, para, lora, dora, lokr."
        )
    assert not list(tmp_path.iterdir())
