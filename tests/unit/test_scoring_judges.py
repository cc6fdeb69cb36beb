"""DINOv3, SigLIP2, DreamSim, PickScore and SSCD beside their published code, with the same random weights, small.

References: transformers' DINOv3ViTModel, SiglipModel and CLIPModel with their processors, torchvision's ResNet with
PyTorch's power pooling, and numbers by DreamSim's own package (tests/dreamsim_reference.py).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from deft_pack.scoring.backbones import BackboneSpec, load_backbone
from deft_pack.scoring.backbones.dinov3 import dinov3_state
from deft_pack.scoring.backbones.identify import identify
from deft_pack.scoring.backbones.siglip2 import siglip_state
from deft_pack.scoring.embeddings import FeatureStore
from deft_pack.scoring.pictures import CutOut
from deft_pack.scoring.protocols import Measure, Protocol, get_protocol, specs
from deft_pack.scoring.scorer import DRIFT, Scorer, load_scorer, score
from deft_pack.tests import dreamsim_reference as published
from deft_pack.tests.clips import clip_sizes
from deft_pack.tests.unit.test_scoring_backbones import randomise, same_without_initial_values

LIMIT = 1e-5
TEXTS = ["a dog in the Jungle", "A red bear, at noon!"]


def picture(seed: int, width: int = 90, height: int = 70) -> Image.Image:
    """Smooth noise, wider than high, so that cutting and squeezing differ."""
    coarse = torch.from_numpy(np.random.default_rng(seed).random((1, 3, 9, 9), dtype=np.float32))
    smooth = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)
    return Image.fromarray((smooth * 255).byte().numpy())


PICTURES = [picture(seed) for seed in (1, 2)]
PHOTOS = [picture(seed, 60, 80) for seed in (3, 4, 5)]
Pair = tuple[BackboneSpec, Callable[[list[Image.Image]], torch.Tensor]]


def small(spec: BackboneSpec, architecture: Any, side: int) -> BackboneSpec:
    """The protocol's own spec with a small architecture and small pictures."""
    assert spec.settings is not None
    preprocess = replace(spec.settings.preprocess, resize=side, crop=side)
    return replace(spec, settings=replace(spec.settings, architecture=architecture, preprocess=preprocess))


def furthest(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - F.normalize(theirs, dim=-1)).abs().max())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("judges")


@pytest.fixture(scope="module")
def dinov3(folder: Path) -> Pair:
    from transformers import DINOv3ViTConfig, DINOv3ViTImageProcessor, DINOv3ViTModel

    config = DINOv3ViTConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_register_tokens=4,
        image_size=64,
    )
    theirs = randomise(DINOv3ViTModel(config))
    theirs.save_pretrained(folder / "dinov3-vitb16-pretrain-lvd1689m")
    processor = DINOv3ViTImageProcessor(size={"height": 64, "width": 64})

    def feature(images: list[Image.Image]) -> torch.Tensor:
        with torch.no_grad():
            return theirs(processor(images, return_tensors="pt").pixel_values).last_hidden_state[:, 0]

    changes = {"embed_dim": 128, "depth": 3, "num_heads": 2}
    assert specs.DINOV3_B16.settings is not None
    model = specs.DINOV3_B16.settings.architecture
    return small(specs.DINOV3_B16, {"model": model, "arguments": changes}, 64), feature


def test_dinov3_equals_transformers(dinov3: Pair, folder: Path):
    spec, theirs = dinov3
    ours = load_backbone(spec, [folder])
    assert furthest(ours.encode_images(PICTURES), theirs(PICTURES)) <= LIMIT
    assert ours.identity.startswith("DINOv3 ViT of width 128 and 3 layers/16")


def test_dinov3_from_timms_own_file_without_biases(dinov3: Pair, folder: Path, tmp_path: Path):
    """timm's model that DINOv3's small, base and large files are made for, and what its forward gives."""
    from timm import create_model

    spec, _ = dinov3
    changes = {"embed_dim": 128, "depth": 3, "num_heads": 2, "img_size": 64}
    module = randomise(create_model("vit_base_patch16_dinov3", num_classes=0, global_pool="token", **changes))
    save_file(module.state_dict(), tmp_path / "vit_base_patch16_dinov3.lvd1689m.safetensors")
    ours = load_backbone(spec, [tmp_path])
    pixels = torch.stack([ours.preprocess(image) for image in PICTURES])
    with torch.no_grad():
        assert furthest(ours.encode_images(PICTURES), module(pixels)) <= LIMIT


def shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def test_the_protocols_dinov3_is_the_base_model_of_transformers():
    from timm import create_model
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    assert specs.DINOV3_B16.settings is not None
    base = DINOv3ViTConfig(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12, num_register_tokens=4
    )
    with torch.device("meta"):
        theirs = DINOv3ViTModel(base).state_dict()
        ours = create_model(specs.DINOV3_B16.settings.architecture, num_classes=0, global_pool="token").state_dict()
        assert shapes(dinov3_state(theirs)) == shapes(ours)
    assert identify(theirs) == "DINOv3 ViT-B/16 (transformers names)"
    assert identify(ours) == "DINOv3 ViT-B/16 (timm or original names)"


def tokenizer_file(path: Path) -> int:
    """A tokenizer of Gemma's form: spaces as a letter, an end mark; the number of its tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + ["▁", "!", ","]
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *letters, "do", "dog", "re", "red", "▁i", "▁in"]
    merges = [("d", "o"), ("do", "g"), ("r", "e"), ("re", "d"), ("▁", "i"), ("▁i", "n")]
    model = models.BPE({word: place for place, word in enumerate(words)}, merges, unk_token="<unk>", fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing("$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.save(str(path))
    return len(words)


@pytest.fixture(scope="module")
def siglip(folder: Path) -> tuple[BackboneSpec, Callable[..., torch.Tensor], Callable[..., torch.Tensor]]:
    import timm
    from timm.models.vision_transformer import _create_vision_transformer
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel
    from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

    place = folder / "siglip2-base-patch16-224"
    place.mkdir()
    vocabulary = tokenizer_file(place / "tokenizer.json")
    size = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}
    marks = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    config = SiglipConfig(
        text_config=size | marks | {"vocab_size": vocabulary, "max_position_embeddings": 64, "projection_size": 128},
        vision_config=size | {"image_size": 64, "patch_size": 16},
    )
    theirs = randomise(SiglipModel(config))
    theirs.save_pretrained(place)
    # As google/siglip2-base-patch16-224 has it in its preprocessor_config.json: bilinear.
    processor = SiglipImageProcessorPil(size={"height": 64, "width": 64}, resample=Image.Resampling.BILINEAR)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(place / "tokenizer.json"), pad_token="<pad>")

    def images(pictures: list[Image.Image]) -> torch.Tensor:
        with torch.no_grad():
            return theirs.get_image_features(**processor(pictures, return_tensors="pt")).pooler_output

    def texts(lines: list[str]) -> torch.Tensor:
        lines = [line.lower() for line in lines]
        ids = tokenizer(lines, padding="max_length", truncation=True, max_length=64, return_tensors="pt").input_ids
        with torch.no_grad():
            return theirs.get_text_features(input_ids=ids).pooler_output

    def vit_small_test_siglip(pretrained: bool = False, **given: Any) -> torch.nn.Module:
        small_one = {"img_size": 64, "embed_dim": 128, "depth": 2, "num_heads": 2, "class_token": False}
        return _create_vision_transformer(
            "vit_base_patch16_siglip_224", pretrained=False, **small_one | {"global_pool": "map"} | given
        )

    timm.models.register_model(vit_small_test_siglip)
    from open_clip import get_model_config

    assert specs.SIGLIP2_B16.settings is not None
    architecture = get_model_config(specs.SIGLIP2_B16.settings.architecture)
    architecture["embed_dim"] = 128
    architecture["vision_cfg"] |= {"image_size": 64, "timm_model_name": "vit_small_test_siglip"}
    architecture["text_cfg"] |= {"vocab_size": vocabulary, "width": 128, "heads": 2, "layers": 2}
    return small(specs.SIGLIP2_B16, architecture, 64), images, texts


def test_siglip2_equals_transformers(siglip, folder: Path):
    spec, images, texts = siglip
    ours = load_backbone(spec, [folder])
    long = "dog in red, " * 20  # cut, with its end mark
    assert furthest(ours.encode_images(PICTURES), images(PICTURES)) <= LIMIT
    assert furthest(ours.encode_texts([*TEXTS, long]), texts([*TEXTS, long])) <= LIMIT
    assert ours.tokens("dog") == 2
    assert ours.tokens(long) > ours.context == 64
    with pytest.raises(ValueError, match="reads 64 tokens"):
        ours.encode_texts([long], truncate=False)


def test_siglip2_in_open_clips_form_gives_the_same(siglip, folder: Path, tmp_path: Path):
    spec, images, texts = siglip
    state = siglip_state(load_file(folder / "siglip2-base-patch16-224" / "model.safetensors"))
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "ViT-B-16-SigLIP2.safetensors")
    tokenizer_file(tmp_path / "ViT-B-16-SigLIP2.tokenizer.json")
    ours = load_backbone(spec, [tmp_path])
    assert furthest(ours.encode_images(PICTURES), images(PICTURES)) <= LIMIT
    assert furthest(ours.encode_texts(TEXTS), texts(TEXTS)) <= LIMIT


def test_the_protocols_siglip2_is_the_base_model_of_transformers():
    from transformers import SiglipConfig, SiglipModel

    from deft_pack.scoring.backbones.siglip2 import build

    # As google/siglip2-base-patch16-224 has it in its config.json: the defaults, and Gemma's vocabulary.
    text = {"vocab_size": 256000, "projection_size": 768, "bos_token_id": None, "eos_token_id": 1}
    assert specs.SIGLIP2_B16.settings is not None
    with torch.device("meta"):
        theirs = SiglipModel(SiglipConfig(text_config=text)).state_dict()
        ours = build(specs.SIGLIP2_B16.settings).state_dict()
        assert shapes(siglip_state(theirs)) == shapes(ours)
    assert identify(theirs) == "SigLIP2 ViT-B/16 (transformers names)"
    assert identify(ours) == "SigLIP2 ViT-B/16 (open_clip names)"


def test_a_tokenizer_that_is_missing_damaged_or_another_ones(siglip, folder: Path, tmp_path: Path):
    spec, *_ = siglip
    path = tmp_path / "siglip2-base-patch16-224.safetensors"
    shutil.copy(folder / "siglip2-base-patch16-224" / "model.safetensors", path)
    with pytest.raises(FileNotFoundError, match=r"SigLIP2 ViT-B/16 also needs tokenizer.json: get it from google/"):
        load_backbone(spec, [tmp_path])
    beside = tmp_path / "siglip2-base-patch16-224.tokenizer.json"
    beside.write_text("<!doctype html>")
    with pytest.raises(ValueError, match=r"cannot be read as the tokenizer's file"):
        load_backbone(spec, [tmp_path])
    tokenizer_file(beside)
    content = json.loads(beside.read_text())
    content["model"]["vocab"]["ß"] = len(content["model"]["vocab"])
    beside.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="do not belong together; get tokenizer.json of the same model"):
        load_backbone(spec, [tmp_path])


@pytest.fixture(scope="module")
def pickscore(folder: Path) -> tuple[BackboneSpec, Callable[[list[Image.Image], list[str]], torch.Tensor]]:
    from transformers import CLIPImageProcessorPil, CLIPModel

    config, architecture = clip_sizes(56, 14, 160, 2, "gelu")
    theirs = randomise(CLIPModel(config))
    theirs.logit_scale.data.fill_(4.57)
    theirs.save_pretrained(folder / "PickScore_v1")
    processor = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    tokens = load_backbone(small(specs.PICKSCORE, architecture, 56), [folder]).tokenizer

    @torch.no_grad()
    def published_score(images: list[Image.Image], texts: list[str]) -> torch.Tensor:
        """The example of PickScore's model card: the learnt factor times the cosine."""
        seen = theirs.get_image_features(torch.as_tensor(np.stack(processor(images).pixel_values))).pooler_output
        read = theirs.get_text_features(input_ids=tokens(texts)).pooler_output
        cosines = F.normalize(seen, dim=-1) @ F.normalize(read, dim=-1).T
        return (theirs.logit_scale.exp() * cosines).diagonal()

    return small(specs.PICKSCORE, architecture, 56), published_score


