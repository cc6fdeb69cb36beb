"""Metrics, preprocessing, protocols and weight lookup."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from deft_pack.scoring import metrics, weights
from deft_pack.scoring.preprocessing import IMAGENET, OPENAI_CLIP, Preprocess, to_pictures
from deft_pack.scoring.protocols import PROTOCOLS, get_protocol


def features(count: int, seed: int, width: int = 32) -> torch.Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def as_tensor(row: np.ndarray) -> torch.Tensor:
    """What ComfyUI's Load Image makes of 8-bit values."""
    return torch.from_numpy(row).float().div(255)[None]


def test_all_pairs_is_the_dot_of_the_mean_features():
    images, references = features(7, 1).double(), features(5, 2).double()
    assert metrics.all_pairs(images, references).mean().item() == pytest.approx(
        (images.mean(0) @ references.mean(0)).item(), abs=1e-12)
    expected = torch.tensor([[F.cosine_similarity(a, b, dim=0) for b in references] for a in images]).mean(1)
    torch.testing.assert_close(metrics.all_pairs(images, references), expected.double(), atol=1e-6, rtol=0)


def test_cosine_with_itself_is_one_and_order_does_not_matter():
    images, references = features(6, 3), features(6, 4)
    torch.testing.assert_close(metrics.matched_pairs(images, images), torch.ones(6))
    assert torch.equal(metrics.matched_pairs(images, references), metrics.matched_pairs(references, images))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(metrics.all_pairs(images, references[order]), metrics.all_pairs(images, references))
    torch.testing.assert_close(metrics.all_pairs(images[order], references),
                               metrics.all_pairs(images, references)[order])


def test_pairings_agree_with_one_reference_and_differ_otherwise():
    images, one, many = features(4, 5), features(1, 6), features(4, 7)
    torch.testing.assert_close(metrics.matched_pairs(images, one), metrics.all_pairs(images, one))
    assert not torch.allclose(metrics.matched_pairs(images, many), metrics.all_pairs(images, many))


def test_wrong_counts_name_both():
    with pytest.raises(ValueError, match="4 images and 3 references"):
        metrics.matched_pairs(features(4, 0), features(3, 0))
    with pytest.raises(ValueError, match="2 texts for 4 images"):
        metrics.text_pairs(features(4, 0), features(2, 0))


def test_pictures_are_truncated_to_8_bits_and_survive_the_round_trip():
    row = noise(9, 5)
    assert np.array_equal(np.asarray(to_pictures(as_tensor(row))[0]), row)
    image = torch.tensor([0.4999, 1.7, -0.2]).reshape(1, 1, 1, 3)
    assert to_pictures(image)[0].getpixel((0, 0)) == (127, 255, 0)


def test_alpha_is_laid_on_white_and_grey_becomes_rgb():
    row = noise(8, 8, 4)
    row[..., 3] = np.where(np.arange(8) < 4, 0, 255)
    made = np.asarray(to_pictures(as_tensor(row))[0])
    assert (made[:, :4] == 255).all() and np.array_equal(made[:, 4:], row[:, 4:, :3])
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
    cases = [(get_protocol("dreambench++").clip.settings.preprocess, CLIPImageProcessorPil()),
             (get_protocol("dreambench++").dinov2.settings.preprocess,
              BitImageProcessorPil(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, resample=3,
                                   do_center_crop=True, image_mean=list(IMAGENET[0]), image_std=list(IMAGENET[1])))]
    for ours, theirs in cases:
        expected = torch.as_tensor(np.asarray(theirs(picture)["pixel_values"][0]))
        # The 8-bit pixels are equal; mean and deviation are applied in another order of float operations.
        torch.testing.assert_close(ours([picture])[0], expected.float(), atol=2e-6, rtol=0)


@pytest.mark.parametrize("size", [(333, 250), (638, 250)])
def test_preprocessing_equals_torchvision(size: tuple[int, int]):
    """The transform that DINO's repository and DreamBench++ write for DINO."""
    from torchvision.transforms import v2

    picture = Image.fromarray(noise(*size))
    transform = v2.Compose([v2.Resize(256, interpolation=3), v2.CenterCrop(224), v2.PILToTensor(),
                            v2.ToDtype(torch.float32, scale=True), v2.Normalize(*IMAGENET)])
    ours = get_protocol("dreambench++").dino.settings.preprocess([picture])[0]
    torch.testing.assert_close(ours, transform(picture), atol=1e-6, rtol=0)


def test_margins_of_transformers_and_torchvision_differ_by_one_pixel():
    picture = Image.fromarray(noise(638, 250))  # resized to 571 x 224: 347 columns to cut
    plain, floor = (Preprocess(224, 224, *OPENAI_CLIP, as_transformers=value)([picture])[0] for value in (False, True))
    assert torch.equal(plain[..., :-1], floor[..., 1:]) and not torch.equal(plain, floor)


def test_protocols_say_what_the_papers_say():
    dreambooth, bench = get_protocol("dreambooth"), get_protocol("dreambench++")
    assert (dreambooth.pairing, dreambooth.scale) == ("all", 1.0)
    assert (bench.pairing, bench.scale, bench.truncate) == ("matched", 100.0, False)
    assert dreambooth.dino.settings.architecture == "vit_small_patch16_224"
    assert bench.dino.settings.architecture == "vit_small_patch8_224"
    for protocol in (dreambooth, bench):
        assert protocol.clip.settings.architecture == "ViT-B-32-quickgelu"
        assert (protocol.dino.settings.preprocess.resize, protocol.dino.settings.preprocess.crop) == (256, 224)
    assert set(get_protocol("demo").backbones) == {"clip", "dino"}
    with pytest.raises(ValueError, match=r"no scoring protocol 'dreambooht'; known are dreambooth, dreambench\+\+"):
        get_protocol("dreambooht")
    assert list(PROTOCOLS) == ["dreambooth", "dreambench++", "demo"]


def test_missing_weights_name_file_folder_size_and_source(tmp_path):
    spec = get_protocol("dreambooth").dino
    with pytest.raises(FileNotFoundError) as caught:
        weights.find_weights(spec, [tmp_path / "a", tmp_path / "b"])
    text = str(caught.value)
    for part in ("DINO ViT-S/16", "dino_deitsmall16_pretrain.pth", str(tmp_path / "b"), "87 MB",
                 "facebookresearch/dino"):
        assert part in text
    with pytest.raises(FileNotFoundError, match="no weight file .*other.pth"):
        weights.find_weights(spec, [tmp_path], tmp_path / "other.pth")


def test_first_folder_wins(tmp_path):
    spec = get_protocol("dreambooth").dinov2
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
    for path, words in ((cut, "cannot be read"), (code, "cannot be read"), (more, "holds more than the tensors"),
                        (nan, "tensor a holds NaN")):
        with pytest.raises(ValueError, match=words) as caught:
            weights.read_weights(path)
        assert str(path) in str(caught.value)
    assert "code ran" not in capsys.readouterr().out
