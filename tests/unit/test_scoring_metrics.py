"""Metrics, preprocessing, protocols and weight lookup."""

from __future__ import annotations

import importlib
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from deft_pack.scoring import metrics, weights
from deft_pack.scoring.metrics import METRICS, clip_t, diversity, drift, get_metric, likeness, role_of
from deft_pack.scoring.pictures import FilePictures, digest, is_flat, picture_files, to_pictures
from deft_pack.scoring.preprocessing import IMAGENET, OPENAI_CLIP, Preprocess
from deft_pack.scoring.protocols import PROTOCOLS, Measure, custom, get_protocol
from deft_pack.scoring.texts import split_texts

from ..fuzz.mutation import chunk


def features(count: int, seed: int, width: int = 32) -> torch.Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def as_tensor(row: np.ndarray) -> torch.Tensor:
    """What ComfyUI's Load Image makes of 8-bit values."""
    return torch.from_numpy(row).float().div(255)[None]


def test_all_pairs_is_the_dot_of_the_mean_features():
    images, references = features(7, 1).double(), features(5, 2).double()
    assert likeness.all_pairs(images, references).mean().item() == pytest.approx(
        (images.mean(0) @ references.mean(0)).item(), abs=1e-12
    )
    expected = torch.tensor([[F.cosine_similarity(a, b, dim=0) for b in references] for a in images]).mean(1)
    torch.testing.assert_close(likeness.all_pairs(images, references), expected.double(), atol=1e-6, rtol=0)


def test_cosine_with_itself_is_one_and_order_does_not_matter():
    images, references = features(6, 3), features(6, 4)
    torch.testing.assert_close(likeness.matched_pairs(images, images), torch.ones(6))
    assert torch.equal(likeness.matched_pairs(images, references), likeness.matched_pairs(references, images))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(likeness.all_pairs(images, references[order]), likeness.all_pairs(images, references))
    torch.testing.assert_close(
        likeness.all_pairs(images[order], references), likeness.all_pairs(images, references)[order]
    )


def test_pairings_agree_with_one_reference_and_differ_otherwise():
    images, one, many = features(4, 5), features(1, 6), features(4, 7)
    torch.testing.assert_close(likeness.matched_pairs(images, one), likeness.all_pairs(images, one))
    assert not torch.allclose(likeness.matched_pairs(images, many), likeness.all_pairs(images, many))


def test_wrong_counts_name_both():
    with pytest.raises(ValueError, match="4 images and 3 references"):
        likeness.check_matched(4, 3)
    with pytest.raises(ValueError, match="2 texts for 4 images"):
        clip_t.check_texts(4, 2)
    with pytest.raises(ValueError, match="there are 5 and 4; sample both"):
        drift.check_drift(5, 4)
    with pytest.raises(ValueError, match="no prompt has two"):
        diversity.check_several(3, 0)
    for fits in (likeness.check_matched, clip_t.check_texts):
        fits(4, 1)
        fits(4, 4)


def test_a_metric_is_one_file_and_one_line():
    files = {file.stem for file in Path(metrics.__file__).parent.glob("*.py")} - {"__init__", "base", "likeness"}
    imported = [importlib.import_module(f"deft_pack.scoring.metrics.{name}").METRIC for name in files]
    assert sorted(metric.name for metric in imported) == sorted(METRICS)
    assert all(METRICS[metric.name] is metric and metric.about and metric.comparisons for metric in imported)


def test_the_metrics_keep_their_order_and_direction():
    directions = {
        "CLIP-I": "higher",
        "CLIP-T": "higher",
        "DINO": "higher",
        "DINOv2": "higher",
        "DINOv3": "higher",
        "SigLIP2-I": "higher",
        "SigLIP2-T": "higher",
        "DreamSim": "lower",
        "PickScore": "higher",
        "copy": "lower",
        "drift": "lower",
        "PRES": "lower",
        "DIV": "higher",
        "diversity": "higher",
    }
    assert [name for name in METRICS if name in directions] == list(directions)
    assert {name: metrics.better(name) for name in directions} == directions
    assert sorted([*directions, "of one's own"], key=metrics.order) == [*directions, "of one's own"]


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("CLIP-I", "DINOv2", "DINO"), "DINO"),
        (("SigLIP2-I", "CLIP-I", "DINOv2", "DINOv3"), "DINOv3"),
        (("SigLIP2-I", "CLIP-I", "DINOv2"), "DINOv2"),
        (("SigLIP2-I", "CLIP-I"), "CLIP-I"),
        (("likeness (resnet50)", "SigLIP2-I"), "SigLIP2-I"),
        (("copy", "DreamSim", "likeness (resnet50)", "likeness (vgg)"), "likeness (resnet50)"),
        (("SigLIP2-T", "CLIP-T"), "CLIP-T"),
        (("PickScore", "SigLIP2-T"), "SigLIP2-T"),
        (("PickScore",), ""),
        (("DreamSim", "copy"), ""),
        ((), ""),
    ],
)
def test_which_metric_decides_between_checkpoints(names: tuple[str, ...], chosen: str):
    """The metric's record decides; of those without a number the first of which more is better."""
    assert metrics.decisive(names) == chosen


