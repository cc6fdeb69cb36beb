"""The scorer, the store of features, verification and download."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from deft_pack.scoring import scorer as scoring
from deft_pack.scoring.backbones import BackboneSpec, HubFile, load_backbone
from deft_pack.scoring.backbones.unset import Unset
from deft_pack.scoring.download import download
from deft_pack.scoring.embeddings import FeatureStore, embed_images, embed_texts
from deft_pack.scoring.metrics import METRICS, Metric, OfPictures, likeness
from deft_pack.scoring.pictures import FilePictures, digest
from deft_pack.scoring.protocols import PROTOCOLS, Measure, Protocol, get_protocol
from deft_pack.scoring.scorer import DIVERSITY, DRIFT, Labels, Scorer, load_scorer, score
from deft_pack.scoring.scores import Scores
from deft_pack.scoring.verify import load_file as load_for_check
from deft_pack.scoring.verify import verify

from ..hub import Hub

ROOT = Path(__file__).resolve().parent.parent.parent
MODELS, SUBJECTS = ROOT / "demo" / "models", ROOT / "demo" / "subjects"


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((64, 64)) for _ in range(count)]


@pytest.fixture
def scorer() -> Scorer:
    """The demo's scorers with a store of their own."""
    return replace(load_scorer("demo", [MODELS]), store=FeatureStore())


def drift(scorer: Scorer, images: list, base: list, references: Sequence[Image.Image] = (), *rest) -> Scores:
    """What Score Drift measures."""
    return score(scorer, images, references, *rest, base=base, task=DRIFT)


def protocols_with(role: str) -> str:
    """The protocols with a comparison of a role, as a message names them."""
    names = [name for name, it in PROTOCOLS.items() if any(measure.comparison.role == role for measure in it.measures)]
    assert {"dreambooth", "demo"} <= set(names) < set(PROTOCOLS)
    return f"{', '.join(names)} or custom"


def diversity(scorer: Scorer, images: list, texts: Sequence[str] = ()) -> Scores:
    """What Score Diversity measures."""
    return score(scorer, images, texts=texts, task=DIVERSITY)


@pytest.fixture
def forwards(scorer: Scorer, monkeypatch) -> dict[str, int]:
    """How many pictures and texts have gone through each backbone."""
    counts: dict[str, int] = {}
    for kind, backbone in scorer.backbones.items():
        for name in ("encode_pixels", "encode_texts"):
            original = getattr(backbone, name)

            def counted(items, *rest, key=f"{kind} {name}", call=original):
                counts[key] = counts.get(key, 0) + len(items)
                return call(items, *rest)

            monkeypatch.setattr(backbone, name, counted)
    return counts