def test_pickscore_is_the_published_formula(pickscore, folder: Path):
    spec, theirs = pickscore
    protocol = Protocol("own", "PickScore", (Measure("PickScore", spec, "text", own_factor=True),))
    result = score(load_scorer(protocol, [folder]), PICTURES, texts=TEXTS).rows[0]
    factor = float(torch.tensor(4.57).exp())
    assert result.values == pytest.approx(theirs(PICTURES, TEXTS).tolist(), abs=factor * LIMIT)
    assert result.scale == pytest.approx(factor, rel=1e-6)


def test_the_protocols_pickscore_is_transformers_huge_clip():
    from transformers import CLIPConfig, CLIPModel

    from deft_pack.scoring.backbones.clip import build, clip_state

    # As yuvalkirstain/PickScore_v1 has it in its config.json.
    text = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
    vision = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16, "num_hidden_layers": 32}
    assert specs.PICKSCORE.settings is not None
    with torch.device("meta"):
        config = CLIPConfig(text_config=text, vision_config=vision | {"patch_size": 14}, projection_dim=1024)
        assert shapes(clip_state(CLIPModel(config).state_dict())) == shapes(
            build(specs.PICKSCORE.settings).state_dict()
        )


@pytest.fixture(scope="module")
def sscd(folder: Path) -> Pair:
    """SSCD over ResNet-18, as the authors' model.py builds it: GeM pooling in place of the mean, then fc and L2."""
    from torchvision.models import resnet18

    with torch.random.fork_rng():
        torch.manual_seed(5)
        theirs = resnet18(num_classes=512)
    spec = small(specs.SSCD, "resnet18", 96)
    assert spec.settings is not None
    prepare = spec.settings.preprocess
    with torch.no_grad():  # to a network that has never seen a picture all of them look alike
        theirs(torch.stack([prepare(picture(seed)) for seed in range(8)]))
    theirs.eval()
    torch.save({f"backbone.{key}": value for key, value in theirs.state_dict().items()}, folder / specs.SSCD.files[0])

    @torch.no_grad()
    def feature(images: list[Image.Image]) -> torch.Tensor:
        maps: list[torch.Tensor] = []
        hook = theirs.layer4.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
        theirs(torch.stack([prepare(image) for image in images]))
        hook.remove()
        side = maps[0].shape[-1]
        pooled = F.lp_pool2d(maps[0].clamp(min=1e-6), 3.0, side) / (side * side) ** (1 / 3)
        return theirs.fc(pooled.flatten(1))

    return spec, feature