def test_a_new_metric_of_prompt_following_decides_where_there_is_no_other(monkeypatch):
    for name, better in (("ours-T", "higher"), ("far-T", "lower")):
        monkeypatch.setitem(METRICS, name, replace(METRICS["CLIP-T"], name=name, better=better, decides=0))
    assert metrics.decisive(["far-T", "PickScore", "ours-T"]) == "ours-T"
    assert metrics.decisive(["ours-T", "SigLIP2-T"]) == "SigLIP2-T"
    assert metrics.decisive(["far-T"]) == ""


def test_a_pairing_says_what_is_compared_and_belongs_to_the_metric():
    roles = {(comparison.pairing, comparison.role) for metric in METRICS.values() for comparison in metric.comparisons}
    assert roles >= {
        ("all", "references"),
        ("matched", "references"),
        ("text", "text"),
        ("base", "base"),
        ("prior", "prior"),
        ("within", "within"),
    }
    assert len({pairing for pairing, _ in roles}) == len(roles)
    assert all(role_of(pairing) == role for pairing, role in roles)
    assert role_of("of another version") is None
    spec = get_protocol("demo").backbones["dino"]
    with pytest.raises(ValueError, match="DINO is not measured in pairs 'within', but in 'all' or 'matched'"):
        Measure("DINO", spec, "within")
    own = get_metric("likeness (resnet50)")
    assert own.better == "higher"
    assert [comparison.pairing for comparison in own.comparisons] == ["all", "matched"]


def test_pictures_are_truncated_to_8_bits_and_survive_the_round_trip():
    row = noise(9, 5)
    assert np.array_equal(np.asarray(to_pictures(as_tensor(row))[0]), row)
    image = torch.tensor([0.4999, 1.7, -0.2]).reshape(1, 1, 1, 3)
    assert to_pictures(image)[0].getpixel((0, 0)) == (127, 255, 0)


def test_alpha_is_laid_on_white_and_grey_becomes_rgb():
    row = noise(8, 8, 4)
    row[..., 3] = np.where(np.arange(8) < 4, 0, 255)
    made = np.asarray(to_pictures(as_tensor(row))[0])
    assert (made[:, :4] == 255).all()
    assert np.array_equal(made[:, 4:], row[:, 4:, :3])
    half = torch.tensor([0.0, 0.0, 0.0, 0.5]).reshape(1, 1, 1, 4)
    assert to_pictures(half)[0].getpixel((0, 0)) == (128, 128, 128)
    grey = noise(8, 8, 1)
    assert np.array_equal(np.asarray(to_pictures(as_tensor(grey))[0]), grey.repeat(3, axis=2))


def test_bad_images_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match="references: the batch is empty"):
        to_pictures(torch.zeros(0, 8, 8, 3), "references")
    with pytest.raises(ValueError, match=r"expected pictures .* got \[8, 8, 3\]"):
        to_pictures(torch.zeros(8, 8, 3))
    images = torch.zeros(3, 4, 4, 3)
    images[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="picture 1 holds NaN"):
        to_pictures(images)


@pytest.mark.parametrize("size", [(300, 300), (301, 517), (638, 250), (200, 77)])
def test_preprocessing_equals_the_processors_of_transformers(size: tuple[int, int]):
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    picture = Image.fromarray(noise(*size))
    cases = [
        (get_protocol("dreambench++").backbones["clip"].settings.preprocess, CLIPImageProcessorPil()),
        (
            get_protocol("dreambench++").backbones["dinov2"].settings.preprocess,
            BitImageProcessorPil(
                size={"shortest_edge": 256},
                crop_size={"height": 224, "width": 224},
                resample=3,
                do_center_crop=True,
                image_mean=list(IMAGENET[0]),
                image_std=list(IMAGENET[1]),
            ),
        ),
    ]
    for ours, theirs in cases:
        expected = torch.as_tensor(np.asarray(theirs(picture)["pixel_values"][0]))
        # The 8-bit pixels are equal; mean and deviation are applied in another order of float operations.
        torch.testing.assert_close(ours(picture), expected.float(), atol=2e-6, rtol=0)