def test_scores_follow_from_the_features(scorer: Scorer):
    images, references, texts = pictures(3), pictures(5, seed=1), ["a dog"] * 3
    result = score(scorer, images, references, texts, Labels("DEFT r4", "dog", "deft", 4, {"seeds": [7]}))
    assert [row.metric for row in result.rows] == ["CLIP-I", "CLIP-T", "DINO"]
    clip, dino = (scorer.backbones[kind] for kind in ("clip", "dino"))
    cosines = dino.encode_images(images) @ dino.encode_images(references).T
    assert result.rows[2].values == pytest.approx(cosines.mean(1).tolist(), abs=1e-6)
    assert result.value("CLIP-T") == pytest.approx(
        (clip.encode_images(images) @ clip.encode_texts(["a dog"])[0]).mean().item(), abs=1e-6
    )
    assert math.isnan(result.value("DINOv2"))
    row = result.rows[0]
    assert (row.images, row.references, row.pairing, row.scale, row.protocol) == (3, 5, "all", 1.0, "demo")
    assert (row.label, row.subject, row.method, row.rank) == ("DEFT r4", "dog", "deft", 4)
    assert row.texts == ("a dog",) * 3
    assert row.pictures == tuple(digest(picture) for picture in images)
    weights = MODELS / "deft_demo_clip.safetensors"
    assert row.provenance["weights"] == weights.name
    assert row.provenance["seeds"] == [7]
    assert row.provenance["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert row.provenance["versions"]["torch"] == torch.__version__.split("+")[0]
    assert "demo DINO (64 px), all pairs, scale 1, resize 64 bicubic" in result.report()


def test_own_merges_make_the_vocabulary(tmp_path):
    from deft_pack.scoring.backbones.clip import build_tokenizer

    (tmp_path / "merges.txt").write_text("#version: 0.2\nd o\ndo g</w>\n")
    settings = replace(get_protocol("dreambooth").backbones["clip"].settings, merges=tmp_path / "merges.txt")
    tokenizer = build_tokenizer(settings, 12)
    assert tokenizer.vocab_size == 516  # 512 bytes, 2 merges, start and end
    assert tokenizer.encode("dog") == [513]
    assert tokenizer(["dog"])[0, :4].tolist() == [514, 513, 515, 0]
    # The mark that Windows' editors write first is no text, and an empty line behind it none of the merges.
    settings.merges.write_bytes(b"\xef\xbb\xbf\n" + settings.merges.read_bytes())
    assert build_tokenizer(settings, 12).encoder == tokenizer.encoder


def only(scorer: Scorer, *measures: Measure, **changes) -> Scorer:
    return replace(scorer, protocol=Protocol("test", "", measures, **changes))


def test_matched_pairs_scale_and_floor(scorer: Scorer):
    dino, clip = (get_protocol("demo").backbones[kind] for kind in ("dino", "clip"))
    images, one = pictures(3), pictures(1, seed=1)
    matched = only(scorer, Measure("DINO", dino, "matched", 100.0))
    assert score(matched, images, images).rows[0].values == pytest.approx([100.0] * 3, abs=1e-4)
    assert score(matched, images, one).value("DINO") == pytest.approx(
        100 * score(scorer, images, one).value("DINO"), abs=1e-4
    )
    with pytest.raises(ValueError, match="3 images and 2 references"):
        score(matched, images, pictures(2))
    texts = ["a dog", "a red background", "a cat"]
    plain = score(scorer, images, texts=texts).rows[0].values
    middle = sorted(plain)[1]
    cut = score(only(scorer, Measure("CLIP-T", clip, "text", 2.5, floor=middle)), images, texts=texts).rows[0].values
    assert cut == pytest.approx([2.5 * max(value, middle) for value in plain], abs=1e-6)
    assert max(plain) > min(plain)


def test_texts_are_one_for_all_or_one_each(scorer: Scorer):
    images = pictures(3)
    each = score(scorer, images, texts=["a dog", "a cat", "a dog"]).rows[0]
    assert (each.references, each.texts) == (2, ("a dog", "a cat", "a dog"))
    one = score(scorer, images, texts=["a dog"]).rows[0]
    assert (one.references, one.texts) == (1, ("a dog",))
    assert one.values[::2] == each.values[::2]
    with pytest.raises(ValueError, match="2 texts for 3 images; give one text for all"):
        score(scorer, images, texts=["a dog", "a cat"])


def test_nothing_to_score_is_said(scorer: Scorer):
    with pytest.raises(ValueError, match="nothing to score against"):
        score(scorer, pictures(1))
    with pytest.raises(ValueError, match="no pictures to score"):
        score(scorer, [], pictures(1))
    image_only = only(scorer, Measure("CLIP-I", get_protocol("demo").backbones["clip"], "all"))
    with pytest.raises(ValueError, match="measures nothing of what is connected"):
        score(image_only, pictures(1), texts=["a dog"])


def test_a_picture_of_one_colour_and_a_long_text_are_remarked(scorer: Scorer):
    images = [*pictures(1), Image.new("RGB", (64, 64)), *pictures(1, 2)]
    long = "a teddy bear " * 8
    result = score(scorer, images, pictures(1, 3), [long, "a cat", long])
    assert [remark.split(";")[0] for remark in result.remarks] == [
        "images: picture 1 has one colour only (a failed sampling, or a picture that was blocked?)",
        f"text cut: demo CLIP (64 px) reads 16 tokens, this has 26: {long[:60]}...",
    ]
    assert result.report().endswith(result.remarks[-1])
    strict = only(scorer, Measure("CLIP-T", get_protocol("demo").backbones["clip"], "text"), truncate=False)
    with pytest.raises(ValueError, match="reads 16 tokens, this text has 26; shorten it"):
        score(strict, images, texts=[long] * 3)


def test_drift_and_prior_preservation(scorer: Scorer):
    images, base, references = pictures(4), pictures(4, 1), pictures(3, 2)
    result = drift(scorer, images, base, references, ["a", "b", "c", "d"], Labels("DEFT"))
    dino = scorer.backbones["dino"]
    ours = dino.encode_images(images)
    assert result.value("drift") == pytest.approx(
        (1 - (ours * dino.encode_images(base)).sum(1).mean().item()) / 2, abs=1e-6
    )
    assert result.value("PRES") == pytest.approx((ours @ dino.encode_images(references).T).mean().item(), abs=1e-6)
    assert [(row.pairing, row.references, row.label) for row in result.rows] == [
        ("base", 4, "DEFT"),
        ("prior", 3, "DEFT"),
    ]
    assert "(4 images, 4 pictures of the base; demo" in result.report()
    assert "(4 images, 3 references; demo" in result.report()
    assert drift(scorer, images, images).value("drift") == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="there are 4 and 3; sample both"):
        drift(scorer, images, base[:3])
    with pytest.raises(ValueError, match="nothing to compare with"):
        drift(scorer, images, [])
    other = replace(scorer, protocol=get_protocol("clip-image"))
    for given, role in (((images, base), "base"), ((images, [], references), "prior")):
        text = f"the protocol clip-image measures nothing of what is connected; choose {protocols_with(role)}."
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            drift(other, *given)


