"""Low-rank adapters from two models: what ComfyUI's own LoRA, merge and checkpoint roads made of one of them."""

from __future__ import annotations

import copy
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from . import models
from .pack import Pack
from .test_export import encode, small_clip

SD3_NORM = "diffusion_model.joint_blocks.0.x_block.attn.ln_q"


@pytest.fixture
def lora_file(comfyui_session: Any) -> Iterator[Any]:
    """A random LoRA of ComfyUI's naming in models/loras, for every layer of a model; its name."""
    made: list[Path] = []

    def write(model: Any, rank: int, scale: float = 0.05, seed: int = 30) -> str:
        state, tensors = model.model.state_dict(), {}
        for index, name in enumerate(models.every_layer(model)):
            shape = state[f"{name}.weight"].shape
            width = shape[1:].numel()
            numbers = models.generator(seed + index)
            tensors[f"{name}.lora_up.weight"] = scale * torch.randn(shape[0], rank, generator=numbers)
            tensors[f"{name}.lora_down.weight"] = torch.randn(rank, width, generator=numbers)
        made.append(comfyui_session.base / "models" / "loras" / "to_extract.safetensors")
        save_file(tensors, made[0])
        return made[0].name

    yield write
    for path in made:
        path.unlink()


def fine_tuned(make: Any, size: float = 0.05, keep: str = "") -> Any:
    """A model of which every parameter (whose name has no `keep` in it) is moved, matrices by a full-rank change."""
    model = make()
    state = {
        name: value
        for name, value in model.model.diffusion_model.state_dict().items()
        if value.is_floating_point() and not (keep and keep in name)
    }
    noise = models.filled({name: value.shape for name, value in state.items()}, seed=91)
    moved = {name: value + size * noise[name] for name, value in state.items()}
    model.model.diffusion_model.load_state_dict(moved, strict=False)
    return model


def difference(base: dict[str, Tensor], tuned: dict[str, Tensor], name: str) -> np.ndarray:
    """W' - W of a layer as a float64 matrix."""
    key = f"{name}.weight"
    return (tuned[key].double() - base[key].double()).flatten(1).numpy()


@pytest.mark.parametrize("method", ["deft", "lora"])
@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_a_model_that_carries_a_lora(pack: Pack, lora_file: Any, kind: str, method: str) -> None:
    """ComfyUI's own loader applies a LoRA of rank 3; what is extracted at rank 3 is all of it."""
    import nodes

    model = models.sd3() if kind == "sd3" else models.unet(kind)
    tuned = nodes.LoraLoaderModelOnly().load_lora_model_only(model, lora_file(model, 3), 0.8)[0]
    expected = models.network_output(tuned)
    assert models.relative(models.network_output(model), expected) > 1e-2
    adapter, report = pack.extract(model, tuned, method=method, rank=3)
    layers = models.every_layer(model)
    assert set(pack.adapters.layers(adapter)) == set(layers)
    assert not pack.adapters.foreign(adapter)
    assert report.energy > 1 - 1e-9
    assert report.overall > 1 - 1e-9
    assert set(report.ranks.values()) <= {1, 2, 3}
    assert not report.vectors
    assert not report.left_out
    applied, _, matching = pack.apply(adapter, model)
    assert matching.methods == {method: len(layers)}
    assert not matching.unmatched
    assert models.relative(models.network_output(applied), expected) < 1e-4
    assert adapter.metadata["method"] == method
    assert adapter.metadata["rank"] == "3"
    assert json.loads(adapter.metadata["extraction"])["layers"] == len(layers)


def test_a_fine_tune_against_numpy(pack: Pack) -> None:
    base, tuned = models.unet(), fine_tuned(models.unet)
    before, after = models.weights(base), models.weights(tuned)
    layers = models.every_layer(base)
    squares = {name: np.linalg.svd(difference(before, after, name), compute_uv=False) ** 2 for name in layers}
    rest = sum(
        float((after[key].double() - before[key].double()).square().sum())
        for key in before
        if key.startswith("diffusion_model.") and key.removesuffix(".weight") not in layers
    )
    whole = sum(values.sum() for values in squares.values())
    base_output, tuned_output = models.network_output(base), models.network_output(tuned)
    assert models.relative(base_output, tuned_output) > 1e-2
    previous = 0.0
    for rank in (1, 4, 16, 1000):
        results = {method: pack.extract(base, tuned, method=method, rank=rank) for method in ("deft", "lora")}
        kept = sum(values[:rank].sum() for values in squares.values())
        for adapter, report in results.values():
            assert report.energy == pytest.approx(kept / whole, rel=1e-6)
            assert report.overall == pytest.approx(kept / (whole + rest), rel=1e-6)
            for name in layers:
                assert report.kept[name][0] == pytest.approx(squares[name][:rank].sum(), rel=1e-6)
            assert len(report.vectors) > 10
            assert not pack.adapters.foreign(adapter)
        assert report.energy > previous
        previous = report.energy
        for name in layers:
            weight = before[f"{name}.weight"]
            deft, lora = (pack.delta(adapter, name, weight) for adapter, _ in results.values())
            assert models.relative(weight + deft, weight + lora) < 1e-6, name
            U, sigma, Vh = np.linalg.svd(difference(before, after, name), full_matrices=False)
            best = torch.from_numpy((U[:, :rank] * sigma[:rank]) @ Vh[:rank]).view(weight.shape)
            assert models.relative(deft, best) < 1e-4
            assert models.relative(lora, best) < 1e-4
    assert previous > 1 - 1e-9
    # Full rank and the vectors: the tuned model itself.
    adapter, report = pack.extract(base, tuned, rank=1000, vectors=True)
    assert report.overall > 1 - 1e-9
    patched, _, matching = pack.apply(adapter, base)
    assert not matching.unmatched
    assert models.relative(models.network_output(patched), tuned_output) < 1e-4


