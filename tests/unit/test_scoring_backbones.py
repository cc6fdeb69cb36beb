"""Backbones against transformers and DINO's definition, with the same random weights in their true file formats."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from deft_pack.scoring.backbones import KINDS, BackboneSpec, EncoderSettings, WeightFile, dino, load_backbone
from deft_pack.scoring.backbones.dino import resample_positions
from deft_pack.scoring.backbones.unset import Unset, unset
from deft_pack.scoring.pictures import to_pictures
from deft_pack.scoring.preprocessing import IMAGENET, OPENAI_CLIP, Preprocess
from deft_pack.scoring.weights import find_weights, read_weights

from ..clips import clip_sizes

CLIP = (64, 16, 128, 3)  # side, patch, width and layers


def pictures() -> list[Image.Image]:
    """Square, wide, tall and small; one came with alpha, one is grey."""
    rng = np.random.default_rng(0)

    def make(height: int, width: int, channels: int) -> Image.Image:
        coarse = torch.from_numpy(rng.random((1, channels, 9, 7), dtype=np.float32))
        smooth = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1).permute(0, 2, 3, 1)
        return to_pictures(smooth)[0]

    return [make(96, 96, 3), make(50, 130, 3), make(201, 77, 4), make(64, 64, 1), make(40, 33, 3)]


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights that keep activations alive: biases, norms, layer scales and tokens too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name or "ln_" in name or "scale" in name or "lambda" in name:
                parameter.copy_(1 + 0.1 * noise if not name.endswith("bias") else 0.1 * noise)
            else:
                parameter.copy_(0.08 * noise)
    return module.eval()


def spec(kind: str, architecture, preprocess: Preprocess, file: str = "w.safetensors") -> BackboneSpec:
    return BackboneSpec(f"small {kind}", kind, (file,), "1 MB", "nowhere", EncoderSettings(architecture, preprocess))


@pytest.fixture(scope="module")
def clip_pair(tmp_path_factory):
    """transformers' CLIPModel, and ours loaded from the file that it saved."""
    from transformers import CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    config, _ = clip_sizes(*CLIP, "quick_gelu")
    theirs = randomise(CLIPModel(config))
    theirs.save_pretrained(folder)
    return theirs, load_backbone(clip_spec(True), [folder]), folder


def clip_spec(quick_gelu: bool, file: str = "model.safetensors") -> BackboneSpec:
    _, architecture = clip_sizes(*CLIP, "quick_gelu")
    preprocess = Preprocess(64, 64, *OPENAI_CLIP, as_transformers=True)
    return spec("clip", architecture | {"quick_gelu": quick_gelu}, preprocess, file)


def prepared(preprocess: Preprocess, images: list[Image.Image]) -> torch.Tensor:
    return torch.stack([preprocess(image) for image in images])


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def transformers_clip_images(model) -> torch.Tensor:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    pixels = torch.as_tensor(np.stack(processor(pictures())["pixel_values"])).float()
    with torch.no_grad():
        output = model.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(model.visual_projection(output), dim=-1)


def test_clip_images_equal_transformers(clip_pair):
    theirs, ours, _ = clip_pair
    assert difference(ours.encode_images(pictures()), transformers_clip_images(theirs)) <= 1e-5


def test_clip_texts_equal_transformers(clip_pair):
    theirs, ours, _ = clip_pair
    texts = ["a dog", "a teddy bear on a red background, photographed at noon!", "Ünïcode & 'quotes' 42"]
    for text in texts:
        ids = torch.tensor([[49406, *ours.tokenizer.encode(text), 49407]])
        with torch.no_grad():
            output = theirs.text_model(input_ids=ids).pooler_output
            expected = F.normalize(theirs.text_projection(output), dim=-1)
        assert difference(ours.encode_texts([text]), expected) <= 1e-5


def test_plain_gelu_would_be_another_model(clip_pair):
    theirs, _, folder = clip_pair
    plain = load_backbone(clip_spec(False), [folder])
    assert difference(plain.encode_images(pictures()), transformers_clip_images(theirs)) > 1e-4


def test_open_clip_format_gives_the_same_features(clip_pair, tmp_path):
    _, ours, _ = clip_pair
    state = ours.module.state_dict()
    save_file(state, tmp_path / "w.safetensors")
    torch.save({key: value.half() for key, value in state.items()}, tmp_path / "w.pt")
    again = load_backbone(clip_spec(True, "w.safetensors"), [tmp_path])
    half = load_backbone(clip_spec(True, "w.pt"), [tmp_path])
    assert next(half.module.parameters()).dtype == torch.float32
    assert difference(half.encode_images(pictures()), again.encode_images(pictures())) < 5e-3
    assert torch.equal(again.encode_images(pictures()), ours.encode_images(pictures()))


