"""A small file of each format in the table of docs/file_formats.md, for one layer of a small SD3 or UNet.

FORMATS has a row's name in the table, the model that the file is for, and what writes the file into a folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from . import models
from . import test_conversions as conversions

SD3 = "diffusion_model.joint_blocks.0.x_block.attn.proj"  # [64, 64]
DIFFUSERS = "transformer_blocks.0.attn.to_out.0"  # the same layer
LINEAR = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"  # [32, 32]
CONVOLUTION = "diffusion_model.input_blocks.1.0.in_layers.2"  # [32, 32, 3, 3]
IN_DIFFUSERS = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"  # LINEAR


@dataclass(frozen=True)
class Format:
    """`write` puts a file for a model into a folder and gives what files.read takes: a path, and options."""

    model: Callable[[], Any]
    write: Callable[[Path, Any], tuple[Path, dict[str, Any]]]


def values(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Random tensors by the ends of their names; "__" is a dot."""
    return {
        name.replace("__", "."): 0.3 * models.random(*shape, seed=700 + index)
        for index, (name, shape) in enumerate(shapes.items())
    }


def saved(
    name: str,
    tensors: dict[str, Tensor],
    config: dict[str, Any] | None = None,
    between: str = ".",
    file: str = "file.safetensors",
    **options: Any,
) -> Callable[[Path, Any], tuple[Path, dict[str, Any]]]:
    """What writes the tensors of one layer, with the record of PEFT beside them if there is one."""

    def write(folder: Path, model: Any) -> tuple[Path, dict[str, Any]]:
        content = {f"{name}{between}{end}": tensor.contiguous() for end, tensor in tensors.items()}
        path = folder / ("adapter_model.safetensors" if config is not None else file)
        if path.suffix == ".safetensors":
            save_file(content, path)
        else:
            torch.save(content, path)
        if config is not None:
            (folder / "adapter_config.json").write_text(json.dumps(config))
        return path, options

    return write


def of_model(tensors: Callable[[Any], dict[str, Tensor]]) -> Callable[[Path, Any], tuple[Path, dict[str, Any]]]:
    """What writes a whole file that is made for the model."""

    def write(folder: Path, model: Any) -> tuple[Path, dict[str, Any]]:
        path = folder / "file.safetensors"
        save_file({key: tensor.contiguous().clone() for key, tensor in tensors(model).items()}, path)
        return path, {}

    return write


def native(tensors: dict[str, Tensor]) -> Format:
    return Format(models.sd3, saved(SD3, tensors))


def peft(config: dict[str, Any], tensors: dict[str, Tensor]) -> Format:
    return Format(models.sd3, saved(f"base_model.model.{DIFFUSERS}", tensors, config))


def unet(tensors: dict[str, Tensor], name: str = LINEAR, **options: Any) -> Format:
    return Format(models.unet, saved(name, tensors, **options))


def orthonormal(rows: int = 64, rank: int = 4) -> Tensor:
    return torch.linalg.qr(models.random(rows, rank, seed=800)).Q


ALPHA = {"alpha": torch.tensor(2.0)}
LORA = values(lora_up__weight=(64, 4), lora_down__weight=(4, 64)) | ALPHA
PEFT_LORA = values(lora_A__weight=(4, 64), lora_B__weight=(64, 4))
LOHA = values(hada_w1_a=(64, 4), hada_w1_b=(4, 64), hada_w2_a=(64, 4), hada_w2_b=(4, 64))
TUCKER = values(lora_up__weight=(32, 4, 1, 1), lora_mid__weight=(4, 4, 3, 3), lora_down__weight=(4, 32, 1, 1)) | ALPHA