@pytest.mark.parametrize("size", [(333, 250), (638, 250)])
def test_preprocessing_equals_torchvision(size: tuple[int, int]):
    """The transform that DINO's repository and DreamBench++ write for DINO."""
    from torchvision.transforms import v2

    picture = Image.fromarray(noise(*size))
    transform = v2.Compose(
        [
            v2.Resize(256, interpolation=3),
            v2.CenterCrop(224),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*IMAGENET),
        ]
    )
    ours = get_protocol("dreambench++").backbones["dino"].settings.preprocess(picture)
    torch.testing.assert_close(ours, transform(picture), atol=1e-6, rtol=0)


def test_margins_of_transformers_and_torchvision_differ_by_one_pixel():
    picture = Image.fromarray(noise(638, 250))  # resized to 571 x 224: 347 columns to cut
    plain, floor = (Preprocess(224, 224, *OPENAI_CLIP, as_transformers=value)(picture) for value in (False, True))
    assert torch.equal(plain[..., :-1], floor[..., 1:])
    assert not torch.equal(plain, floor)


def rules(name: str) -> dict[str, tuple]:
    """What a protocol says of each metric: backbone, pairing, scale."""
    return {
        measure.metric: (measure.backbone.name, measure.pairing, measure.scale)
        for measure in get_protocol(name).measures
    }


def test_protocols_say_what_the_papers_say():
    saved = ["dreambooth", "dreambench++", "clip-image", "custom-diffusion", "peft", "demo"]
    v3, siglip2 = "DINOv3 ViT-B/16", "SigLIP2 ViT-B/16"
    assert rules("2026") == {
        "DINOv3": (v3, "all", 1.0),
        "SigLIP2-I": (siglip2, "all", 1.0),
        "SigLIP2-T": (siglip2, "text", 1.0),
        "DreamSim": ("DreamSim (ensemble)", "all", 1.0),
        "PickScore": ("PickScore v1 (CLIP ViT-H/14)", "text", 1.0),
        "copy": ("SSCD ResNet-50 (disc_mixup)", "nearest", 1.0),
        "drift": (v3, "base", 1.0),
        "PRES": (v3, "prior", 1.0),
        "diversity": (v3, "within", 1.0),
    }
    assert [name for name in PROTOCOLS if name in saved] == saved
    clip, s16, s8, v2 = "CLIP ViT-B/32 (OpenAI)", "DINO ViT-S/16", "DINO ViT-S/8", "DINOv2 ViT-S/14"
    assert rules("dreambooth") == {
        "CLIP-I": (clip, "all", 1.0),
        "CLIP-T": (clip, "text", 1.0),
        "DINO": (s16, "all", 1.0),
        "DINOv2": (v2, "all", 1.0),
        "drift": (v2, "base", 1.0),
        "PRES": (s16, "prior", 1.0),
        "DIV": ("LPIPS (AlexNet)", "within", 1.0),
        "diversity": (s16, "within", 1.0),
    }
    assert rules("dreambench++") == {
        "CLIP-I": (clip, "matched", 100.0),
        "CLIP-T": (clip, "text", 100.0),
        "DINO": (s8, "matched", 100.0),
        "DINOv2": (v2, "matched", 100.0),
    }
    assert rules("clip-image") == {"CLIP-I": (clip, "all", 1.0)}
    assert rules("custom-diffusion") == {
        "CLIP-I": (clip, "all", 1.0),
        "CLIP-T": (clip, "text", 2.5),
        "DINO": (s16, "all", 1.0),
    }
    assert rules("peft") == {"DINOv2": ("DINOv2 ViT-B/14", "matched", 1.0), "drift": ("DINOv2 ViT-B/14", "base", 1.0)}
    assert [measure.floor for measure in get_protocol("custom-diffusion").measures] == [None, 0.0, None]
    assert rules("dreambench++-deft") == rules("dreambench++")
    bench = ["dreambench++", "dreambench++-deft"]
    assert [protocol.name for protocol in PROTOCOLS.values() if not protocol.truncate] == bench
    assert [protocol.name for protocol in PROTOCOLS.values() if protocol.first_sentence] == bench[1:]
    architectures = {
        spec.name: spec.settings.architecture
        for protocol in PROTOCOLS.values()
        for spec in protocol.backbones.values()
        if spec.settings
    }
    assert architectures == {
        clip: "ViT-B-32-quickgelu",
        s16: "vit_small_patch16_224",
        s8: "vit_small_patch8_224",
        v2: "vit_small_patch14_dinov2",
        "DINOv2 ViT-B/14": "vit_base_patch14_dinov2",
        "LPIPS (AlexNet)": "alexnet",
        v3: "vit_base_patch16_dinov3_qkvb",
        siglip2: "ViT-B-16-SigLIP2",
        "DreamSim (ensemble)": "ensemble of ViT-B/16",
        "PickScore v1 (CLIP ViT-H/14)": "ViT-H-14",
        "SSCD ResNet-50 (disc_mixup)": "resnet50",
    }
    with pytest.raises(ValueError, match=r"no scoring protocol 'dreambooht'; known are dreambooth, dreambench\+\+"):
        get_protocol("dreambooht")