def test_a_metric_may_compare_pictures_with_any_role(scorer: Scorer, monkeypatch):
    """LPIPS does so within a prompt: here the mean difference of brightness to the references, from no features."""

    def darker(backbone, images, others):
        return torch.tensor([np.mean(other) - np.mean(image) for image, other in zip(images, others, strict=True)])

    monkeypatch.setitem(
        METRICS,
        "darker",
        Metric(
            "darker",
            "lower",
            "how much darker than the reference",
            (
                OfPictures(
                    pairing="beside", role="references", check=likeness.check_matched, by_place=True, formula=darker
                ),
            ),
        ),
    )
    images, references = pictures(3), pictures(3, seed=1)
    own = only(scorer, Measure("darker", get_protocol("demo").backbones["dino"], "beside", 2.0))
    result = score(own, images, references)
    assert result.rows[0].values == pytest.approx(
        [2 * (np.mean(other) - np.mean(image)) for image, other in zip(images, references, strict=True)]
    )
    assert result.rows[0].preprocessing == "as they are"
    assert result.rows[0].references == 3
    assert own.encoders(own.protocol.measures) == {}
    assert scorer.store.size == 0
    with pytest.raises(ValueError, match="3 images and 2 references"):
        score(own, images, references[:2])


def test_diversity_compares_the_pictures_of_each_prompt(scorer: Scorer):
    images, texts = pictures(5), ["a", "b", "a", "a", "c"]
    result = diversity(scorer, images, texts)
    features = scorer.backbones["dino"].encode_images(images)
    expected = [1 - float(features[i] @ features[j]) for i, j in ((0, 2), (0, 3), (2, 3))]
    assert result.rows[0].values == pytest.approx(expected, abs=1e-6)
    assert result.rows[0].texts == ("a",) * 3
    assert len(diversity(scorer, images).rows[0].values) == 10
    with pytest.raises(ValueError, match="no prompt has two"):
        diversity(scorer, images[:2], ["a", "b"])
    text = f"the protocol peft has no diversity; choose {protocols_with('within')}."
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        diversity(replace(scorer, protocol=get_protocol("peft")), images)


