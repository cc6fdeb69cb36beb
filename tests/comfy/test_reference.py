"""Reference pictures (ComfyUI's ReferenceLatent) in training and sampling, on a small OmniGen2; its two examples."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from . import models
from .architectures import WIDTH, comfyui_omnigen2
from .conftest import ROOT
from .pack import Pack
from .test_training import as_loaded, one_step, same_gradients, settings, train

EMBEDDER = "diffusion_model.ref_image_patch_embedder"  # what sees the references first
# How ComfyUI scales OmniGen2's latents, which are Flux': written out, so that scaling twice would be seen.
SHIFT, SCALE = 0.1159, 0.3611


def omnigen2() -> Any:
    """A small OmniGen2 with random weights."""
    model = comfyui_omnigen2(16)
    models.fill(model.model.diffusion_model, 28)
    return model


def picture(height: int = 4, width: int = 6, seed: int = 31, count: int = 1) -> Tensor:
    """An encoded picture."""
    return models.random(count, 16, height, width, seed=seed)


def referring(conditioning: list, *latents: Tensor) -> list:
    """A CONDITIONING with references, added by ComfyUI's own node."""
    from comfy_extras.nodes_edit_model import ReferenceLatent

    for latent in latents:
        (conditioning,) = ReferenceLatent.execute(conditioning, {"samples": latent}).result
    return conditioning


def caption(*references: Tensor, seed: int = 2) -> list:
    """A CONDITIONING of one caption, as OmniGen2's text encoder gives it."""
    extras = {"attention_mask": torch.ones(1, 7, dtype=torch.long)}
    return referring([[models.random(1, 7, WIDTH, seed=seed), extras]], *references)


def captions() -> list:
    """A CONDITIONING of five captions: references of one size twice, of another size, two of them, and none."""
    small, other, tall = picture(), picture(seed=32), picture(8, 4, seed=33)
    return [
        *caption(small, seed=20),
        *caption(other, seed=30),
        *caption(tall, seed=40),
        *caption(small, tall, seed=50),
        *caption(seed=60),
    ]


class SmallOmniGen2:
    """A node that loads the small model."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "load", "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def load(self) -> tuple[Any]:
        return (omnigen2(),)


class SmallQwen(SmallOmniGen2):
    """A node that loads OmniGen2's text encoder with its own tokenizer, small."""

    RETURN_TYPES = ("CLIP",)

    def load(self) -> tuple[Any]:
        import comfy.text_encoders.omnigen2 as encoder

        target = types.SimpleNamespace(params={}, clip=encoder.te(), tokenizer=encoder.Omnigen2Tokenizer)
        clip = models.clip_of(
            target,
            {
                "dtype": torch.float32,
                "qwen25_3b_model_config": {
                    "hidden_size": WIDTH,
                    "intermediate_size": 64,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "num_key_value_heads": 1,
                },
            },
        )
        models.fill(clip.cond_stage_model, 29)
        return (clip,)


# ----------------------------------------------------------------------------------------------------------- training