def test_energy_gives_each_layer_its_own_rank(pack: Pack) -> None:
    base, tuned = models.sd3(), fine_tuned(models.sd3)
    before, after = models.weights(base), models.weights(tuned)
    _, report = pack.extract(base, tuned, rank=1000, energy=0.5)
    for name, rank in report.ranks.items():
        squares = np.linalg.svd(difference(before, after, name), compute_uv=False) ** 2
        assert rank == int((squares.cumsum() / squares.sum() < 0.5).sum()) + 1, name
    assert len(set(report.ranks.values())) > 1
    assert report.energy >= 0.5
    _, capped = pack.extract(base, tuned, rank=3, energy=0.5)
    assert all(capped.ranks[name] == min(rank, 3) for name, rank in report.ranks.items())


def test_a_merge_and_adapters_on_top_count(pack: Pack) -> None:
    """ComfyUI's merge node and an adapter of this pack are patches; the extraction sees what they give."""
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    base, other = models.sd3(), fine_tuned(models.sd3, size=0.2)
    merged = ModelMergeSimple().merge(base, other, 0.25)[0]
    adapter = pack.adapter(base, models.every_layer(base)[3:6])
    tuned = pack.apply(adapter, merged)[0]
    expected = models.patched_weights(tuned)
    extracted, report = pack.extract(base, tuned, rank=1000, vectors=True)
    result = models.patched_weights(pack.apply(extracted, base)[0])
    for key, value in expected.items():
        if value.is_floating_point() and key.startswith("diffusion_model."):
            assert models.relative(result[key], value) < 1e-5, key
    assert report.energy > 1 - 1e-9
    # And with patches on the base: they count as base.
    extracted, report = pack.extract(merged, tuned, rank=8)
    assert set(report.kept) == set(models.every_layer(base)[3:6])
    assert "they count as base" in report.text()
    result = models.patched_weights(pack.apply(extracted, merged)[0])
    for name in report.kept:
        assert models.relative(result[f"{name}.weight"], expected[f"{name}.weight"]) < 1e-5


def test_what_is_left_out_is_counted(pack: Pack) -> None:
    base, tuned = models.unet(), fine_tuned(models.unet, keep="middle_block")
    state = base.model.state_dict()
    convolutions = {name for name in models.every_layer(base) if state[f"{name}.weight"].ndim > 2}
    _, everything = pack.extract(base, tuned, rank=2)
    unchanged = {name for name in models.every_layer(base) if ".middle_block." in name}
    assert set(everything.kept) == set(models.every_layer(base)) - unchanged
    assert unchanged
    assert everything.unchanged == sum(".middle_block." in key for key, _ in base.model.named_parameters())
    _, report = pack.extract(base, tuned, rank=2, convolutions=False)
    assert set(report.left_out) == convolutions - unchanged
    assert report.overall < everything.overall
    assert f"{len(report.left_out)} other changed layers" in report.text()
    _, report = pack.extract(base, tuned, rank=2, pattern=r"attn1\.to_q$")
    assert report.kept
    assert all(name.endswith("attn1.to_q") for name in report.kept)
    total = sum(value for _, value in report.kept.values()) + sum(report.left_out.values())
    whole = sum(value for _, value in everything.kept.values()) + sum(everything.vectors.values())
    assert total == pytest.approx(whole, rel=1e-9)
    worst = min(report.kept, key=lambda name: report.kept[name][0] / report.kept[name][1])
    assert f"least retained: {worst} " in report.text()


def test_text_encoders(pack: Pack) -> None:
    model, base = models.sd3(), small_clip("sd15")
    tuned = base.clone()
    tuned.cond_stage_model = copy.deepcopy(base.cond_stage_model)
    tuned.patcher = type(base.patcher)(tuned.cond_stage_model, load_device=models.DEVICE, offload_device=models.CPU)
    linear = [
        name
        for name, module in tuned.cond_stage_model.named_modules()
        if isinstance(module, nn.Linear) and ".layers." in name
    ]
    with torch.inference_mode():
        for index, name in enumerate(linear):
            module = tuned.cond_stage_model.get_submodule(name)
            module.weight += 0.1 * models.random(*module.weight.shape, seed=70 + index)
            module.bias += 0.1
    expected = encode(tuned)
    assert models.relative(encode(base), expected) > 1e-2
    adapter, report = pack.extract(model, model, base, tuned, rank=1000, vectors=True)
    assert set(report.kept) == {f"text_encoders.{name}" for name in linear}
    assert len(report.vectors) == len(linear)
    patched = pack.apply(adapter, model, base)[1]
    assert models.relative(encode(patched), expected) < 1e-4
    with pytest.raises(ValueError, match="both CLIPs or none"):
        pack.extract(model, model, base)