def test_every_picture_reference_and_text_is_computed_once(scorer: Scorer, forwards):
    images = pictures(3)
    first = score(scorer, [*images, *images], [*pictures(2, 1), images[0]], ["a", "b", "a"] * 2)
    assert forwards == {"clip encode_pixels": 5, "dino encode_pixels": 5, "clip encode_texts": 2}
    again = score(scorer, [*images, *images], [*pictures(2, 1), images[0]], ["a", "b", "a"] * 2)
    assert sum(forwards.values()) == 12
    assert again == first
    score(scorer, [image.copy() for image in images], texts=["c"] * 3)
    assert forwards["clip encode_pixels"] == 5
    assert forwards["clip encode_texts"] == 3


def test_batches_do_not_change_features_and_order_is_kept(scorer: Scorer):
    images = pictures(9)
    dino = {"dino": scorer.backbones["dino"]}
    expected = torch.cat([scorer.backbones["dino"].encode_images([image]) for image in images])
    for batch in (1, 4, 16):
        embedded = embed_images(dino, images, store=FeatureStore(), batch=batch)
        torch.testing.assert_close(embedded.features["dino"], expected, atol=1e-6, rtol=0)


def short_of_memory(backbone, monkeypatch, most: int, error: BaseException, room: int = 0) -> list[str]:
    """Give an encoder memory for `most` pictures at once, and `room` more after room was made; what it is asked for."""
    asked: list[str] = []
    original = backbone._encode_image

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        asked.append(str(len(pixels)))
        if len(pixels) > most + room * asked.count("room"):
            raise error
        return original(pixels)

    monkeypatch.setattr(backbone, "_encode_image", encode)
    monkeypatch.setattr(backbone, "make_room", lambda: asked.append("room"))
    monkeypatch.setattr(backbone, "before_use", lambda: asked.append("load"))
    return asked


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("MPS backend out of memory")]
)
def test_where_memory_runs_out_batches_are_halved_and_it_is_said(scorer: Scorer, monkeypatch, caplog, error):
    images, references = pictures(9), pictures(3, seed=1)
    dino = scorer.backbones["dino"]
    expected = score(replace(scorer, store=FeatureStore()), images, references)
    dino.batch = 8
    asked = short_of_memory(dino, monkeypatch, 3, error)
    scores = score(scorer, images, references)
    for row, other in zip(scores.rows, expected.rows, strict=True):
        assert row.values == pytest.approx(other.values, abs=1e-6)
    calls = [call for call in asked if call != "load"]
    # Room is made first; later batches start with what the memory was enough for.
    assert calls[:7] == ["8", "room", "8", "room", "4", "room", "2"]
    assert set(calls[7:]) == {"2", "1"}
    assert sum(int(call) for call in calls[6:]) == len(images) + len(references)
    assert asked.count("load") == len(calls) - calls.count("room"), "ComfyUI may have taken it away to make room"
    (remark,) = [remark for remark in scores.remarks if "memory" in remark]
    assert remark.startswith("demo DINO (64 px): there was memory for only 2 of the images at once")
    assert caplog.text.count("the memory is not enough for a batch of") == 2


def test_room_that_is_made_leaves_the_batch_as_it_is(scorer: Scorer, monkeypatch):
    images, dino = pictures(8), scorer.backbones["dino"]
    expected = dino.encode_images(images, batch=8)
    asked = short_of_memory(dino, monkeypatch, 3, torch.OutOfMemoryError("out of memory"), room=5)
    assert torch.equal(dino.encode_images(images, batch=8), expected)
    assert asked == ["load", "8", "room", "load", "8"]