class Whole(nn.Module):
    """A model whose apply_model runs with other weights, by torch.func.functional_call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.model.apply_model(*args, **kwargs)  # type: ignore[operator]


def by_hand(pack: Pack, model: Any, latents: dict, conditioning: list, chosen: Any) -> tuple[dict, Tensor]:
    """Loss and gradients of one step by plain autograd through the model's own apply_model, picture by picture.

    For the same random numbers, on a model of ordinary tensors. Returns the leaves by layer and name, and the loss.
    """
    network, source = model.model.diffusion_model, torch.Generator().manual_seed(chosen.seed)
    method = pack.methods.get(chosen.method)
    layers = pack.targets.select(network, chosen.layers, "", chosen.exclude)
    params = {
        name: method.training.init(layer.weight, chosen.rank, chosen.own, source) for name, layer in layers.items()
    }
    samples = latents["samples"]
    rows = torch.randperm(len(samples), generator=source)[: chosen.batch_size].tolist()
    sigma = pack.objective.sample_sigmas(model.model.model_sampling, len(rows), source)
    noise = torch.randn(samples.shape, generator=source)
    merged = {}
    for name, layer in layers.items():
        weight = layer.weight.detach()
        factors = method.training.factors(params[name], chosen.own)
        merged[f"model.diffusion_model.{name}.weight"] = weight + method.delta(factors, weight)
    total = torch.zeros(())
    for index, row in enumerate(rows):
        x0, level = (samples[row : row + 1] - SHIFT) * SCALE, sigma[index]
        text, extras = conditioning[row if len(conditioning) > 1 else 0]
        conds = {"c_crossattn": text, "num_tokens": text.shape[1]}
        if "reference_latents" in extras:
            conds["ref_latents"] = [(latent - SHIFT) * SCALE for latent in extras["reference_latents"]]
        noisy = level * noise[index : index + 1] + (1 - level) * x0
        denoised = torch.func.functional_call(Whole(model.model), merged, (noisy, level[None]), conds)
        # noisy - level x output is the clean picture, so the output's error is that of the picture over the level.
        total = total + ((denoised - x0) / level).square().mean() / len(rows)
    total.backward()
    return params, total.detach()


CONDITIONING: dict[str, Callable[[], list]] = {
    "none": caption,
    "one for all": lambda: caption(picture()),
    "different": captions,
}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("method", ["para", "deft", "lora"])
@pytest.mark.parametrize("kind", CONDITIONING)
def test_loss_and_gradients_are_those_of_apply_model(
    pack: Pack, kind: str, method: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "in_training", True)  # else ComfyUI's rotations have no gradient
    options = {"projector": "qr"} if method == "deft" else {}
    chosen = settings(
        pack,
        method,
        3,
        1,
        0.0,
        batch_size=5,
        seed=11,
        max_grad_norm=math.inf,
        options=options,
        gradient_checkpointing=checkpointing,
        exclude="ref_image" if kind == "none" else "",
    )
    latents = {"samples": picture(8, 8, seed=1, count=5)}
    params, expected = by_hand(pack, omnigen2(), latents, CONDITIONING[kind](), chosen)
    with torch.inference_mode():  # as they come out of nodes
        given = CONDITIONING[kind]()
    trainer, loss = one_step(pack, as_loaded(omnigen2), latents, given, chosen)
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert same_gradients(trainer, params)
    of_references = [params[name] for name in params if "ref_image" in name]
    assert bool(of_references) == (kind != "none")
    assert all(any(float(leaf.grad.norm()) > 0 for leaf in leaves.values()) for leaves in of_references)


@pytest.mark.parametrize("layers", ["attention", "all linear"])
@pytest.mark.parametrize("method", ["para", "deft", "lora", "svdiff"])
def test_training_refers_to_the_reference(pack: Pack, method: str, layers: str) -> None:
    """Every method, also where the network writes into the output of a trained layer (its embedding's numbers)."""
    chosen = {"method": method, "layers": layers, "batch_size": 2}
    with_it, without, other, again = (
        train(pack, as_loaded(omnigen2), captions=[caption(*references)], **chosen).losses
        for references in ([picture()], [], [picture(seed=32)], [picture()])
    )
    assert with_it == again
    assert with_it != without
    assert with_it != other
    assert all(map(math.isfinite, with_it))


def test_the_text_encoder_learns_beside_a_reference(pack: Pack) -> None:
    def losses(*references: Tensor) -> list[float]:
        text = "a sks teddy bear"
        with torch.inference_mode():
            model, (clip,) = omnigen2(), SmallQwen().load()
            encoded = referring(clip.encode_from_tokens_scheduled(clip.tokenize(text)), *references)
            latents = {"samples": picture(8, 8, seed=1)}
            material = pack.material.Material([latents], [encoded], clip=clip, words=[text])
            result = pack.loop.train(model, material, settings(pack, "lora"), lambda progress: None)
        layers = [name for name in pack.adapters.layers(result.adapter) if name.startswith("text_encoders.")]
        assert all(float(result.adapter[f"{name}.lora_up.weight"].norm()) > 0 for name in layers)
        assert layers
        return result.losses

    assert losses() != losses(picture()) == losses(picture())


def test_references_are_scaled_once_and_wait_on_the_cpu(pack: Pack) -> None:
    model = as_loaded(omnigen2)
    with torch.inference_mode():
        small, tall = picture(), picture(8, 4)
        entries = caption(small, tall)
        before = small.clone()
    with torch.inference_mode(False):
        captions = pack.batches.Captions(model.model, entries, models.CPU)
        references = captions.conds(0, (1, 16, 8, 8))["ref_latents"]
        for latent, own in zip((small, tall), references.cond, strict=True):
            assert torch.allclose(own, (latent - SHIFT) * SCALE)
            assert own.shape == latent.shape
            assert not own.is_inference()
            assert own.device == models.CPU
    assert torch.equal(small, before)
    elsewhere = pack.batches.moved(references, torch.device("meta"))
    assert [latent.device.type for latent in elsewhere.cond] == ["meta", "meta"]
    assert [latent.device.type for latent in references.cond] == ["cpu", "cpu"]


def test_references_of_other_sizes_or_counts_go_in_groups(pack: Pack) -> None:
    model = omnigen2()
    conds = pack.batches.encode_conditioning(model.model, captions(), (1, 16, 8, 8), models.CPU)
    assert pack.batches.groups(conds) == [[0, 1], [2], [3], [4]]
    assert [latent.shape for latent in pack.batches.batch(conds[:2])["ref_latents"]] == [(2, 16, 4, 6)]
    assert [latent.shape for latent in pack.batches.batch(conds[3:4])["ref_latents"]] == [(1, 16, 4, 6), (1, 16, 8, 4)]
    assert "ref_latents" not in pack.batches.batch(conds[4:])


def test_a_batch_as_reference_is_told_in_a_sentence(pack: Pack) -> None:
    given = [caption(picture()), caption(picture(count=5))]
    with pytest.raises(ValueError, match="The reference of caption 2 is a batch of 5 pictures: connect one, or split"):
        train(pack, as_loaded(omnigen2), [{"samples": picture(8, 8, count=2)}], given)


def test_references_are_part_of_a_runs_identity(pack: Pack, tmp_path: Path) -> None:
    def hash_of(conditioning: list) -> str:
        return pack.batches.dataset_hash([], [], conditioning, [])

    plain, one, other = caption(), caption(picture()), caption(picture(seed=32))
    two, swapped = caption(picture(), picture(seed=32)), caption(picture(seed=32), picture())
    longer = [[plain[0][0], plain[0][1] | {"attention_mask": torch.tensor([[1] * 6 + [0]])}]]
    named = [[plain[0][0], plain[0][1] | {"reference_latents_method": "index"}]]
    hashes = [hash_of(entry) for entry in (plain, one, other, two, swapped, longer, named)]
    assert len(set(hashes)) == len(hashes)
    assert hash_of(caption(picture())) == hash_of(one)

    def run(references: Sequence[Tensor]) -> str:
        model, folder = as_loaded(omnigen2), pack.checkpoints.RunFolder(tmp_path / "run", 1)
        with torch.inference_mode():
            material = pack.material.Material([{"samples": picture(8, 8)}], [caption(*references)])
            chosen = settings(pack, steps=1)
            return pack.loop.train(model, material, chosen, lambda progress: None, folder=folder).report

    reports = [run(references) for references in ([], [picture()], [picture(seed=32)], [picture()])]
    assert ["finished before" in report for report in reports] == [False, False, False, True]
    assert len(list(tmp_path.iterdir())) == 3


# ----------------------------------------------------------------------------------------------------------- sampling


def sampled(model: Any, *references: Tensor) -> Tensor:
    """A latent from ComfyUI's nodes: guided by text and reference, or by text alone."""
    import nodes
    from comfy_extras import nodes_custom_sampler as custom

    with torch.inference_mode():
        latent = {"samples": torch.zeros(1, 16, 8, 8)}
        positive, negative = caption(seed=20), caption(seed=30)
        if not references:
            return (
                nodes.KSampler()
                .sample(model, 5, 3, 5.0, "euler", "simple", positive, negative, latent)[0]["samples"]
                .clone()
            )
        (guider,) = custom.DualCFGGuider.execute(
            model, referring(positive, *references), referring(negative, *references), negative, 5.0, 2.0, "regular"
        ).result
        (noise,), (sampler,) = custom.RandomNoise.execute(5).result, custom.KSamplerSelect.execute("euler").result
        (sigmas,) = custom.BasicScheduler.execute(model, "simple", 3, 1.0).result
        return custom.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).result[0]["samples"].clone()