def test_a_custom_protocol_takes_the_names_of_open_clip_and_timm():
    protocol = custom("ViT-B-16/openai", "vit_base_patch14_dinov2.lvd142m", "matched", 100.0)
    assert {measure.metric: (measure.pairing, measure.scale) for measure in protocol.measures} == {
        "CLIP-I": ("matched", 100.0),
        "CLIP-T": ("text", 100.0),
        "DINOv2": ("matched", 100.0),
        "drift": ("base", 1.0),
        "PRES": ("prior", 100.0),
        "diversity": ("within", 1.0),
    }
    # OpenAI's weights want QuickGELU, also where the name does not say so; others do not.
    assert protocol.backbones["clip"].settings.architecture == "ViT-B-16-quickgelu"
    assert custom("ViT-B-32/laion2b_s34b_b79k").backbones["clip"].settings.architecture == "ViT-B-32"
    assert str(protocol.backbones["timm"].settings.preprocess).startswith("resize 518 bicubic, centre crop 518")
    assert [measure.metric for measure in custom(image="resnet50.a1_in1k").measures][0] == "likeness (resnet50.a1_in1k)"
    for arguments, words in (
        (("", ""), "needs a model"),
        (("ViT-B-99/openai", ""), "no model 'ViT-B-99'"),
        (("ViT-B-32/nothing", ""), "no weights 'nothing' of ViT-B-32; it has openai"),
        (("", "vit_tiny_banana"), "timm has no model 'vit_tiny_banana'; similar: .*vit_"),
    ):
        with pytest.raises(ValueError, match=words):
            custom(*arguments)


def test_missing_weights_name_file_folder_size_and_source(tmp_path):
    spec = get_protocol("dreambooth").backbones["dino"]
    with pytest.raises(FileNotFoundError) as caught:
        weights.find_weights(spec, [tmp_path / "a", tmp_path / "b"])
    text = str(caught.value)
    for part in (
        "DINO ViT-S/16",
        "dino_deitsmall16_pretrain.pth",
        str(tmp_path / "b"),
        "87 MB",
        "facebookresearch/dino",
    ):
        assert part in text
    with pytest.raises(FileNotFoundError, match="no weight file .*other.pth"):
        weights.find_weights(spec, [tmp_path], tmp_path / "other.pth")


def test_first_folder_wins(tmp_path):
    spec = get_protocol("dreambooth").backbones["dinov2"]
    for folder in ("a", "b"):
        (tmp_path / folder / "dinov2-small").mkdir(parents=True)
        (tmp_path / folder / "dinov2-small" / "model.safetensors").touch()
    assert weights.find_weights(spec, [tmp_path / "a", tmp_path / "b"]).parts[-3] == "a"


class Surprise:
    """A pickle that would run code."""

    def __reduce__(self):
        return print, ("code ran",)


