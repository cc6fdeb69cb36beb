"""Files of PEFT and diffusers on models that ComfyUI's own code converts; the names are in test_architectures.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ..everyday import NEWEST
from . import models
from .pack import Pack

PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"]


def test_describe(pack: Pack) -> None:
    describe = pack.names.describe
    assert describe({"a": 1}) == "a"
    assert describe(dict.fromkeys("abc")) == "a, b, ..."


def test_every_table_is_for_classes_of_comfyui_s(pack: Pack) -> None:
    """A class that ComfyUI does not have would leave a table without a use, and nothing would say so."""
    import comfy.model_base
    import comfyui_version

    if tuple(map(int, comfyui_version.__version__.split(".")[:2])) < NEWEST:
        pytest.skip("this ComfyUI lacks some")
    tables = pack.models.names.architectures.ARCHITECTURES
    named = [name for table in tables for name in table.MODELS]
    assert [name for name in named if not hasattr(comfy.model_base, name)] == []
    assert len(named) > 20


def test_projections_of_ltx_2_under_the_names_of_its_published_weights(pack: Pack) -> None:
    """ComfyUI's LTXAVTEModel.load_sd, and diffusers' conversion of LoRA files; LTX-2.3 has two with their own names."""
    from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_ltx2_lora_to_diffusers

    encoder_names = pack.models.names.text_encoders.encoder_names
    name, key = "text_embedding_projection", "text_embedding_projection.weight"
    network = nn.Module()
    network.text_embedding_projection = nn.Linear(8, 4, bias=False)
    (theirs,) = _convert_non_diffusers_ltx2_lora_to_diffusers({f"{name}.aggregate_embed.lora_A.weight": 0}, name)
    assert encoder_names(network) == dict.fromkeys(
        (name, f"{name}.aggregate_embed", theirs.removesuffix(".lora_A.weight")), key
    )
    network.text_embedding_projection = nn.ModuleDict({"video_aggregate_embed": nn.Linear(8, 4)})
    assert encoder_names(network) == {f"{name}.video_aggregate_embed": f"{name}.video_aggregate_embed.weight"}


def peft_adapter(network: nn.Module, folder: Path, targets: list[str], **options: Any) -> Any:
    """Put a random PEFT DEFT adapter on the diffusers model, and save it."""
    import peft

    config = peft.DeftConfig(r=4, decomposition_method="qr", target_modules=targets, **options)
    wrapped = peft.get_peft_model(network, config)
    for index, (name, parameter) in enumerate(wrapped.named_parameters()):
        if "deft_" in name:
            scale = 0.3 if "deft_P" in name else 0.05
            parameter.data.copy_(scale * models.random(*parameter.shape, seed=500 + index))
    wrapped.save_pretrained(folder)
    return wrapped


@pytest.mark.parametrize("options", [{"alpha": 6}, {"para": True}], ids=["deft", "para"])
@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_a_peft_file_does_the_same_in_comfyui_and_in_diffusers(
    pack: Pack, tmp_path: Path, kind: str, options: dict
) -> None:
    network = models.diffusers_sd15() if kind == "sd15" else models.diffusers_sd3()
    model = models.comfy_sd15(network) if kind == "sd15" else models.comfy_sd3(network)
    inputs = models.network_inputs(model)

    def diffusers_output() -> Tensor:
        with torch.no_grad():
            extra = {} if kind == "sd15" else {"pooled_projections": inputs["y"]}
            return network(
                inputs["x"], timestep=inputs["timesteps"], encoder_hidden_states=inputs["context"], **extra
            ).sample

    plain = diffusers_output()
    assert models.relative(models.network_output(model, **inputs), plain) < 1e-5

    wrapped = peft_adapter(network, tmp_path, PROJECTIONS, **options)
    layers = sum(name.endswith("deft_P.default") for name, _ in wrapped.named_parameters())
    expected = diffusers_output()
    assert models.relative(expected, plain) > 1e-2

    adapter = pack.files.read(tmp_path)
    patched, _, report = pack.apply(adapter, model)
    assert report.matched == layers == (32 if kind == "sd15" else 8)
    assert not report.unmatched
    assert models.relative(models.network_output(patched, **inputs), expected) < 1e-4


def test_a_file_of_diffusers_with_its_record_in_the_header(pack: Pack, tmp_path: Path) -> None:
    """What our PEFT writer makes for pipelines ("unet." before all names) is applied to the same layers."""
    model = models.unet("sd15")
    names = pack.names.module_names(model)
    layers = [
        f"diffusion_model.{name}"
        for name, module in model.model.diffusion_model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    methods = pack.methods
    shapes = {name: tuple(model.model.state_dict()[f"{name}.weight"].shape) for name in layers}
    adapter = pack.adapters.from_layers(models.deft_layers(shapes, methods.get("deft")))
    path = pack.deft_ops.files.peft_writer.write_diffusers(
        adapter, tmp_path / "pytorch_lora_weights.safetensors", names, prefix="unet"
    )
    apply = pack.apply
    again, _, report = apply(pack.files.read(path), model)
    assert report.matched == len(layers)
    assert not report.unmatched
    expected = models.network_output(apply(adapter, model)[0])
    assert models.relative(models.network_output(again), expected) < 1e-4  # Q is factorised once more