def test_long_texts_are_cut_or_refused(clip_pair):
    _, ours, _ = clip_pair
    long = "dog " * 100
    assert torch.equal(ours.encode_texts([long]), ours.encode_texts(["dog " * 75]))
    with pytest.raises(ValueError, match="reads 77 tokens, this text has 102"):
        ours.encode_texts([long], truncate=False)


def test_batches_and_order_do_not_change_features(clip_pair):
    _, ours, _ = clip_pair
    whole, parts = ours.encode_images(pictures()), ours.encode_images(pictures(), batch=2)
    assert difference(whole, parts) <= 1e-6
    assert difference(ours.encode_images(pictures()[::-1]), whole.flip(0)) <= 1e-6
    torch.testing.assert_close(whole.norm(dim=-1), torch.ones(len(whole)))


def dino_class_token(state: dict[str, torch.Tensor], x: torch.Tensor, depth: int, heads: int) -> torch.Tensor:
    """facebookresearch/dino, vision_transformer.py, VisionTransformer.forward, written out."""

    def norm(name: str, y: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(y, y.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def linear(name: str, y: torch.Tensor) -> torch.Tensor:
        return F.linear(y, state[f"{name}.weight"], state[f"{name}.bias"])

    weight = state["patch_embed.proj.weight"]
    tokens = F.conv2d(x, weight, state["patch_embed.proj.bias"], stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    tokens = torch.cat([state["cls_token"].expand(len(x), -1, -1), tokens], dim=1) + state["pos_embed"]
    for index in range(depth):
        block = f"blocks.{index}"
        batch, count, width = tokens.shape
        qkv = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", tokens))
        q, k, v = qkv.reshape(batch, count, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) * (width // heads) ** -0.5).softmax(dim=-1)
        tokens = tokens + linear(f"{block}.attn.proj", (attention @ v).transpose(1, 2).reshape(batch, count, width))
        hidden = linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", tokens))
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        tokens = tokens + linear(f"{block}.mlp.fc2", hidden)
    return norm("norm", tokens)[:, 0]


def dino_state(width: int, depth: int, patch: int, grid: int) -> dict[str, torch.Tensor]:
    """Random weights under the names of DINO's own files."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int, around: float = 0.0) -> torch.Tensor:
        return around + 0.08 * torch.randn(shape, generator=generator)

    state = {
        "cls_token": noise(1, 1, width),
        "pos_embed": noise(1, grid * grid + 1, width),
        "patch_embed.proj.weight": noise(width, 3, patch, patch),
        "patch_embed.proj.bias": noise(width),
        "norm.weight": noise(width, around=1),
        "norm.bias": noise(width),
    }
    for index in range(depth):
        block = f"blocks.{index}"
        for name, rows, columns in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            state |= {f"{block}.{name}.weight": noise(rows, columns), f"{block}.{name}.bias": noise(rows)}
        for name in ("norm1", "norm2"):
            state |= {f"{block}.{name}.weight": noise(width, around=1), f"{block}.{name}.bias": noise(width)}
    return state


def test_dino_equals_its_definition(tmp_path):
    small = {"img_size": 48, "patch_size": 8, "embed_dim": 96, "depth": 3, "num_heads": 3, "num_classes": 0}
    state = dino_state(96, 3, 8, 6)
    torch.save(state, tmp_path / "w.pth")
    preprocess = Preprocess(56, 48, *IMAGENET)
    ours = load_backbone(spec("dino", small, preprocess, "w.pth"), [tmp_path])
    expected = F.normalize(dino_class_token(state, prepared(preprocess, pictures()), 3, 3), dim=-1)
    assert difference(ours.encode_images(pictures()), expected) <= 1e-5


@pytest.mark.parametrize(("name", "patch"), [("dreambooth", 16), ("dreambench++", 8)])
def test_the_protocols_dino_is_the_vit_small_of_the_definition(name: str, patch: int):
    from deft_pack.scoring.protocols import get_protocol

    own = get_protocol(name).backbones["dino"]
    state = dino_state(384, 12, patch, 224 // patch)
    ours = dino.load(own, own.settings, state, Path("dino.pth"), WeightFile("dino.pth", ""))  # every name and shape
    picture = pictures()[:1] if patch == 16 else []
    if picture:  # once at full size; the other differs in the patch only
        expected = F.normalize(dino_class_token(state, prepared(own.settings.preprocess, picture), 12, 6), dim=-1)
        assert difference(ours.encode_images(picture), expected) <= 1e-5


@pytest.fixture(scope="module")
def dinov2_pair(tmp_path_factory):
    """transformers' Dinov2Model made for 8 x 8 patches, and ours of 5 x 5 patches loaded from its file."""
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dinov2")
    config = Dinov2Config(hidden_size=96, num_hidden_layers=3, num_attention_heads=3, image_size=112, patch_size=14)
    theirs = randomise(Dinov2Model(config))
    theirs.save_pretrained(folder)
    small = {
        "img_size": 70,
        "patch_size": 14,
        "embed_dim": 96,
        "depth": 3,
        "num_heads": 3,
        "num_classes": 0,
        "init_values": 1e-5,
    }
    own = spec("dinov2", small, Preprocess(80, 70, *IMAGENET), "model.safetensors")
    return theirs, own, folder


def test_dinov2_equals_transformers_with_resampled_positions(dinov2_pair):
    theirs, own, folder = dinov2_pair
    ours = load_backbone(own, [folder])
    with torch.no_grad():
        expected = theirs(pixel_values=prepared(own.settings.preprocess, pictures())).last_hidden_state[:, 0]
    assert difference(ours.encode_images(pictures()), F.normalize(expected, dim=-1)) <= 1e-5


def test_dinov2_original_file_has_a_mask_token_and_other_positions(dinov2_pair, tmp_path):
    _, own, folder = dinov2_pair
    ours = load_backbone(own, [folder])
    state = dict(ours.module.state_dict())
    positions = torch.randn(1, 65, 96, generator=torch.Generator().manual_seed(2))
    torch.save(state | {"mask_token": torch.zeros(1, 96), "pos_embed": positions}, tmp_path / "model.safetensors.pth")
    again = load_backbone(own, [], tmp_path / "model.safetensors.pth")
    torch.testing.assert_close(again.module.pos_embed, resample_positions(positions, (5, 5)))


def test_dinov2_of_the_protocols_has_the_small_models_names():
    from deft_pack.scoring.protocols import get_protocol

    own = get_protocol("dreambooth").backbones["dinov2"]
    module = dino.build(own.settings)
    assert module.pos_embed.shape == (1, 257, 384)
    assert len(module.blocks) == 12
    assert "blocks.11.ls2.gamma" in module.state_dict()


def test_a_file_of_another_model_is_named(dinov2_pair, tmp_path):
    _, own, folder = dinov2_pair
    state = dict(load_backbone(own, [folder]).module.state_dict())
    state["norm.weight"] = torch.zeros(7)
    del state["norm.bias"]
    state["head.weight"] = torch.zeros(3)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(
        ValueError,
        match="does not hold small dinov2: 1 tensors missing, such as norm.bias; 1 tensors "
        "unknown, such as head.weight; 1 tensors of another shape",
    ) as caught:
        load_backbone(own, [], tmp_path / "w.safetensors")
    assert "w.safetensors" in str(caught.value)
    del state["head.weight"]
    save_file(state | {"x" * 5000: torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="1 tensors unknown, such as x{100};"):
        load_backbone(own, [], tmp_path / "w.safetensors")


def test_settings_beside_the_weights(tmp_path):
    small = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2, "num_classes": 0}
    state = dino_state(24, 1, 8, 2)
    save_file({key: value.half() for key, value in state.items()}, tmp_path / "own.safetensors")
    own = BackboneSpec("own", "dino", ("own.safetensors",), "1 MB", "nowhere")
    with pytest.raises(FileNotFoundError, match="own.json is missing"):
        load_backbone(own, [tmp_path])
    settings = {"timm": small, "preprocess": {"resize": 16, "crop": 16, "mean": [0.5] * 3, "std": [0.5] * 3}}
    (tmp_path / "own.json").write_text(json.dumps(settings))
    ours = load_backbone(own, [tmp_path])
    assert ours.encode_images(pictures()).shape == (5, 24)
    assert str(ours.preprocess) == "resize 16 bicubic, centre crop 16, own mean and std"


def same_without_initial_values(spec: BackboneSpec, folder: Path) -> None:
    """An encoder as it is loaded has the bits of one whose random initial values were drawn before its weights came."""
    path = find_weights(spec, [folder])
    before = torch.get_rng_state()
    ours = load_backbone(spec, [folder])
    assert torch.equal(torch.get_rng_state(), before)
    drawn = KINDS[spec.kind](spec, spec.settings, read_weights(path), path, WeightFile(path.name, ""))
    assert not torch.equal(torch.get_rng_state(), before)
    assert not unset(ours.module)
    for tensors in ("named_parameters", "named_buffers"):
        values, expected = (dict(getattr(each.module, tensors)()) for each in (ours, drawn))
        assert values.keys() == expected.keys()
        assert all(torch.equal(values[name], expected[name]) for name in values)
    assert torch.equal(ours.encode_images(pictures()), drawn.encode_images(pictures()))
    if ours.reads_text:
        assert torch.equal(ours.encode_texts(["a dog"]), drawn.encode_texts(["a dog"]))


def test_random_initial_values_are_not_drawn(clip_pair, dinov2_pair):
    for own, folder in ((clip_spec(True), clip_pair[2]), dinov2_pair[1:]):
        same_without_initial_values(own, folder)
    with Unset():
        module = dino.build(dinov2_pair[1].settings)
    assert {"cls_token", "pos_embed", "blocks.2.mlp.fc2.weight"} <= set(unset(module))
    assert "norm.bias" not in unset(module)