def test_unreadable_weights(tmp_path, capsys):
    cut, code, more, nan = (tmp_path / name for name in ("cut.safetensors", "code.pth", "more.pth", "nan.pth"))
    cut.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    torch.save({"a": Surprise()}, code)
    torch.save({"teacher": {"a": torch.zeros(1)}}, more)
    torch.save({"a": torch.tensor([1.0, float("nan")])}, nan)
    page, pointer, hole, script = (tmp_path / f"{name}.pt" for name in ("page", "pointer", "hole", "script"))
    page.write_text("<!DOCTYPE html><title>404</title>")
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    hole.write_bytes(bytes(1000))
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(script))
    for path, words in (
        (cut, "cannot be read"),
        (code, "cannot be read"),
        (more, "holds more than the tensors"),
        (nan, "tensor a holds NaN"),
        (page, "it is a web page"),
        (pointer, "the pointer that git keeps"),
        (hole, "begins with zeros"),
        (script, "TorchScript archive, which holds code"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            weights.read_weights(path)
        assert str(path) in str(caught.value)
    assert "code ran" not in capsys.readouterr().out


def test_the_tensors_of_a_known_archive_and_of_a_training_checkpoint_are_read(tmp_path):
    module = torch.nn.Linear(3, 2)
    torch.jit.script(module).save(str(tmp_path / "known.pt"))
    path = tmp_path / "known.pt"
    assert torch.equal(weights.read_weights(path, [weights.checksum(path)])["weight"], module.weight)
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in module.state_dict().items()}, "epoch": 3},
        tmp_path / "epoch.pt",
    )
    assert weights.read_weights(tmp_path / "epoch.pt").keys() == {"weight", "bias"}


def test_caches_of_other_programs_come_after_the_folders(tmp_path, monkeypatch):
    import huggingface_hub.constants

    spec = get_protocol("dreambooth").backbones["dino"]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    with pytest.raises(FileNotFoundError):
        weights.find_weights(spec, [tmp_path])
    last = tmp_path / "torch" / "checkpoints" / "dino_deitsmall16_pretrain.pth"
    last.parent.mkdir(parents=True)
    last.touch()
    assert weights.find_weights(spec, [tmp_path]) == last
    commit = tmp_path / "hub" / "models--timm--vit_small_patch16_224.dino"
    for folder, name, text in (("refs", "main", "abc"), ("snapshots/abc", "model.safetensors", "")):
        (commit / folder).mkdir(parents=True)
        (commit / folder / name).write_text(text)
    assert weights.find_weights(spec, [tmp_path]) == commit / "snapshots" / "abc" / "model.safetensors"
    first = tmp_path / "dino_vits16.safetensors"
    first.touch()
    assert weights.find_weights(spec, [tmp_path]) == first
    assert weights.find_weights(spec, [tmp_path], last) == last


def tiff(path: Path, numbers: np.ndarray, photometric: int) -> Path:
    """An uncompressed TIFF of these numbers [h, w] or [h, w, 3], of one strip, byte by byte (TIFF 6.0, section 2)."""
    height, width, channels = (*numbers.shape, 1)[:3]
    data, kind = numbers.tobytes(), {"u": 1, "i": 2, "f": 3}[numbers.dtype.kind]
    bits = [8 * numbers.dtype.itemsize] * channels
    tags = [(256, [width]), (257, [height]), (258, bits), (259, [1]), (262, [photometric]), (273, [0])]
    tags += [(277, [channels]), (278, [height]), (279, [len(data)]), (339, [kind] * channels)]
    behind = 8 + 2 + 12 * len(tags) + 4
    extra, head = b"", b"II*\0" + struct.pack("<IH", 8, len(tags))
    room = 2 * 2 * channels if channels > 1 else 0
    for tag, values in tags:
        if tag == 273:
            values = [behind + room]
        packed = struct.pack(f"<{len(values)}H", *values)
        if len(packed) > 4:
            extra, packed = extra + packed, struct.pack("<I", behind + len(extra))
        head += struct.pack("<HHI", tag, 3, len(values)) + packed.ljust(4, b"\0")
    path.write_bytes(head + bytes(4) + extra.ljust(room, b"\0") + data)
    return path