def test_sscd_equals_its_definition(sscd: Pair, folder: Path):
    spec, theirs = sscd
    ours = load_backbone(spec, [folder]).encode_images(PICTURES)
    assert furthest(ours, theirs(PICTURES)) <= LIMIT
    assert float(ours[0] @ ours[1]) < 0.99


def test_sscd_prepares_pictures_as_its_authors_advise():
    """`skew_320` of their README."""
    from torchvision import transforms

    normalize = transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    skew = transforms.Compose([transforms.Resize([320, 320]), transforms.ToTensor(), normalize])
    assert specs.SSCD.settings is not None
    assert torch.equal(specs.SSCD.settings.preprocess(PICTURES[0]), skew(PICTURES[0]))


@pytest.fixture(scope="module")
def authors(tmp_path_factory) -> Path:
    """What DreamSim's authors publish, small."""
    made = tmp_path_factory.mktemp("dreamsim")
    published.make_folder(made)
    return made


@pytest.fixture(scope="module")
def dreamsim(authors: Path, folder: Path, root: Path) -> BackboneSpec:
    """Merged by the command."""
    out = folder / specs.DREAMSIM.files[0]
    command = [sys.executable, "-m", "scoring", "merge", str(authors), str(authors / published.DINO), str(out)]
    subprocess.run(command, check=True, cwd=root)
    return small(specs.DREAMSIM, published.SIZE, 224)


