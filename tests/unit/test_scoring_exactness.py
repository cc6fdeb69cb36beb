"""Our scores beside the reference implementations, with the same random weights in their true formats and sizes.

References: transformers' CLIPModel, Dinov2Model and ViTModel with their PIL processors, DINO's definition, open_clip,
timm, torchmetrics, and the formulas of DreamBench++, Custom Diffusion, DreamBooth and PEFT. All in float32; LIMIT is on
the scale of cosines.
"""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from deft_pack.benchmarks.dreambench_loop import IMAGENET_NORM, Dino, Loop, make_loop, randomise, read_picture
from deft_pack.scoring.backbones import Backbone, load_backbone
from deft_pack.scoring.backbones.unset import Unset
from deft_pack.scoring.embeddings import FeatureStore, embed_images
from deft_pack.scoring.pictures import FilePictures, TensorPictures
from deft_pack.scoring.protocols import Measure, Protocol, custom, get_protocol
from deft_pack.scoring.scorer import DRIFT, Scorer, load_scorer, score
from deft_pack.scoring.verify import CHECKS, CHEF, verify
from deft_pack.scoring.verify import load_file as load_for_check

from ..everyday import CHOSEN

LIMIT = 1e-5
SIZES = {  # width, height, channels
    "square": (224, 224, 3),
    "wide": (517, 301, 3),
    "tall": (250, 638, 3),
    "alpha": (320, 300, 4),
    "64 px": (64, 64, 3),
    "2048 px": (2048, 1536, 3),
    "grey": (300, 301, 1),
    "odd": (227, 225, 3),
}
# What everyday.py leaves out of test_features_of_every_kind_of_picture, one batch of DINO's and DINOv2's.
EVERY_DAY = CHOSEN["unit/test_scoring_exactness.py::test_features_of_every_kind_of_picture"]
IN_ONE_BATCH = [kind for kind in SIZES if kind not in EVERY_DAY]
# Three pictures for ViT-S/8, which takes over a second for one. The second has the first for its reference.
BENCH = ("wide", "alpha")
BENCH_REFERENCES = ("odd", "wide")
TEXTS = ("a dog in the jungle", "a red bear plushie, photographed at noon!", "Ünïcode & 'quotes' 42", "a")


def array(kind: str, seed: int = 0) -> np.ndarray:
    """uint8 [height, width, channels]: smooth noise with hard edges, so that resizing matters."""
    width, height, channels = SIZES[kind]
    rng = np.random.default_rng([seed, *SIZES[kind]])
    coarse = torch.from_numpy(rng.random((1, channels, 24, 24), dtype=np.float32))
    smooth = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0).numpy()
    smooth[::7] = 1 - smooth[::7]
    return (smooth * 255).astype(np.uint8)


def picture(kind: str, seed: int = 0) -> Image.Image:
    """The picture as the papers' code reads its file: RGB, transparency on white."""
    row = array(kind, seed)
    if row.shape[2] == 1:
        return Image.fromarray(row[..., 0], "L").convert("RGB")
    made = Image.fromarray(row)
    if made.mode == "RGBA":
        white = Image.new("RGB", made.size, (255, 255, 255))
        white.paste(made, mask=made.getchannel("A"))
        return white
    return made