def png16(path: Path, numbers: np.ndarray, clear: int | None = None) -> Path:
    """A PNG of 16 bits [h, w, 1 to 4], by its specification. clear: the grey that is transparent."""
    height, width, channels = numbers.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in numbers)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
        + (chunk(b"tRNS", struct.pack(">H", clear)) if clear is not None else b"")
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize(
    ("mode", "colour", "seen"),
    [
        ("L", 100, (100, 100, 100)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("LA", (0, 0), (255, 255, 255)),
        ("I;16", 40000, (156, 156, 156)),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
        ("P", 0, None),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_picture_files_of_every_mode_are_read_as_rgb(tmp_path, mode: str, colour, seen):
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I;16") else "a.png")
    Image.new(mode, (4, 3), colour).save(path)
    picture = FilePictures([path])[0]
    assert picture.mode == "RGB"
    assert picture.size == (4, 3)
    assert seen is None or picture.getpixel((0, 0)) == seen


def test_numbers_above_8_bits_are_scaled_or_refused(tmp_path):
    """Hand-made files; the reference is arithmetic on the arrays that are in them."""
    rng = np.random.default_rng(0)
    unit, deep = rng.random((5, 7)), rng.integers(0, 65536, (5, 7))
    deep[0, 0], deep[1, 1] = 65535, 0
    bytes_ = np.rint(unit * 255)
    bytes_[0, 0] = 255
    read = {
        "float32": (unit, "<f4", 1, np.rint(unit * 255)),
        "float32 white is zero": (unit, "<f4", 0, 255 - np.rint(unit * 255)),
        "float32 to 255": (bytes_, "<f4", 1, bytes_),
        "uint16": (deep, "<u2", 1, deep // 256),
        "uint16 white is zero": (deep, "<u2", 0, 255 - deep // 256),
        "int32 of 16 bits": (deep, "<i4", 1, deep // 256),
        "black": (0 * deep, "<i4", 1, 0 * deep),
    }
    for name, (numbers, kind, white, expected) in read.items():
        path = tiff(tmp_path / f"{name}.tif", numbers.astype(kind), white)
        picture = np.asarray(FilePictures([path])[0])
        assert picture.shape == (5, 7, 3), name
        # A float32 is the neighbour of its float64.
        assert np.abs(picture.astype(int) - expected[..., None].astype(int)).max() <= ("float32" in name), name
    colours = rng.integers(0, 65536, (5, 7, 3))
    picture = FilePictures([tiff(tmp_path / "colours.tif", colours.astype("<u2"), 2)])[0]
    assert np.array_equal(np.asarray(picture), colours // 256)

    broken = unit.copy()
    broken[2, 3] = np.nan
    refused = {
        "int8.tif": (rng.integers(-100, 100, (5, 7)), "i1", 1, "numbers have a sign"),
        "int16.tif": (deep - 30000, "<i2", 1, "its numbers go from -"),
        "int32.tif": (deep * 30000, "<i4", 1, "what is white is not known"),
        "dark.tif": (deep // 256, "<i4", 1, "its numbers go from 0 to 255, of 32 bits"),
        "uint32.tif": (deep * 65537, "<u4", 1, "what is white is not known"),
        "bright.tif": (unit * 1.5, "<f4", 1, "floats are read from 0 to 1 or from 0 to 255"),
        "below.tif": (unit - 0.5, "<f4", 1, "floats are read from 0 to 1 or from 0 to 255"),
        "high.tif": (unit * 1000, "<f4", 1, "floats are read from 0 to 1 or from 0 to 255"),
        "nan.tif": (broken, "<f4", 1, "NaN"),
        "half.tif": (unit, "<f2", 1, "Pillow does not know this kind of TIFF"),
        "float colours.tif": (rng.random((5, 7, 3)), "<f4", 2, "Pillow does not know this kind of TIFF"),
    }
    for name, (numbers, kind, white, why) in refused.items():
        path = tiff(tmp_path / name, numbers.astype(kind), white)
        with pytest.raises(ValueError, match=f"{name} cannot be read as a picture .*{why}"):
            FilePictures([path])[0]


def test_a_picture_above_pillows_limit_is_refused_by_its_size(tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (2, 2)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 20_000, 10_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    expected = r"large\.png has more pixels than the 178,956,970 that Pillow reads: make it smaller, or remove it\.$"
    with pytest.raises(ValueError, match=expected):
        FilePictures([path])[0]


def test_a_png_of_16_bits_is_scaled_with_its_transparency(tmp_path):
    rng = np.random.default_rng(1)
    for channels in (1, 2, 3, 4):
        numbers = rng.integers(0, 65536, (5, 7, channels))
        clear = int(numbers[2, 3, 0]) if channels == 1 else None
        colours, alpha = numbers // 256, np.ones((5, 7, 1))
        if channels in (2, 4):
            colours, alpha = colours[..., :-1], colours[..., -1:] / 255
        if clear is not None:
            alpha = (numbers != clear).astype(float)
        expected = np.broadcast_to(colours * alpha + 255 * (1 - alpha), (5, 7, 3))
        picture = np.asarray(FilePictures([png16(tmp_path / f"{channels}.png", numbers, clear)])[0])
        assert np.abs(picture - expected).max() <= 1, channels
        if channels in (1, 3):
            assert np.array_equal(picture, expected)


def test_cmyk_palettes_and_animations(tmp_path):
    rng = np.random.default_rng(2)
    inks = rng.integers(0, 256, (5, 7, 4))
    Image.fromarray(inks.astype(np.uint8), "CMYK").save(tmp_path / "inks.tif")
    picture = np.asarray(FilePictures([tmp_path / "inks.tif"])[0])
    assert np.abs(picture - (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255).max() <= 1

    colours, places = rng.integers(0, 256, (256, 3)), rng.integers(0, 256, (5, 7))
    palette = Image.fromarray(places.astype(np.uint8))
    palette.putpalette(colours.astype(np.uint8).tobytes())
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "clear.png", transparency=int(places[1, 1]))
    assert np.array_equal(np.asarray(FilePictures([tmp_path / "palette.png"])[0]), colours[places])
    white = np.where((places == places[1, 1])[..., None], 255, colours[places])
    assert np.array_equal(np.asarray(FilePictures([tmp_path / "clear.png"])[0]), white)

    frames = [Image.fromarray(rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)) for _ in range(3)]
    for name in ("moving.png", "pages.tif", "moving.webp"):
        frames[0].save(
            tmp_path / name, save_all=True, append_images=frames[1:], **({"lossless": True} if "webp" in name else {})
        )
        assert np.array_equal(np.asarray(FilePictures([tmp_path / name])[0]), np.asarray(frames[0])), name


def test_picture_files_are_turned_and_bad_ones_named(tmp_path):
    picture = Image.new("RGB", (8, 4))
    exif = picture.getexif()
    exif[0x0112] = 6  # turn by 90 degrees
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert FilePictures([tmp_path / "turned.jpg"])[0].size == (4, 8)
    whole = (tmp_path / "turned.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    for name in ("cut.jpg", "text.png", "gone.png"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as a picture"):
            FilePictures([tmp_path / name])[0]
    assert [path.name for path in picture_files(tmp_path)] == ["cut.jpg", "text.png", "turned.jpg"]
    with pytest.raises(FileNotFoundError, match="no pictures in"):
        picture_files(tmp_path / "nowhere")


def test_digests_stand_for_content_and_size():
    wide, tall = Image.new("RGB", (4, 2)), Image.new("RGB", (2, 4))
    assert digest(wide) == digest(wide.copy())
    assert digest(wide) != digest(tall)
    other = wide.copy()
    other.putpixel((0, 0), (0, 0, 1))
    assert digest(wide) != digest(other)
    assert is_flat(wide)
    assert not is_flat(other)


def test_texts_one_or_one_each_or_one_a_batch():
    assert split_texts("a dog", [2, 1]) == ["a dog"] * 3
    assert split_texts("a\n\nb \nc\n", [3]) == ["a", "b", "c"]
    assert split_texts("a\nb", [2, 1]) == ["a", "a", "b"]
    assert split_texts(" \n", [2]) == []
    with pytest.raises(ValueError, match="text: 2 lines for 3 images;"):
        split_texts("a\nb", [3])
    with pytest.raises(ValueError, match="text: 4 lines for 3 images in 2 batches"):
        split_texts("a\nb\nc\nd", [2, 1])


def test_drift_and_diversity_follow_their_formulas():
    images, base = features(5, 1).double(), features(5, 2).double()
    cosines = torch.tensor([float(F.cosine_similarity(a, b, dim=0)) for a, b in zip(images, base, strict=True)])
    # PEFT's measure_drift: (1 - mean cosine) / 2
    assert drift.drift(images, base).mean().item() == pytest.approx((1 - cosines.mean().item()) / 2, abs=1e-7)
    assert drift.drift(images, images).abs().max() < 1e-6
    pairs = [1 - float(images[i] @ images[j]) for i in range(5) for j in range(i + 1, 5)]
    assert diversity.distances_within(images, images).tolist() == pytest.approx(pairs, abs=1e-12)