def test_dreamsim_is_that_of_its_package(dreamsim: BackboneSpec, folder: Path):
    ours = load_backbone(dreamsim, [folder])
    features = ours.encode_images(published.pictures())
    parts = [float(row[place]) for row in features for place in (0, 1, 2, 3, -1)]
    assert parts == pytest.approx(published.VALUES[:-1], abs=LIMIT)
    protocol = Protocol("own", "DreamSim", (Measure("DreamSim", dreamsim, "matched"),))
    one, other = published.pictures()
    assert score(load_scorer(protocol, [folder]), [one], [other]).value("DreamSim") == pytest.approx(
        published.VALUES[-1], abs=LIMIT
    )


def test_the_protocols_dreamsim_is_the_base_size():
    from deft_pack.scoring.backbones.dreamsim import VIT_B, Ensemble

    with torch.device("meta"):
        count = sum(value.numel() for value in Ensemble(VIT_B, {"clip": 512, "open_clip": 512}, 224).parameters())
    # DINO's ViT-B/16 without its norm, 85,798,656 values with it; CLIP's two have another norm and a projection.
    assert count == 3 * 85_798_656 - 2 * 768 + 2 * (2 * 768 + 768 * 512)


def test_what_cannot_be_merged(authors: Path, tmp_path: Path):
    from deft_pack.scoring.backbones.dreamsim import merge

    with pytest.raises(FileNotFoundError, match=r"DINO ViT-B/16 is missing: there is no file .*nothing.pth"):
        merge(authors, authors / "nothing.pth")
    copy = tmp_path / "copy"
    shutil.copytree(authors, copy)
    settings = copy / "ensemble_lora" / "adapter_config.json"
    settings.write_bytes(b"\xef\xbb\xbf" + settings.read_bytes())  # what Windows' editors write first is no damage
    merge(copy, authors / published.DINO)
    lora = copy / "ensemble_lora" / "adapter_model.safetensors"
    state = load_file(lora)
    key = next(key for key in state if key.endswith("lora_B.weight"))
    save_file(state | {key: state[key][:-1].contiguous()}, lora)
    with pytest.raises(ValueError, match="does not belong to these base models: extractor_list.0.model.blocks.0"):
        merge(copy, authors / published.DINO)
    save_file(state | {"classifier.weight": torch.zeros(1)}, lora)
    with pytest.raises(ValueError, match=r"holds more than a LoRA of DreamSim: classifier.weight"):
        merge(copy, authors / published.DINO)
    for text in ("{}", '{"lora_alpha": 1, "r": 0}', '{"lora_alpha": 1, "r": 1e999}', "[" * 200_000):
        settings.write_text(text)
        with pytest.raises(ValueError, match="is no LoRA's settings"):
            merge(copy, authors / published.DINO)
    lora.unlink()
    with pytest.raises(FileNotFoundError, match="the LoRA is missing"):
        merge(copy, authors / published.DINO)


def small_2026(dinov3: Pair, siglip, dreamsim: BackboneSpec, pickscore, sscd: Pair) -> Protocol:
    """The protocol with small models."""
    by_kind = {spec.kind: spec for spec in (dinov3[0], siglip[0], dreamsim, pickscore[0], sscd[0])}
    protocol = get_protocol("2026")
    return replace(
        protocol,
        measures=tuple(
            replace(
                measure,
                backbone=by_kind[measure.backbone.kind],
                otherwise=measure.otherwise and by_kind[measure.otherwise.kind],
            )
            for measure in protocol.measures
        ),
    )


@pytest.fixture(scope="module")
def protocol(dinov3, siglip, dreamsim, pickscore, sscd) -> Protocol:
    return small_2026(dinov3, siglip, dreamsim, pickscore, sscd)


def scorer_of(protocol: Protocol, folder: Path) -> Scorer:
    return replace(load_scorer(protocol, [folder]), store=FeatureStore())