def ours(kind: str, seed: int = 0) -> Image.Image:
    """The picture as the nodes get it: from an IMAGE tensor."""
    return TensorPictures([torch.from_numpy(array(kind, seed)).float().div(255)[None]])[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("weights")


def once(feature: Callable[[Any], torch.Tensor]) -> Callable[[Any], torch.Tensor]:
    """A reference that computes each picture or text once: several tests, and all pairs of one, ask for the same."""
    computed: dict[Any, torch.Tensor] = {}

    def kept(given: Image.Image | str) -> torch.Tensor:
        key = given if isinstance(given, str) else (given.mode, given.size, given.tobytes())
        if key not in computed:
            computed[key] = feature(given)
        return computed[key]

    return kept


@pytest.fixture(scope="module")
def loop(folder: Path) -> Loop:
    """The references of full size, whose files lie in the folder."""
    with Unset():
        made = make_loop(folder, seed=5)  # with these the pictures are more like the texts than like their opposites
    for name in ("clip_image", "clip_text", "dino_image", "dinov2_image"):
        setattr(made, name, once(getattr(made, name)))
    return made


@pytest.fixture(scope="module")
def dreambooth(loop: Loop, folder: Path, dino16) -> Scorer:
    """CLIP, DINO ViT-S/16 and DINOv2; LPIPS is compared elsewhere."""
    return replace(load_scorer("dreambooth", [folder]), store=FeatureStore())


@pytest.fixture(scope="module")
def bench(dreambooth: Scorer, folder: Path) -> Scorer:
    """DreamBench++ has DreamBooth's CLIP and DINOv2, and the same features of a picture."""
    protocol = get_protocol("dreambench++")
    alone = load_scorer(replace(protocol, measures=tuple(m for m in protocol.measures if m.metric == "DINO")), [folder])
    for kind in ("clip", "dinov2"):
        assert protocol.backbones[kind] is dreambooth.protocol.backbones[kind]
    return replace(dreambooth, protocol=protocol, backbones=dreambooth.backbones | alone.backbones)


@pytest.fixture(scope="module")
def dino16(folder: Path, loop: Loop) -> Callable[[Image.Image], torch.Tensor]:
    """The reference, whose file lies in the folder."""
    with Unset():
        module = randomise(Dino(16), 7)
    torch.save(module.state_dict(), folder / "dino_deitsmall16_pretrain.pth")

    @torch.no_grad()
    def feature(image: Image.Image) -> torch.Tensor:
        return F.normalize(module(loop.dino_transform(image)[None]), dim=-1)

    return once(feature)


def furthest(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("kind", SIZES)
def test_features_of_every_kind_of_picture(kind: str, loop: Loop, dreambooth: Scorer, dino16):
    mine, theirs = ours(kind), picture(kind)
    assert np.array_equal(np.asarray(mine), np.asarray(theirs))
    embedded = embed_images(dreambooth.backbones, [mine], store=dreambooth.store).features
    assert furthest(embedded["clip"], loop.clip_image(theirs)) <= LIMIT
    assert furthest(embedded["dino"], dino16(theirs)) <= LIMIT
    assert furthest(embedded["dinov2"], loop.dinov2_image(theirs)) <= LIMIT


def test_batches_of_one_and_eight(dreambooth: Scorer, bench: Scorer, loop: Loop, dino16):
    """CLIP: a picture of each kind in a batch of eight, and two of them one by one. DINO and DINOv2: one batch of the
    kinds that the test above does not have every day; batches of one are there. The references take one by one."""
    mine, theirs = {kind: ours(kind) for kind in SIZES}, {kind: picture(kind) for kind in SIZES}

    def features(name: str, kinds: Sequence[str], batch: int) -> torch.Tensor:
        backbone, images = {name: dreambooth.backbones[name]}, [mine[kind] for kind in kinds]
        return embed_images(backbone, images, store=FeatureStore(), batch=batch).features[name]

    eight = features("clip", list(SIZES), 8)
    assert furthest(eight, torch.cat([loop.clip_image(image) for image in theirs.values()])) <= LIMIT
    assert furthest(features("clip", list(SIZES)[:2], 1), eight[:2]) <= LIMIT
    for name, reference in (("dino", dino16), ("dinov2", loop.dinov2_image)):
        embedded = features(name, IN_ONE_BATCH, 8)
        assert furthest(embedded, torch.cat([reference(theirs[kind]) for kind in IN_ONE_BATCH])) <= LIMIT
    dino = {"dino": bench.backbones["dino"]}
    embedded = embed_images(dino, [ours(kind) for kind in BENCH], store=bench.store, batch=8).features["dino"]
    assert furthest(embedded, torch.cat([loop.dino_image(picture(kind)) for kind in BENCH])) <= LIMIT


def test_texts(dreambooth: Scorer, loop: Loop):
    embedded = dreambooth.backbones["clip"].encode_texts(TEXTS)
    assert furthest(embedded, torch.cat([loop.clip_text(text) for text in TEXTS])) <= LIMIT


def test_plain_gelu_is_another_model(folder: Path, loop: Loop):
    spec = get_protocol("dreambooth").backbones["clip"]
    assert spec.settings is not None
    plain = load_backbone(replace(spec, settings=replace(spec.settings, architecture="ViT-B-32")), [folder])
    assert furthest(plain.encode_images([ours("wide")]), loop.clip_image(picture("wide"))) > 10 * LIMIT


def saved(folder: Path, kinds: Sequence[str], seed: int) -> list[Path]:
    """Files of pictures, without loss."""
    folder.mkdir()
    paths = []
    for kind in kinds:
        paths.append(folder / f"{kind}.png")
        row = array(kind, seed)
        Image.fromarray(row[..., 0] if row.shape[2] == 1 else row).save(paths[-1], compress_level=1)
    return paths


def test_dreambench_plus_from_files_to_scores(bench: Scorer, loop: Loop, tmp_path: Path):
    images, references = saved(tmp_path / "images", BENCH, 0), saved(tmp_path / "references", BENCH_REFERENCES, 0)
    expected = loop.run(images, references, TEXTS[: len(BENCH)])
    result = score(bench, FilePictures(images), FilePictures(references), TEXTS[: len(BENCH)])
    assert {row.metric for row in result.rows} == set(expected)
    for metric, value in expected.items():
        assert abs(result.value(metric) - value) <= 100 * LIMIT
    with pytest.raises(ValueError, match="reads 77 tokens"):
        score(bench, FilePictures(images[:1]), texts=["dog " * 90])


def test_clip_t_as_in_the_deft_authors_code(bench: Scorer, loop: Loop, tmp_path: Path):
    """The `text.split(".")[0]` in DreamBench++'s own loop; the other metrics are the same."""
    texts = ["a dog in the jungle. It is 5.30 p.m. and the sun is low", " a red bear plushie, photographed at noon!"]
    images, references = saved(tmp_path / "images", BENCH, 0), saved(tmp_path / "references", BENCH_REFERENCES, 0)
    expected = loop.run(images, references, [text.split(".")[0] for text in texts])
    deft = replace(bench, protocol=get_protocol("dreambench++-deft"))
    result = score(deft, FilePictures(images), FilePictures(references), texts)
    assert {row.metric for row in result.rows} == set(expected)
    for metric, value in expected.items():
        assert abs(result.value(metric) - value) <= 100 * LIMIT
    assert result.remarks == ("CLIP-T reads each text up to its first full stop; 1 of 2 end there.",)
    assert [row.texts for row in result.rows if row.metric == "CLIP-T"] == [tuple(texts)]  # intervals are by prompt
    whole = score(bench, FilePictures(images), FilePictures(references), texts)
    assert abs(whole.value("CLIP-T") - result.value("CLIP-T")) > 1000 * LIMIT
    assert whole.value("DINO") == result.value("DINO")
    with pytest.raises(ValueError, match=r"nothing stands before the first full stop of '\. a dog'"):
        score(deft, FilePictures(images[:1]), texts=[". a dog"])
    long = score(deft, FilePictures(images[:1]), texts=["a dog. " + "dog " * 90])  # what is not read may be long
    assert long.value("CLIP-T") == pytest.approx(
        score(bench, FilePictures(images[:1]), texts=["a dog"]).value("CLIP-T")
    )


def test_dreambooths_mean_over_all_pairs(dreambooth: Scorer, loop: Loop, dino16):
    images, references = ([picture(kind) for kind in kinds] for kinds in (("square", "odd"), ("alpha", "odd", "wide")))
    result = score(dreambooth, images, references, TEXTS[:2])
    for metric, embed in (("CLIP-I", loop.clip_image), ("DINO", dino16), ("DINOv2", loop.dinov2_image)):
        cosines = [float((embed(image) * embed(real)).sum()) for image in images for real in references]
        assert abs(result.value(metric) - sum(cosines) / len(cosines)) <= LIMIT
    cosines = [
        float((loop.clip_image(image) * loop.clip_text(text)).sum()) for image, text in zip(images, TEXTS, strict=False)
    ]
    assert abs(result.value("CLIP-T") - sum(cosines) / 2) <= LIMIT


def for_torchmetrics(loop: Loop) -> Callable[[], tuple[Any, Any]]:
    """What torchmetrics' CLIPScore takes in place of a name: a model and its processor. Pictures are uint8 tensors."""

    class Processor:
        tokenizer = SimpleNamespace(model_max_length=77)

        def __call__(self, text: Any = None, images: Any = None, **_: Any) -> dict[str, torch.Tensor]:
            if images is not None:
                made = [loop.clip_processor(image)["pixel_values"][0] for image in images]
                return {"pixel_values": torch.as_tensor(np.stack(made)).float()}
            ids = [[49406, *loop.encode(line), 49407] for line in text]
            longest = max(map(len, ids))
            return {
                "input_ids": torch.tensor([line + [49407] * (longest - len(line)) for line in ids]),
                "attention_mask": torch.tensor([[1] * len(line) + [0] * (longest - len(line)) for line in ids]),
            }

    class Model:
        """transformers 5 gives an object where torchmetrics 1.9 expects the features."""

        config = loop.clip.config

        def to(self, _: Any) -> Any:
            return self

        def get_image_features(self, pixels: torch.Tensor) -> torch.Tensor:
            return loop.clip.get_image_features(pixels).pooler_output

        def get_text_features(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return loop.clip.get_text_features(input_ids=ids, attention_mask=mask).pooler_output

    return lambda: (Model(), Processor())


def test_torchmetrics_clip_score(dreambooth: Scorer, loop: Loop):
    from torchmetrics.functional.multimodal import clip_score

    images = [picture(kind) for kind in ("wide", "odd")]
    # It puts the mean to 0 if it is negative, so each picture gets the text that suits it best.
    texts = [
        max(TEXTS, key=lambda text, image=image: float((loop.clip_image(image) * loop.clip_text(text)).sum()))
        for image in images
    ]
    pixels = [torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) for image in images]
    theirs = float(clip_score(pixels, texts, for_torchmetrics(loop)))
    mine = score(dreambooth, images, texts=texts).value("CLIP-T")
    assert theirs > 0
    assert abs(100 * mine - theirs) <= 100 * LIMIT


def test_verification_does_what_the_publishers_of_its_numbers_do(dreambooth: Scorer, loop: Loop):
    """The publishers' examples with the weights that are here; only OpenAI's own give the published numbers."""
    from torchmetrics.functional.multimodal import clip_score

    clip = dreambooth.backbones["clip"]
    one, other = (torch.randint(255, (3, 224, 224), generator=torch.Generator().manual_seed(seed)) for seed in (42, 43))
    noise, pictures, texts = (check.measure(clip)[0] for check in CHECKS["CLIP ViT-B/16"])
    assert abs(pictures - float(clip_score(one, other, for_torchmetrics(loop)))) <= 100 * LIMIT
    assert abs(texts - float(clip_score(*CHEF, for_torchmetrics(loop)))) <= 100 * LIMIT
    image = Image.fromarray(one.permute(1, 2, 0).to(torch.uint8).numpy())
    assert abs(noise - 100 * float((loop.clip_image(image) * loop.clip_text("a photo of a cat")).sum())) <= 100 * LIMIT
    with torch.no_grad():  # bumblebee: pixel_values 0.5, embedding 1..3
        pooled = loop.clip.vision_model(pixel_values=torch.full((1, 3, 224, 224), 0.5)).pooler_output
        embedding = loop.clip.visual_projection(pooled)[0]
    pixels, text = (check.measure(clip) for check in CHECKS["CLIP ViT-B/32"])
    assert pixels == pytest.approx(F.normalize(embedding[1:4], dim=0).tolist(), abs=10 * LIMIT)
    assert text == pytest.approx(loop.clip_text("hello world")[0, :5].tolist(), abs=LIMIT)


def test_openais_numbers_are_asked_of_files_that_look_like_openais(folder: Path, dino16, tmp_path: Path):
    """A ViT-B/32 of another kind is told by its numbers; a DINO has no published ones."""
    verification = verify(load_for_check(folder / "clip-vit-base-patch32" / "model.safetensors"))
    assert verification.model == "CLIP ViT-B/32 (transformers names)"
    assert verification.passed is False
    assert [result.source for result in verification.results[:2]] == [check.source for check in CHECKS["CLIP ViT-B/32"]]
    shutil.copy(folder / "dino_deitsmall16_pretrain.pth", tmp_path / "dino.pth")
    verification = verify(load_for_check(tmp_path / "dino.pth"))
    assert verification.passed is None
    assert verification.name == "DINO ViT-S/16"
    assert "nobody has published" in verification.report()
    (tmp_path / "dino.json").write_text('{"sha256": "of another program"}')
    assert verify(load_for_check(tmp_path / "dino.pth")) == verification
    save_file({"a": torch.zeros(1)}, tmp_path / "nothing.safetensors")
    with pytest.raises(ValueError, match="looks like no model that is known here; known are CLIP ViT-B/32"):
        load_for_check(tmp_path / "nothing.safetensors")


def test_the_published_numbers_are_those_of_torchmetrics_examples():
    from torchmetrics.functional.multimodal import clip_score

    examples = re.findall(r"tensor\((\d+\.\d+)\)", inspect.getdoc(clip_score) or "")
    assert [check.expected for check in CHECKS["CLIP ViT-B/16"]] == [(float(number),) for number in examples]


def test_custom_diffusions_formulas(loop: Loop, folder: Path, dreambooth: Scorer, dino16):
    """2.5 x max(cosine, 0); torchvision's margins, with the conversion to RGB after the crop."""
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    scorer = replace(load_scorer("custom-diffusion", [folder]), store=dreambooth.store)
    spec = get_protocol("custom-diffusion").backbones["clip"]
    assert spec.settings is not None
    transform = Compose(
        [
            Resize(224, InterpolationMode.BICUBIC),
            CenterCrop(224),
            lambda image: image.convert("RGB"),
            ToTensor(),
            Normalize(spec.settings.preprocess.mean, spec.settings.preprocess.std),
        ]
    )

    @once
    @torch.no_grad()
    def feature(image: Image.Image) -> torch.Tensor:
        pooled = loop.clip.vision_model(pixel_values=transform(image)[None]).pooler_output
        return F.normalize(loop.clip.visual_projection(pooled), dim=-1)

    images, references = [picture(kind) for kind in ("wide", "tall")], [picture("odd")]
    texts = [TEXTS[0], TEXTS[3]]
    result = score(scorer, images, references, texts)
    cosines = torch.cat([feature(image) for image in images]) @ torch.cat([feature(real) for real in references]).T
    assert abs(result.value("CLIP-I") - cosines.mean().item()) <= LIMIT
    per = [
        2.5 * max(float((feature(image) * loop.clip_text(text)).sum()), 0)
        for image, text in zip(images, texts, strict=True)
    ]
    assert abs(result.value("CLIP-T") - sum(per) / len(per)) <= 2.5 * LIMIT
    # With these weights a text and its opposite tell whether the floor is there.
    clip = scorer.backbones["clip"]
    opposite = replace(scorer, store=FeatureStore(), backbones=scorer.backbones | {"clip": negated(clip)})
    flipped = score(opposite, images, texts=texts).rows[0].values
    assert all(min(one, other) == 0 for one, other in zip(flipped, result.rows[1].values, strict=True))
    cosines = torch.cat([dino16(image) for image in images]) @ torch.cat([dino16(real) for real in references]).T
    assert abs(result.value("DINO") - cosines.mean().item()) <= LIMIT


def negated(clip: Backbone) -> Backbone:
    """CLIP whose text features point the other way."""
    return Backbone(
        clip.name,
        clip.kind,
        clip.preprocess,
        clip.module,
        fingerprint=f"negated {clip.fingerprint}",
        encode_image=clip.module.encode_image,
        encode_text=lambda ids: -clip.module.encode_text(ids),
        tokenizer=clip.tokenizer,
        context=clip.context,
    )


def test_pefts_similarity_and_drift(loop: Loop, bench: Scorer):
    """The formulas of PEFT with DINOv2-small in place of -base, which has the same code."""
    spec = get_protocol("dreambench++").backbones["dinov2"]
    small = Protocol("peft", "", tuple(replace(measure, backbone=spec) for measure in get_protocol("peft").measures))
    scorer = replace(bench, protocol=small)
    images, other = [picture(kind) for kind in ("wide", "square")], [picture(kind) for kind in ("odd", "alpha")]
    cosine = (
        (
            torch.cat([loop.dinov2_image(image) for image in images])
            * torch.cat([loop.dinov2_image(image) for image in other])
        )
        .sum(dim=-1)
        .mean()
        .item()
    )
    assert abs(score(scorer, images, other).value("DINOv2") - cosine) <= LIMIT
    assert abs(score(scorer, images, base=other, task=DRIFT).value("drift") - (1 - cosine) / 2.0) <= LIMIT


def test_dino_in_transformers_format(tmp_path: Path):
    """facebook/dino-vits16 is a ViTModel; DINO's own norms have another epsilon than its configuration says."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        intermediate_size=1536,
        patch_size=16,
        layer_norm_eps=1e-6,
    )
    with Unset():
        theirs = randomise(ViTModel(config, add_pooling_layer=True), 5)
    theirs.save_pretrained(tmp_path)
    spec = get_protocol("dreambooth").backbones["dino"]
    assert spec.settings is not None
    mine = load_backbone(spec, [], tmp_path / "model.safetensors")
    with torch.no_grad():
        pixels = spec.settings.preprocess(picture("wide"))[None]
        expected = F.normalize(theirs(pixel_values=pixels).last_hidden_state[:, 0], dim=-1)
    assert furthest(mine.encode_images([picture("wide")]), expected) <= LIMIT


@pytest.mark.parametrize("name", ["test_vit3.r160_in1k", "test_resnet.r160_in1k", "vit_tiny_patch16_224.augreg_in21k"])
def test_timms_models_with_timms_own_preparation(name: str, tmp_path: Path):
    import timm

    theirs = timm.create_model(name, pretrained=False)
    randomise(theirs, 4)
    save_file(theirs.state_dict(), tmp_path / f"{name}.safetensors")
    scorer = load_scorer(custom(image=name), [tmp_path])
    theirs.reset_classifier(0)
    theirs.eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(theirs.pretrained_cfg, model=theirs))
    images = [picture("square"), picture("64 px")]
    with torch.no_grad():
        expected = F.normalize(theirs(torch.stack([transform(image) for image in images])), dim=-1)
    assert furthest(scorer.backbones["timm"].encode_images(images), expected) <= LIMIT
    # Without the classifier it is the same model; with another depth or a part missing it is none.
    state = theirs.state_dict()
    save_file(state, tmp_path / f"{name}.safetensors")
    again = load_scorer(custom(image=name), [tmp_path])
    assert furthest(again.backbones["timm"].encode_images(images), expected) <= LIMIT
    lost = next(key for key, value in state.items() if value.ndim > 1)
    save_file({key: value for key, value in state.items() if key != lost}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match="does not hold timm"):
        load_scorer(custom(image=name), [tmp_path])
    save_file(
        timm.create_model("vit_tiny_patch16_384", pretrained=False).state_dict()
        | {"blocks.12.norm1.weight": torch.ones(192)}
        if "tiny" in name
        else {"a.weight": torch.ones(3, 3)},
        tmp_path / f"{name}.safetensors",
    )
    with pytest.raises(ValueError, match="does not hold timm"):
        load_scorer(custom(image=name), [tmp_path])


def test_open_clips_names_with_open_clips_own_preparation(tmp_path: Path):
    import open_clip

    with Unset():
        theirs = randomise(open_clip.create_model("ViT-B-32-quickgelu", pretrained=None), 6)
    state = {key: value.half() for key, value in theirs.state_dict().items()}  # as OpenAI publishes them
    theirs.load_state_dict(state)
    save_file(state, tmp_path / "ViT-B-32-quickgelu_openai.safetensors")
    mine = load_scorer(custom("ViT-B-32/openai"), [tmp_path]).backbones["clip"]
    assert mine.identity == "CLIP ViT-B/32 (open_clip names)"
    prepare = open_clip.image_transform(224, is_train=False, mean=mine.preprocess.mean, std=mine.preprocess.std)
    images, texts = [picture("wide"), picture("odd")], list(TEXTS[:2])
    with torch.no_grad():
        pixels = torch.stack([prepare(image) for image in images])
        assert furthest(mine.encode_images(images), F.normalize(theirs.encode_image(pixels), dim=-1)) <= LIMIT
        ids = open_clip.get_tokenizer("ViT-B-32-quickgelu")(texts)
        assert furthest(mine.encode_texts(texts), F.normalize(theirs.encode_text(ids), dim=-1)) <= LIMIT


def test_a_long_text_is_cut_as_open_clip_cuts_it(dreambooth: Scorer):
    """77 tokens with the end token kept; torchmetrics loses it."""
    import open_clip

    text = "a dog in the jungle " * 30
    clip = dreambooth.backbones["clip"]
    ids = open_clip.get_tokenizer("ViT-B-32-quickgelu")([text])
    assert ids.shape == (1, 77)
    assert ids[0, -1] == 49407
    with torch.no_grad():
        expected = F.normalize(clip.module.encode_text(ids), dim=-1)
    assert furthest(clip.encode_texts([text]), expected) <= LIMIT
    assert "text cut" in score(dreambooth, [picture("odd")], texts=[text]).remarks[0]


def test_the_peer_reads_files_as_we_do(tmp_path: Path):
    for path in saved(tmp_path / "all", list(SIZES), 9):
        assert np.array_equal(np.asarray(FilePictures([path])[0]), np.asarray(read_picture(path)))


def test_measures_are_means_of_their_values(bench: Scorer):
    images = [picture(kind) for kind in ("odd", "square")]
    measure = Measure("DINOv2", get_protocol("dreambench++").backbones["dinov2"], "all", 1.0)
    result = score(replace(bench, protocol=Protocol("test", "", (measure,))), images, images)
    features = bench.backbones["dinov2"].encode_images(images).double()
    assert result.rows[0].values == pytest.approx((features @ features.T).mean(dim=1).tolist(), abs=1e-6)
    assert result.value("DINOv2") == pytest.approx((features.mean(0) @ features.mean(0)).item(), abs=1e-6)
    assert (bench.backbones["dinov2"].preprocess.mean, bench.backbones["dinov2"].preprocess.std) == IMAGENET_NORM