def test_no_memory_for_a_single_picture_and_other_errors_are_raised(scorer: Scorer, monkeypatch):
    dino = scorer.backbones["dino"]
    asked = short_of_memory(dino, monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(torch.OutOfMemoryError):
        dino.encode_images(pictures(2))
    assert [call for call in asked if call != "load"] == ["2", "room", "2", "room", "1"]
    monkeypatch.undo()
    asked = short_of_memory(dino, monkeypatch, 0, RuntimeError("mat1 and mat2 must have the same dtype"))
    with pytest.raises(RuntimeError, match="same dtype"):
        dino.encode_images(pictures(2))
    assert "room" not in asked


def test_a_full_store_forgets_the_least_used_and_stays_right(scorer: Scorer, forwards):
    images, dino = pictures(20), {"dino": scorer.backbones["dino"]}
    store = FeatureStore(limit=2 * 192 * 4)  # two features
    features = embed_images(dino, [*images, *images], store=store, batch=2).features["dino"]
    torch.testing.assert_close(features[:20], features[20:], atol=1e-6, rtol=0)
    assert store.size == 2 * 192 * 4
    assert 20 < forwards["dino encode_pixels"] <= 40
    store.clear()
    assert store.size == 0
    assert store.get(scorer.backbones["dino"], digest(images[0])) is None


def test_the_room_of_what_is_forgotten_is_used_again(scorer: Scorer, monkeypatch):
    from deft_pack.scoring import embeddings

    monkeypatch.setattr(embeddings, "BLOCK", 4)
    dino, store, blocks = scorer.backbones["dino"], FeatureStore(limit=2 * 192 * 4), []
    for index in range(20):
        store.put(dino, str(index), torch.full((192,), float(index)))
        blocks += [block for block, _ in store._places.values() if not any(block is other for other in blocks)]
        assert store.get(dino, str(index))[0] == index
    assert len(blocks) == 1
    assert store.get(dino, "17") is None
    assert store.get(dino, "18")[0] == 18


class Counted(list):
    """Pictures that are made when they are asked for, and counted while they live."""

    alive = most = 0
    lock = threading.Lock()

    def __getitem__(self, index):
        picture = pictures(1, index)[0]
        with Counted.lock:
            Counted.alive += 1
            Counted.most = max(Counted.most, Counted.alive)
        weakref.finalize(picture, Counted.gone)
        return picture

    @staticmethod
    def gone() -> None:
        with Counted.lock:
            Counted.alive -= 1


def test_only_a_few_pictures_are_in_memory_and_a_cancellation_ends_the_reading(scorer: Scorer):
    Counted.alive = Counted.most = 0
    dino = {"dino": scorer.backbones["dino"]}
    embedded = embed_images(dino, Counted(range(200)), store=FeatureStore(), batch=4)
    assert len(embedded.digests) == len(set(embedded.digests)) == 200
    assert 0 < Counted.most <= 16

    class Cancelled(Exception):
        pass

    def cancel(done: int) -> None:
        if done >= 8:
            raise Cancelled

    seen: list[int] = []

    class Lazy(list):
        def __getitem__(self, index):
            seen.append(index)
            return pictures(1, index)[0]

    with pytest.raises(Cancelled):
        embed_images(dino, Lazy(range(500)), cancel, FeatureStore(), batch=4)
    assert len(seen) < 40


def test_texts_are_batched_and_stored(scorer: Scorer):
    clip, store = scorer.backbones["clip"], FeatureStore()
    texts = [f"a {word} on a {colour} background" for word in ("dog", "cat", "duck") for colour in "abcdefghijklmnop"]
    features = embed_texts(clip, texts, True, store)
    torch.testing.assert_close(features, torch.cat([clip.encode_texts([text]) for text in texts]), atol=1e-6, rtol=0)
    assert torch.equal(embed_texts(clip, texts[::-1], True, store), features.flip(0))


def test_missing_weights_are_an_error_or_left_out(tmp_path):
    with pytest.raises(FileNotFoundError, match="demo CLIP.*deft_demo_clip.safetensors"):
        load_scorer("demo", [tmp_path])
    for name in ("deft_demo_dino.safetensors", "deft_demo_dino.json"):
        (tmp_path / name).write_bytes((MODELS / name).read_bytes())
    partly = load_scorer("demo", [tmp_path], leave_out=True)
    assert list(partly.backbones) == ["dino"]
    result = score(partly, pictures(2), pictures(1, 1), ["a", "b"])
    assert [row.metric for row in result.rows] == ["DINO"]
    assert result.remarks[0].startswith("CLIP-I and CLIP-T skipped: The weights of demo CLIP (64 px) are missing")
    assert diversity(partly, pictures(2)).remarks == ()  # nothing of that is left out
    with pytest.raises(ValueError, match="nothing could be measured. CLIP-T skipped: The weights of demo CLIP"):
        score(partly, pictures(2), texts=["a", "b"])
    with pytest.raises(ValueError, match="no weights to measure with"):
        load_scorer("demo", [tmp_path / "empty"], leave_out=True)


def test_an_optional_metric_needs_no_weights(scorer: Scorer, tmp_path):
    spec = BackboneSpec("LPIPS (AlexNet)", "lpips", ("alexnet.pth",), "1 MB", "nowhere")
    protocol = Protocol("test", "", (*get_protocol("demo").measures, Measure("DIV", spec, "within", optional=True)))
    loaded = load_scorer(protocol, [MODELS])
    result = diversity(loaded, pictures(2))
    assert [row.metric for row in result.rows] == ["diversity"]
    assert result.remarks[0].startswith("DIV skipped: The weights of LPIPS (AlexNet) are missing")


def test_lpips_is_that_of_its_package(tmp_path):
    """Compared with AlexNet in torchvision's format, whose numbering of layers differs from the package's."""
    import lpips
    from torchvision.models import alexnet
    from torchvision.transforms.functional import to_tensor

    network = alexnet(weights=None, num_classes=1).eval()
    # Of the classifier, which LPIPS does not use and which is most of the file, the last layer.
    large = ("classifier.1.", "classifier.4.")
    state = {key: value for key, value in network.state_dict().items() if not key.startswith(large)}
    torch.save(state, tmp_path / "alexnet-owt-7be5be79.pth")
    spec = get_protocol("dreambooth").backbones["lpips"]
    protocol = Protocol("test", "", (Measure("DIV", spec, "within", optional=True),))
    images = pictures(3)
    loaded, calls = load_scorer(protocol, [tmp_path]), []
    loaded.backbones["lpips"].before_use = lambda: calls.append(1)  # where ComfyUI brings it to the GPU
    result = diversity(loaded, images)
    assert len(calls) == 3
    assert loaded.encoders(protocol.measures) == {}
    with Unset():
        theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    for index, layer in enumerate(network.features):  # by place, not by name
        if isinstance(layer, torch.nn.Conv2d):
            own = [part for part in theirs.net.modules() if isinstance(part, torch.nn.Conv2d)]
            place = [i for i, other in enumerate(network.features) if isinstance(other, torch.nn.Conv2d)].index(index)
            own[place].load_state_dict(layer.state_dict())
    with torch.no_grad():
        pixels = [to_tensor(image)[None] * 2 - 1 for image in images]
        expected = [float(theirs(pixels[i], pixels[j])) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert result.rows[0].values == pytest.approx(expected, abs=1e-6)
    assert min(expected) > 0
    assert diversity(loaded, images, ["a", "b", "b"]).rows[0].values == result.rows[0].values[2:]
    assert result.rows[0].preprocessing == "as they are"
    with pytest.raises(ValueError, match="LPIPS compares pictures of one size"):
        diversity(load_scorer(protocol, [tmp_path]), [images[0], Image.new("RGB", (80, 64))])
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "wrong.safetensors")
    with pytest.raises(ValueError, match="does not hold LPIPS .AlexNet.: 9 tensors missing"):
        load_scorer(protocol, [], {"lpips": tmp_path / "wrong.safetensors"})


def test_the_image_encoder_of_a_clip_alone_gives_clip_i(tmp_path):
    state = load_file(MODELS / "deft_demo_clip.safetensors")
    save_file(
        {key: value for key, value in state.items() if key.startswith("visual.")},
        tmp_path / "deft_demo_clip.safetensors",
    )
    settings = json.loads((MODELS / "deft_demo_clip.json").read_text())
    del settings["merges"]
    (tmp_path / "deft_demo_clip.json").write_text(json.dumps(settings))
    half = load_scorer("demo", [tmp_path, MODELS])
    images, references = pictures(2), pictures(2, 1)
    result = score(half, images, references, ["a", "b"])
    assert [row.metric for row in result.rows] == ["CLIP-I", "DINO"]
    assert result.remarks == ("CLIP-T skipped: the file of demo CLIP (64 px) has no text encoder.",)
    whole = score(load_scorer("demo", [MODELS]), images, references)
    assert result.value("CLIP-I") == pytest.approx(whole.value("CLIP-I"), abs=1e-6)


def test_another_encoder_takes_the_place_of_clip_i(scorer: Scorer, tmp_path):
    other = load_backbone(get_protocol("demo").backbones["dino"], [MODELS])
    other.name, other.kind = "another encoder", "clip_vision"
    loaded = load_scorer("demo", [MODELS], encoder=other)
    images, references = pictures(2), pictures(2, 1)
    result = score(loaded, images, references, ["a", "b"])
    assert [(row.metric, row.backbone) for row in result.rows] == [
        ("CLIP-I", "another encoder"),
        ("CLIP-T", "demo CLIP (64 px)"),
        ("DINO", "demo DINO (64 px)"),
    ]
    assert result.rows[0].value == pytest.approx(result.rows[2].value, abs=1e-6)
    for name in ("deft_demo_dino.safetensors", "deft_demo_dino.json"):
        (tmp_path / name).write_bytes((MODELS / name).read_bytes())
    without = score(load_scorer("demo", [tmp_path], encoder=other), images, references, ["a", "b"])
    assert [row.metric for row in without.rows] == ["CLIP-I", "DINO"]
    assert without.remarks[0].startswith("CLIP-T skipped: The weights of demo CLIP")


def test_picture_files_are_scored_as_they_are_opened(scorer: Scorer):
    files = sorted((SUBJECTS / "cat").glob("*.png"))
    opened = [Image.open(file).convert("RGB") for file in files]
    lazy = score(scorer, FilePictures(files), FilePictures(files[:2]))
    assert lazy.rows == score(replace(scorer, store=FeatureStore()), opened, opened[:2]).rows


def test_the_command_line_scores_folders(tmp_path, monkeypatch, capsys):
    from deft_pack.scoring import __main__ as command

    def run(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["scoring", *map(str, arguments)])
        command.main()
        return capsys.readouterr().out

    folder, out = SUBJECTS / "cat", tmp_path / "out.jsonl"
    text = run(
        "score",
        "--protocol",
        "demo",
        "--images",
        folder,
        "--references",
        SUBJECTS / "dog",
        "--texts",
        folder,
        "--weights",
        MODELS,
        "--out",
        out,
    )
    assert [line.split()[0] for line in text.splitlines()] == ["CLIP-I", "CLIP-T", "DINO"]
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert f"{records[2]['value']:.4f}" in text
    assert records[1]["texts"][0] == (folder / "0.txt").read_text().strip()
    with pytest.raises(SystemExit, match="There are no pictures in"):
        run("score", "--images", tmp_path / "none", "--weights", MODELS, "--protocol", "demo")
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / f"{name}.png")
    with pytest.raises(SystemExit, match="compares pictures with equal file names"):
        run(
            "score",
            "--protocol",
            "dreambench++",
            "--images",
            tmp_path / "a",
            "--references",
            tmp_path / "b",
            "--leave-out",
            "--weights",
            zeros(get_protocol("dreambench++").backbones["dinov2"], tmp_path / "dinov2-small.safetensors").parent,
        )