def test_the_protocol_measures_all_of_it(protocol: Protocol, folder: Path, dinov3, siglip, pickscore, sscd):
    scorer = scorer_of(protocol, folder)
    result = score(scorer, PICTURES, PHOTOS, TEXTS)
    assert not result.remarks

    def cosines(feature: Callable[[list[Image.Image]], torch.Tensor], others: list[Image.Image]) -> torch.Tensor:
        return F.normalize(feature(PICTURES), dim=-1) @ F.normalize(feature(others), dim=-1).T

    rows = {row.metric: list(row.values) for row in result.rows}
    assert list(rows) == ["DINOv3", "SigLIP2-I", "SigLIP2-T", "DreamSim", "PickScore", "copy"]
    _, seen, read = siglip
    expected = {
        "DINOv3": cosines(dinov3[1], PHOTOS).mean(dim=1),
        "SigLIP2-I": cosines(seen, PHOTOS).mean(dim=1),
        "SigLIP2-T": (F.normalize(seen(PICTURES), dim=-1) * F.normalize(read(TEXTS), dim=-1)).sum(dim=1),
        "copy": cosines(sscd[1], PHOTOS).amax(dim=1),
        "PickScore": pickscore[1](PICTURES, TEXTS),
    }
    for metric, values in expected.items():
        assert rows[metric] == pytest.approx(values.tolist(), abs=LIMIT * (100 if metric == "PickScore" else 1))
    drift = score(scorer, PICTURES, base=PHOTOS[:2], task=DRIFT).value("drift")
    assert drift == pytest.approx(float((1 - cosines(dinov3[1], PHOTOS[:2]).diagonal()).mean() / 2), abs=LIMIT)


def test_a_copy_of_a_photo_is_one(protocol: Protocol, folder: Path):
    result = score(scorer_of(protocol, folder), [PHOTOS[1]], PHOTOS)
    assert result.value("copy") == pytest.approx(1.0, abs=1e-6)
    assert result.value("DINOv3") < 1 - 1e-4


def test_without_sscd_the_nearest_photo_is_dinov3s(protocol: Protocol, folder: Path, dinov3, tmp_path: Path):
    """DreamSim and PickScore are skipped without their weights. Nothing else is read from their folders."""
    for name in ("dinov3-vitb16-pretrain-lvd1689m", "siglip2-base-patch16-224"):
        shutil.copytree(folder / name, tmp_path / name)
    scorer = scorer_of(protocol, tmp_path)
    result = score(scorer, PICTURES, PHOTOS, TEXTS)
    theirs = F.normalize(dinov3[1](PICTURES), dim=-1) @ F.normalize(dinov3[1](PHOTOS), dim=-1).T
    row = next(row for row in result.rows if row.metric == "copy")
    assert list(row.values) == pytest.approx(theirs.amax(dim=1).tolist(), abs=LIMIT)
    assert row.backbone == "DINOv3 ViT-B/16"
    assert [remark[:60] for remark in result.remarks] == [
        "DreamSim skipped: The weights of DreamSim (ensemble) are mis",
        "PickScore skipped: The weights of PickScore v1 (CLIP ViT-H/1",
        "copy is measured by DINOv3 ViT-B/16: The weights of SSCD Res",
    ]


def test_what_is_missing_is_named_with_size_licence_and_source(tmp_path: Path):
    for spec in (specs.DINOV3_B16, specs.SIGLIP2_B16, specs.DREAMSIM, specs.PICKSCORE, specs.SSCD):
        assert spec.size
        assert spec.licence
        with pytest.raises(FileNotFoundError) as caught:
            load_backbone(spec, [tmp_path])
        start = f"The weights of {spec.name} are missing ({spec.size}, {spec.licence}): get {spec.source}, and put"
        assert str(caught.value).startswith(start)
    with pytest.raises(FileNotFoundError, match="The weights of DINOv3"):
        load_scorer("2026", [tmp_path])


@pytest.mark.parametrize("kind", ["dinov3", "siglip2", "dreamsim", "pickscore", "sscd"])
def test_a_file_of_another_model_is_refused(kind: str, protocol: Protocol, folder: Path, tmp_path: Path):
    spec = protocol.backbones[kind]
    other = "PickScore_v1" if kind == "dinov3" else "dinov3-vitb16-pretrain-lvd1689m"
    path = tmp_path / f"{kind}.safetensors"
    shutil.copy(folder / other / "model.safetensors", path)
    if kind == "siglip2":
        tokenizer_file(tmp_path / f"{kind}.tokenizer.json")
    looks = "CLIP ViT of width 160" if kind == "dinov3" else "DINOv3 ViT of width 128"
    with pytest.raises(ValueError, match=rf"does not hold {spec.name.split(' ')[0]}.*It looks like {looks}"):
        load_backbone(spec, [], path)