@pytest.mark.parametrize("trained_with", [True, False], ids=["with", "without"])
def test_one_adapter_samples_with_and_without_the_reference(pack: Pack, trained_with: bool) -> None:
    model = as_loaded(omnigen2)
    references = [picture()] if trained_with else []
    adapter = train(pack, model, captions=[caption(*references)], method="para", layers="attention").adapter
    patched, _, report = pack.apply(adapter, model)
    assert not report.unmatched
    latents = [
        sampled(used, *shown)
        for used in (model, patched)
        for shown in ([], [picture()], [picture(seed=32)], [picture(), picture(8, 4)])
    ]
    assert all(torch.isfinite(latent).all() for latent in latents)
    assert all(models.relative(one, other) > 1e-3 for place, one in enumerate(latents) for other in latents[:place])
    assert torch.equal(sampled(patched), latents[4])
    assert torch.equal(sampled(patched, picture()), latents[5])


# -------------------------------------------------------------------------------------------------- the two examples


def example(name: str) -> dict[str, Any]:
    """An example workflow with small models in the place of the files it names, small pictures and few steps."""
    small = {
        "UNETLoader": {"class_type": "SmallOmniGen2", "inputs": {}},
        "CLIPLoader": {"class_type": "SmallQwen", "inputs": {}},
    }
    changed = {
        "VAELoader": {"vae_name": "deft_demo_vae.safetensors"},
        "DEFTLoadScorer": {"protocol": "demo"},
        "ImageScaleToTotalPixels": {"megapixels": 0.01},
        "EmptySD3LatentImage": {"width": 64, "height": 64},
        "DEFTTrainAdapter": {"steps": 2},
        "KSampler": {"steps": 2},
        "BasicScheduler": {"steps": 2},
        "DEFTPrompts": {"prompts": "a sks teddy bear on a beach\na sks teddy bear in a forest"},
    }
    prompt = json.loads((ROOT / "example_workflows" / "api" / f"omnigen2_{name}.json").read_text())
    for key, node in prompt.items():
        prompt[key] = small.get(node["class_type"], node)
        node["inputs"] |= changed.get(node["class_type"], {})
    return prompt