def zeros(spec: BackboneSpec, path: Path) -> Path:
    """A file with the names and shapes of an encoder of full size."""
    from deft_pack.scoring.backbones import dino

    with torch.device("meta"):
        state = dino.build(spec.settings).state_dict()
    save_file({key: torch.zeros(value.shape, dtype=torch.float16) for key, value in state.items()}, path)
    return path


def test_the_demos_numbers_are_those_of_transformers_and_verify(monkeypatch, capsys):
    """The numbers beside the demo's weights were made by transformers' CLIPModel and DINO's own definition."""
    from deft_pack.scoring import __main__ as command

    monkeypatch.setattr(
        "sys.argv", ["scoring", "verify", *(str(MODELS / f"deft_demo_{name}.safetensors") for name in ("clip", "dino"))]
    )
    with pytest.raises(SystemExit) as caught:
        command.main()
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert text.count("gives the expected numbers") == 2
    assert "WRONG" not in text
    assert text.count("right: ") == 3
    assert "SHA-256 718dfc" in text


def test_verification_fails_for_other_weights(tmp_path):
    for name in ("deft_demo_clip.json", "tokenizer/merges.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((MODELS / name).read_bytes())
    state = load_file(MODELS / "deft_demo_clip.safetensors")
    state["visual.proj"] = state["visual.proj"] * torch.linspace(0.9, 1.1, state["visual.proj"].shape[1])
    save_file(state, tmp_path / "deft_demo_clip.safetensors")
    verification = verify(load_for_check(tmp_path / "deft_demo_clip.safetensors"))
    assert verification.passed is False
    assert "does NOT give the expected numbers" in verification.report()
    assert [result.passed for result in verification.results] == [False, True, None]  # pixels, text, soundness


def test_a_file_of_another_model_is_said_to_be_what_it_looks_like(tmp_path):
    zeros(get_protocol("dreambooth").backbones["dinov2"], tmp_path / "dino_vits16.safetensors")
    with pytest.raises(ValueError, match="does not hold DINO ViT-S/16.*It looks like DINOv2 ViT-S/14"):
        load_backbone(get_protocol("dreambooth").backbones["dino"], [tmp_path])


SPEC = BackboneSpec(
    "a model",
    "dino",
    ("model.pth", "model.safetensors"),
    "3 MB",
    "owner/model by hand",
    hub=(HubFile("owner/model", "model.safetensors"),),
)


def test_a_download_is_checked_and_put_where_it_is_looked_for(hub: Hub, tmp_path):
    seen: list[tuple[int, int]] = []
    path = asyncio.run(download(SPEC, tmp_path / "new", lambda done, total: seen.append((done, total))))
    assert path == tmp_path / "new" / "model.safetensors"
    assert path.read_bytes() == hub.content
    assert hub.asked == ["/owner/model/resolve/main/model.safetensors"]
    assert seen[-1] == (len(hub.content), len(hub.content))
    assert len(seen) > 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_belongs_beside_weights_is_fetched_with_them(hub: Hub, tmp_path):
    spec = replace(SPEC, beside=(HubFile("owner/words", "tokenizer.json"),))
    tokenizer = tmp_path / "model.tokenizer.json"
    for asked in (["/owner/words/resolve/main/tokenizer.json", "/owner/model/resolve/main/model.safetensors"], []):
        hub.asked.clear()
        assert asyncio.run(download(spec, tmp_path, lambda done, total: None)) == tmp_path / "model.safetensors"
        assert hub.asked == asked
        assert tokenizer.read_bytes() == hub.content
    tokenizer.unlink()
    asyncio.run(download(spec, tmp_path, lambda done, total: None))
    assert hub.asked == ["/owner/words/resolve/main/tokenizer.json"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"promised": "0" * 64}, "is not the expected file"),
        ({"promised": "short"}, "has no checksum"),
        ({"sent": 1_000_000}, "could not be downloaded"),
    ],
)
def test_a_bad_download_leaves_nothing(hub: Hub, tmp_path, change, words: str):
    for name, value in change.items():
        setattr(hub, name, value)
    with pytest.raises((ValueError, OSError), match=words):
        asyncio.run(download(SPEC, tmp_path, lambda done, total: None))
    assert list(tmp_path.iterdir()) == []


def test_a_cancelled_download_and_a_server_that_is_away(hub: Hub, tmp_path, monkeypatch):
    class Cancelled(BaseException):
        pass

    def cancel(done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        asyncio.run(download(SPEC, tmp_path, cancel))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="weights of a model could not be downloaded from http://127.0.0.1:9/owner/model"):
        asyncio.run(download(SPEC, tmp_path, lambda done, total: None))
    with pytest.raises(ValueError, match="There is no download for a model: get owner/model by hand"):
        asyncio.run(download(replace(SPEC, hub=()), tmp_path, lambda done, total: None))
    assert list(tmp_path.iterdir()) == []


def test_versions_are_those_of_the_packages():
    import timm

    assert scoring.versions()["timm"] == timm.__version__