@pytest.mark.parametrize("kind", ["dinov3", "siglip2", "dreamsim", "pickscore", "sscd"])
def test_random_initial_values_are_not_drawn(kind: str, protocol: Protocol, folder: Path):
    same_without_initial_values(protocol.backbones[kind], folder)


def test_dreamsims_lora_by_itself_is_refused(dreamsim: BackboneSpec, authors: Path):
    with pytest.raises(ValueError, match="merge them by `python -m scoring merge`"):
        load_backbone(dreamsim, [], authors / "ensemble_lora" / "adapter_model.safetensors")


def transparent(image: Image.Image, mask: torch.Tensor) -> Image.Image:
    """The picture as it would be read with the mask as its transparency: on white (DreamBench++)."""
    layer = image.convert("RGBA")
    layer.putalpha(Image.fromarray((mask.numpy() * 255).round().astype(np.uint8)))
    return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), layer).convert("RGB")


def oval(width: int, height: int, rise: float) -> torch.Tensor:
    """A mask with a soft edge."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return (1.5 - rise * (rows**2 + columns**2)).clamp(0, 1)


def test_with_masks_the_background_is_out_of_the_likeness(protocol: Protocol, folder: Path):
    """Pictures are scored with the mask as their transparency; text, preference and copies see the whole picture."""
    scorer = scorer_of(protocol, folder)
    masks = [oval(*image.size, rise) for image, rise in zip(PICTURES, (1.5, 2.5), strict=True)]
    of_photos = oval(*PHOTOS[0].size, 2.0)
    ours = CutOut(PICTURES, [torch.stack(masks)])
    theirs = CutOut(PHOTOS, [of_photos], "reference_masks")
    cut, photos_cut = list(map(transparent, PICTURES, masks)), [transparent(photo, of_photos) for photo in PHOTOS]
    whole = {row.metric: row for row in score(scorer, PICTURES, PHOTOS, TEXTS).rows}
    alone = {row.metric: row for row in score(scorer, cut, photos_cut, TEXTS).rows}
    result = {
        row.metric: row for row in score(scorer, PICTURES, PHOTOS, TEXTS, cut_out=ours, references_cut_out=theirs).rows
    }
    for metric, row in result.items():
        without = metric in ("DINOv3", "SigLIP2-I", "DreamSim")
        assert row.values == pytest.approx((alone if without else whole)[metric].values, abs=2e-4 if without else 1e-6)
        assert row.values != pytest.approx((whole if without else alone)[metric].values, abs=2e-3)
        assert ("images and references without background" in row.measurement) == without
        assert row.pictures == whole[metric].pictures
    one_sided = {row.metric: row for row in score(scorer, PICTURES, photos_cut, TEXTS, cut_out=ours).rows}
    assert one_sided["DINOv3"].values == pytest.approx(result["DINOv3"].values, abs=2e-4)
    assert one_sided["DINOv3"].measurement.endswith(", images without background")


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([torch.ones(2, 70, 90, 1)], "expected masks"),
        ([torch.ones(3, 70, 90)], "there are 3 masks for 2 pictures; connect one for each picture, or one for all"),
        ([torch.ones(1, 70, 90), torch.zeros(70, 90)], "mask 1 is empty, there is no subject in it"),
        ([torch.ones(2, 0, 0)], "mask 0 is empty"),
        ([torch.full((70, 90), torch.nan)], "mask 0 has values beyond 0 to 1; connect a MASK"),
        ([torch.full((70, 90), 3.0)], "mask 0 has values beyond 0 to 1"),
        ([torch.ones(90, 70)], "mask 0 is 70 x 90, picture 0 is 90 x 70; make the mask of the picture's size"),
    ],
)
def test_masks_that_do_not_fit(masks: list[torch.Tensor], message: str):
    with pytest.raises(ValueError, match=message):
        CutOut(PICTURES, masks)[:]


def test_a_masked_picture_is_exactly_a_transparent_one():
    mask = (oval(*PICTURES[0].size, 2.0) > 0.5).float()
    assert np.array_equal(np.asarray(CutOut(PICTURES[:1], [mask])[0]), np.asarray(transparent(PICTURES[0], mask)))