def test_the_examples_run_and_share_one_adapter(comfyui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for node in (SmallOmniGen2, SmallQwen):
        monkeypatch.setitem(comfyui.nodes.NODE_CLASS_MAPPINGS, node.__name__, node)
    with_it, text_only = example("reference"), example("text_only")
    shared = [key for key in with_it if int(key) < 20]
    assert all(with_it[key] == text_only[key] for key in shared)
    assert "12" in shared
    assert "ReferenceLatent" not in {node["class_type"] for key, node in text_only.items() if key not in shared}
    first = comfyui.run(with_it, want=["12", "50", "51"])
    comfyui.reset()
    second = comfyui.run(text_only, want=["12", "50", "51"])
    assert "finished before, not trained again" in second.text("12")
    assert "resumed" not in first.text("12")
    adapter = first.output("12")
    assert adapter.metadata["method"] == "para"
    assert f"{EMBEDDER}.deft_Q" not in adapter
    assert all(torch.equal(adapter[key], second.output("12")[key]) for key in adapter)
    pictures = [torch.cat(run.outputs[key][0]) for run in (first, second) for key in ("50", "51")]
    assert all(picture.shape == (2, 64, 64, 3) and torch.isfinite(picture).all() for picture in pictures)
    assert all(
        float((one - other).abs().max()) > 1e-3 for place, one in enumerate(pictures) for other in pictures[:place]
    )
    for run, label in ((first, "PaRa"), (second, "PaRa + Uncond.")):
        assert label in run.text("71")
        assert run.ui["72"]["images"]


# -------------------------------------------------------------------------------------------------- OmniGen (v1) files


@pytest.mark.parametrize("file", ["knowledge_injection_state.bin", "para_rank_state.bin"])
def test_files_of_omnigen_v1_say_that_no_model_can_take_them(pack: Pack, tmp_path: Path, file: str) -> None:
    name, matrix = "llm.layers.0.self_attn.qkv_proj", models.random(24, 4, seed=1)
    tensors = {f"{name}.P": matrix, f"{name}.R_new": models.random(4, 20, seed=2)}
    torch.save(tensors if file.startswith("knowledge") else {f"{name}.B": matrix}, tmp_path / file)
    adapter = pack.files.read(tmp_path / file)
    text = "on OmniGen .v1., which ComfyUI does not support, and cannot be used on any other model, including OmniGen2"
    for make in (omnigen2, models.sd3):
        with pytest.raises(ValueError, match=f"No layer of .* fits .*{name}.*{text}") as caught:
            pack.apply(adapter, make())
        assert "Load the base model" not in str(caught.value)
    with pytest.raises(ValueError, match=f"not in the base .*{text}"):
        pack.to_lora(adapter, omnigen2())
    written = pack.files.native.write(adapter, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=text):
        pack.apply(pack.files.read(written), omnigen2())