FORMATS: dict[str, Format] = {
    "native DEFT": native({"deft_Q": orthonormal(), "deft_R": models.random(4, 64, seed=801)} | ALPHA),
    "native PaRa": native({"deft_Q": orthonormal()}),
    "native SVDiff": native(values(delta=(64,))),
    "native and kohya LoRA": native(LORA),
    "DreamBooth: `.diff`, `.diff_b`": native(values(diff=(64, 64), diff_b=(64,))),
    "native DoRA": native(values(dora_up=(64, 4), dora_down=(4, 64)) | {"dora_magnitude": torch.ones(64)} | ALPHA),
    "native DoRA, trained": native(
        values(lora_up__weight=(64, 4), lora_down__weight=(4, 64))
        | {"dora_scale": torch.ones(64, 1), "dora_magnitude": torch.ones(64)}
        | ALPHA
    ),
    "native OFT": native({"oft_rotation": torch.linalg.qr(models.random(8, 8, 8, seed=802)).Q}),
    "PEFT DEFT": peft(
        {"peft_type": "DEFT", "r": 4, "decomposition_method": "relu", "alpha": 3},
        values(deft_P=(64, 4), deft_R=(4, 64)),
    ),
    "PEFT PaRa": peft(
        {"peft_type": "DEFT", "r": 4, "decomposition_method": "qr", "para": True}, values(deft_P=(64, 4))
    ),
    "PEFT LoRA, rsLoRA": peft({"peft_type": "LORA", "r": 4, "lora_alpha": 3, "use_rslora": True}, PEFT_LORA),
    "PEFT DoRA": peft(
        {"peft_type": "LORA", "r": 4, "lora_alpha": 3, "use_dora": True},
        PEFT_LORA | {"lora_magnitude_vector": torch.ones(64)},
    ),
    "PEFT LoHa": peft({"peft_type": "LOHA", "r": 4, "alpha": 3}, LOHA),
    "PEFT LoKr": peft({"peft_type": "LOKR", "r": 4, "alpha": 3}, values(lokr_w1=(8, 8), lokr_w2=(8, 8))),
    "PEFT OFT": peft({"peft_type": "OFT", "oft_block_size": 8}, values(oft_R__weight=(8, 28))),
    "PEFT `lora_bias`": peft(
        {"peft_type": "LORA", "r": 4, "lora_alpha": 3, "lora_bias": True}, PEFT_LORA | values(lora_B__bias=(64,))
    ),
    "PEFT trained biases": peft(
        {"peft_type": "LORA", "r": 4, "lora_alpha": 3, "bias": "lora_only"}, PEFT_LORA | values(bias=(64,))
    ),
    "PEFT `modules_to_save`": Format(
        models.sd3,
        saved(
            f"base_model.model.{DIFFUSERS.removesuffix('.to_out.0')}",
            {f"to_out.0.{name}": value for name, value in PEFT_LORA.items()} | values(to_q__weight=(64, 64)),
            {"peft_type": "LORA", "r": 4, "lora_alpha": 3, "modules_to_save": ["to_q"]},
        ),
    ),
    "`deft_sdxl`": unet(values(P=(32, 4), R_new=(4, 32)), f"{IN_DIFFUSERS}.lora_layer", file="project_replace.pt"),
    "`para_deft`": unet(values(B=(32, 4)), IN_DIFFUSERS, file="para_rank_state.bin"),
    "`para_authors`": unet(
        values(lora_up__weight=(32, 4), lora_down__weight=(4, 32)),
        "lora_unet_" + IN_DIFFUSERS.replace(".", "_"),
        file_format="para_authors",
    ),
    "`svdiff`": unet(values(delta=(32,)), IN_DIFFUSERS, file="spectral_shifts.safetensors"),
    "Tucker LoRA (LoCon)": unet(TUCKER, CONVOLUTION),
    "LoHa": native(LOHA | ALPHA),
    "LoKr": native(values(lokr_w1=(8, 8), lokr_w2=(8, 8))),
    "GLoRA": native(values(a1__weight=(64, 4), a2__weight=(4, 64), b1__weight=(64, 4), b2__weight=(4, 64))),
    "Tucker LoHa": unet(
        values(
            hada_t1=(4, 4, 3, 3),
            hada_w1_a=(4, 32),
            hada_w1_b=(4, 32),
            hada_t2=(4, 4, 3, 3),
            hada_w2_a=(4, 32),
            hada_w2_b=(4, 32),
        ),
        CONVOLUTION,
    ),
    "Tucker LoKr": unet(values(lokr_w1=(4, 4), lokr_t2=(2, 2, 3, 3), lokr_w2_a=(2, 8), lokr_w2_b=(2, 8)), CONVOLUTION),
    "OneTrainer LoHa of convolutions": unet(
        values(hada_w1_a=(32, 4, 1, 1), hada_w1_b=(4, 32, 3, 3), hada_w2_a=(32, 4, 1, 1), hada_w2_b=(4, 32, 3, 3))
        | ALPHA,
        CONVOLUTION,
    ),
    "LoRA with `dora_scale`": native(LORA | {"dora_scale": torch.ones(64, 1)}),
    "LoHa with `dora_scale`": native(LOHA | ALPHA | {"dora_scale": torch.ones(64, 1)}),
    "LoKr with `dora_scale`": native(values(lokr_w1=(8, 8), lokr_w2=(8, 8)) | {"dora_scale": torch.ones(1, 64)}),
    "Tucker LoRA with `dora_scale`": unet(TUCKER | {"dora_scale": torch.ones(32, 1, 1, 1)}, CONVOLUTION),
    "diag-OFT": native(values(oft_blocks=(8, 8, 8))),
    "diag-OFT, rescaled and constrained": native(
        values(oft_blocks=(8, 8, 8)) | {"rescale": torch.full((64, 1), 1.1), "alpha": torch.tensor(1e-3)}
    ),
    "BOFT": native(values(oft_blocks=(2, 8, 8, 8)) | ALPHA),
    "kohya OFT": native(values(oft_blocks=(4, 16, 16)) | {"alpha": torch.tensor(1e-3)}),
    "`oft_diag`": native({"oft_diag": torch.linalg.qr(models.random(8, 8, 8, seed=803)).Q}),
    "OneTrainer OFT": unet(values(oft_R__weight=(36, 28)), CONVOLUTION),
    "OneTrainer OFT, scaled": unet(
        values(oft_R__weight=(4, 28)) | {"oft_R.scaled_oft": torch.tensor(True)},
        "lora_unet_" + IN_DIFFUSERS.replace(".", "_"),
    ),
    "Wan-Fun's LoRA": Format(lambda: conversions.model_of("Wan 2.1 T2V"), of_model(conversions.wan_fun)),
    "USO's and XLabs' LoRA": Format(
        conversions.flux_of_published_depth, of_model(lambda model: conversions.xlabs("", 19, 38))
    ),
    "BFL's control LoRA": Format(lambda: conversions.model_of("Flux.1"), of_model(conversions.flux_control)),
    "`.diff_m`": Format(
        lambda: conversions.model_of("Wan 2.1 T2V"),
        of_model(
            lambda model: {
                "diffusion_model.blocks.0.diff_m": 0.3
                * models.random(*models.weights(model)["diffusion_model.blocks.0.modulation"].shape, seed=804)
            }
        ),
    ),
    "musubi-tuner's names": Format(
        lambda: conversions.model_of("Wan 2.1 T2V"),
        of_model(
            lambda model: conversions.pairs_for(
                model, lambda path: conversions.NETWORK + conversions.dots(path.replace(".", "_"))
            )[0]
        ),
    ),
    "(IA)^3 of LyCORIS": Format(models.unet, of_model(lambda model: conversions.ia3(model)[0])),
    "T-LoRA of its authors": Format(models.unet, of_model(lambda model: conversions.tlora(model, "unet.")[0])),
    "T-LoRA of LyCORIS": Format(
        models.unet, of_model(lambda model: conversions.lycoris_tlora(models.weights(model), "principal")[0])
    ),
    "PEFT's other tuners": peft(
        {"peft_type": "HIRA", "r": 4, "target_modules": ["to_out.0"]}, values(hira_A=(4, 64), hira_B=(64, 4))
    ),
}
