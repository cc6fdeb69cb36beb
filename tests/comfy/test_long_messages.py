"""Long lists and values are cut with a count, and a file of text encoders says that it needs the CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from . import models
from .pack import Pack
from .test_info import moved
from .test_patches import SD3_PROJECTION


def test_long_lists_are_cut_with_a_count(pack: Pack) -> None:
    model = models.sd3()
    strange = [f"diffusion_model.nowhere.{number}" for number in range(30)]
    shapes = dict.fromkeys([SD3_PROJECTION, *strange], (64, 64))
    adapter = pack.adapter(model, list(shapes), shapes=shapes)
    cut = ", ".join(sorted(strange)[:10]) + " and 20 more"
    applied, inspected = pack.apply(adapter, model)[2], pack.inspect(adapter, model)
    assert f"30 layers skipped, no such weight: {cut}\n" in f"{applied.text()}\n"
    assert f"unmatched: 30 layers: {cut}\n" in inspected.text()
    assert len(applied.unmatched) == len(inspected.unmatched) == 30  # all of them, for who asks
    few = pack.adapter(model, [SD3_PROJECTION, *strange[:10]], shapes=shapes)
    assert pack.apply(few, model)[2].text().endswith(", ".join(sorted(strange[:10])))


def test_long_values_are_cut_where_a_file_is_read(pack: Pack, run: Any, loras: Path) -> None:
    (loras / "saved").mkdir(exist_ok=True)
    tensors = dict(pack.adapter(models.sd3(), [SD3_PROJECTION]))
    save_file(tensors, loras / "saved" / "a.safetensors", {"ss_tag_frequency": "x" * 5000, "short": "y" * 200})
    adapter, info = run("DEFTLoadAdapterFile", "saved/a.safetensors", "auto")
    assert f"ss_tag_frequency: {'x' * 200} ... (5000 characters)" in info
    assert f"short: {'y' * 200}\n" in f"{info}\n"
    assert adapter.metadata["ss_tag_frequency"] == "x" * 5000


def test_a_training_header_that_is_nested_too_deeply_is_shown_as_it_is(pack: Pack) -> None:
    model = models.sd3()
    adapter = pack.adapter(model, [SD3_PROJECTION])
    adapter.metadata["training"] = "[" * 100_000
    assert f"training: {'[' * 200} ... (100000 characters)" in pack.inspect(adapter, model).text()


ENCODER_NAMES = {
    "comfyui": "text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj",
    "diffusers": "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
    "second": "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj",
    "kohya": "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
    "transformers": "text_model.encoder.layers.0.self_attn.q_proj",
    "t5": "encoder.block.0.layer.0.SelfAttention.q",
}


@pytest.mark.parametrize("kind", ENCODER_NAMES)
def test_a_file_of_text_encoders_without_a_clip(pack: Pack, kind: str) -> None:
    model, name = models.sd3(), ENCODER_NAMES[kind]
    layers = models.deft_layers({name: (32, 32)}, pack.methods.get("lora"))
    adapter = pack.adapters.from_layers(layers)
    with pytest.raises(ValueError) as caught:
        pack.apply(adapter, model, source="words.safetensors")
    assert str(caught.value) == (
        f"All layers of words.safetensors are of text encoders ({name}), but no CLIP is connected: connect the CLIP."
    )
    both = pack.adapter(model, [SD3_PROJECTION]) | adapter
    text = pack.apply(both, model)[2].text()
    assert "1 of the skipped layers are of text encoders: connect the CLIP for them" in text
    network = pack.adapter(model, [SD3_PROJECTION], shapes={SD3_PROJECTION: (64, 64)})
    other = {key.replace("joint_blocks.0", "joint_blocks.77"): value for key, value in network.items()}
    with pytest.raises(ValueError, match="their layer names differ"):  # not of a text encoder
        pack.apply(other, model)


def test_an_extracted_adapter_says_its_base(pack: Pack) -> None:
    extract = pack.extract
    adapter, _ = extract(models.sd3(), moved(models.sd3(), 0.1), rank=2)
    assert adapter.metadata["modelspec.architecture"] == "stable-diffusion-3-5-large/lora"
    assert adapter.metadata["ss_base_model_version"] == "sd3"
    assert adapter.metadata["base_model"] == "SD3"