def test_what_cannot_be_extracted_is_said(pack: Pack) -> None:
    base = models.sd3()
    with pytest.raises(ValueError, match=r"SD3 \(base\) and SD 1.5 \(tuned\)"):
        pack.extract(base, models.unet())
    with pytest.raises(ValueError, match="one of them only"):
        pack.extract(base, models.sd3(depth=2))
    with pytest.raises(ValueError, match="same weights"):
        pack.extract(base, models.sd3())
    with pytest.raises(ValueError, match="same weights"):
        pack.extract(base, base.clone())
    tuned = models.sd3()
    norm = dict(tuned.model.named_parameters())[f"{SD3_NORM}.weight"]
    with torch.inference_mode():
        norm += 1
    with pytest.raises(ValueError, match=rf"None of the chosen layers .* 1 others have \({SD3_NORM}\)"):
        pack.extract(base, tuned)
    tuned = fine_tuned(models.sd3)
    for options, sentence in (
        ({"method": "para"}, "Unknown method"),
        ({"rank": 0}, "at least 1"),
        ({"energy": 2.0}, "energy"),
        ({"pattern": "("}, "not a regular expression"),
    ):
        with pytest.raises(ValueError, match=sentence):
            pack.extract(base, tuned, **options)
    with torch.inference_mode():
        tuned.model.diffusion_model.x_embedder.proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"x_embedder\.proj holds a NaN or an infinity in the tuned model"):
        pack.extract(base, tuned)


def test_layers_of_another_size_are_refused_by_name(pack: Pack) -> None:
    """The layer is like an inpainting UNet's first convolution, which has more input channels."""
    base, tuned = models.unet(), fine_tuned(models.unet)
    first = tuned.model.diffusion_model.input_blocks[0][0]
    first.weight = nn.Parameter(models.random(32, 9, 3, 3, seed=1), requires_grad=False)
    with pytest.raises(ValueError, match=r"input_blocks\.0\.0 is of shape \[32, 4, 3, 3\] in the base and \[32, 9"):
        pack.extract(base, tuned)


def test_quantised_weights_are_read(pack: Pack) -> None:
    base, tuned = models.sd3(), fine_tuned(models.sd3)
    layer = tuned.model.diffusion_model.joint_blocks[0].x_block.attn.proj
    values = layer.weight.detach().to(torch.float8_e4m3fn)
    layer.weight = nn.Parameter(values, requires_grad=False)
    adapter, report = pack.extract(base, tuned, rank=1000, pattern=r"x_block\.attn\.proj")
    key = "diffusion_model.joint_blocks.0.x_block.attn.proj.weight"
    assert models.relative(models.patched_weights(pack.apply(adapter, base)[0])[key], values.float()) < 1e-5
    assert "dequantised from float8_e4m3fn (1 weights)" in report.text()


def test_the_node_in_a_graph(comfyui: Any) -> None:
    """The demo model and itself with a LoRA, by ComfyUI's executor: extract, apply, sample."""
    loras = comfyui.base / "models" / "loras"
    name = "diffusion_model.joint_blocks.0.x_block.attn.proj"
    save_file(
        {
            f"{name}.lora_up.weight": 0.1 * models.random(192, 2, seed=1),
            f"{name}.lora_down.weight": models.random(2, 192, seed=2),
        },
        loras / "graph_lora.safetensors",
    )

    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    prompt = {
        "model": node("UNETLoader", unet_name="deft_demo_denoiser.safetensors", weight_dtype="default"),
        "lora": node("LoraLoaderModelOnly", model=["model", 0], lora_name="graph_lora.safetensors", strength_model=1.0),
        "extract": node(
            "DEFTExtractAdapter",
            model_tuned=["lora", 0],
            model_base=["model", 0],
            method="deft",
            rank=2,
            energy=0.0,
            convolutions=True,
            vectors=False,
        ),
        "save": node(
            "DEFTSaveAdapter",
            adapter=["extract", 0],
            filename_prefix="extracted/graph",
            format="native (.safetensors)",
            place="models/loras",
        ),
    }
    run = types.SimpleNamespace()
    try:
        run = comfyui.run(prompt, want=["extract", "save"])
        assert "deft of rank 2 from 1 changed layers" in run.output("extract", 1)
        assert "retained energy: 100.0000% of these layers' change" in run.output("extract", 1)
        assert set(run.output("extract")) == {f"{name}.{part}" for part in ("deft_Q", "deft_R", "alpha")}
        Path(run.output("save")).unlink()
        same = comfyui.fail(
            prompt
            | {"extract": prompt["extract"] | {"inputs": prompt["extract"]["inputs"] | {"model_tuned": ["model", 0]}}}
        )
        assert same.node_id == "extract"
        assert "nothing to extract" in same.message
    finally:
        (loras / "graph_lora.safetensors").unlink()
