"""Scorer, records, tables."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from deft_pack.scoring import tables
from deft_pack.scoring.backbones import load_backbone
from deft_pack.scoring.protocols import get_protocol
from deft_pack.scoring.scorer import Scorer, load_scorer, score
from deft_pack.scoring.scores import Cost, Score, Scores, join


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((64, 64)) for _ in range(count)]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory) -> Scorer:
    """The demo protocol's two architectures, small, with random weights, from files as the pack reads them."""
    from open_clip.model import CLIP
    from timm.models.vision_transformer import VisionTransformer

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    settings = {"resize": 64, "crop": 64, "mean": [0.5] * 3, "std": [0.25] * 3}
    clip = {"embed_dim": 32, "vision_cfg": {"image_size": 64, "patch_size": 16, "layers": 1, "width": 64},
            "text_cfg": {"context_length": 12, "vocab_size": 516, "width": 64, "heads": 2, "layers": 1}}
    dino = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 1, "num_heads": 3, "num_classes": 0}
    (folder / "merges.txt").write_text("#version: 0.2\nd o\ndo g</w>\n")
    for name, module, own in (("clip", CLIP(**clip), {"open_clip": clip, "merges": "merges.txt"}),
                              ("dino", VisionTransformer(**dino), {"timm": dino})):
        save_file(module.state_dict(), folder / f"deft_demo_{name}.safetensors")
        (folder / f"deft_demo_{name}.json").write_text(json.dumps(own | {"preprocess": settings}))
    return load_scorer("demo", [folder])


def test_own_merges_make_the_vocabulary(scorer: Scorer):
    tokenizer = scorer.backbones["clip"].tokenizer
    assert tokenizer.vocab_size == 516  # 512 bytes, 2 merges, start and end
    assert tokenizer.encode("dog") == [513]
    assert tokenizer(["dog"])[0, :4].tolist() == [514, 513, 515, 0]


def test_scores_follow_from_the_features(scorer: Scorer):
    images, references, text = pictures(3), pictures(5, seed=1), "a dog"
    result = score(scorer, images, references, text, label="DEFT r4", subject="dog")
    assert [row.metric for row in result.rows] == ["CLIP-I", "CLIP-T", "DINO"]
    dino = scorer.backbones["dino"]
    cosines = dino.encode_images(images) @ dino.encode_images(references).T
    assert result.value("DINO") == pytest.approx(cosines.mean().item(), abs=1e-6)
    assert result.rows[2].values == pytest.approx(cosines.mean(1).tolist(), abs=1e-6)
    clip = scorer.backbones["clip"]
    assert result.value("CLIP-T") == pytest.approx(
        (clip.encode_images(images) @ clip.encode_texts([text])[0]).mean().item(), abs=1e-6)
    assert math.isnan(result.value("DINOv2"))
    row = result.rows[0]
    assert (row.images, row.references, row.pairing, row.scale, row.protocol) == (3, 5, "all", 1.0, "demo")
    assert row.label == "DEFT r4" and row.subject == "dog" and row.text == "" and result.rows[1].text == text
    assert "demo DINO (64 px), all pairs, scale 1, resize 64 bicubic" in result.report()


def test_matched_protocol_scales_by_100(scorer: Scorer):
    bench = replace(get_protocol("dreambench++"), clip=None, dinov2=None)
    matched = Scorer(bench, {"dino": scorer.backbones["dino"]})
    images, one = pictures(3), pictures(1, seed=1)
    assert score(matched, images, images).rows[0].values == pytest.approx([100.0] * 3, abs=1e-4)
    assert score(matched, images, one).value("DINO") == pytest.approx(
        100 * score(scorer, images, one).value("DINO"), abs=1e-4)
    with pytest.raises(ValueError, match="3 images and 2 references"):
        score(matched, images, pictures(2))


def test_texts_one_or_one_each(scorer: Scorer):
    images = pictures(3)
    each = score(scorer, images, [], "a dog\n\na cat \na car\n")
    alone = [score(scorer, [image], [], text).value("CLIP-T")
             for image, text in zip(images, ["a dog", "a cat", "a car"], strict=True)]
    assert each.rows[0].values == pytest.approx(alone, abs=1e-6) and len(each.rows) == 1
    with pytest.raises(ValueError, match="text: 2 lines for 3 images"):
        score(scorer, images, [], "a dog\na cat")
    with pytest.raises(ValueError, match="nothing to score against"):
        score(scorer, images, [], " \n")
    with pytest.raises(ValueError, match="no pictures to score"):
        score(scorer, [], images, "")


def test_missing_demo_weights_say_where_they_come_from(tmp_path):
    with pytest.raises(FileNotFoundError, match="demo CLIP.*deft_demo_clip.safetensors"):
        load_scorer("demo", [tmp_path])
    with pytest.raises(FileNotFoundError, match="other.safetensors"):
        load_backbone(get_protocol("demo").dino, [tmp_path], tmp_path / "other.safetensors")


def row(label: str, metric: str, values: tuple[float, ...], **changes) -> Score:
    base = Score(metric, sum(values) / len(values), values, label, "dog", "", len(values), 5, "dreambooth", "all", 1.0,
                 "DINO ViT-S/16", "resize 256")
    return replace(base, **changes)


@pytest.fixture
def results() -> Scores:
    return join([Scores((row("base", "DINO", (0.2, 0.4)), row("base", "CLIP-T", (0.31, 0.33)))),
                 Scores((row("DEFT|r4", "DINO", (0.7, 0.6)), row("DEFT|r4", "CLIP-T", (0.3,)),
                         row("DEFT|r4", "DINO", (0.8,), subject="cat")))])


def test_table_averages_over_images_and_finds_the_best(results: Scores):
    table = tables.tabulate(results)
    assert table.columns == ("CLIP-T", "DINO") and table.labels == ("base", "DEFT|r4")
    assert table.cells[0] == pytest.approx((0.32, 0.3)) and table.cells[1] == pytest.approx((0.3, 0.7))
    assert table.best == (0, 1) and table.counts == (2, 3)


def test_markdown(results: Scores):
    assert tables.markdown(tables.tabulate(results), "Dog").splitlines()[:6] == [
        "### Dog", "", "| method | images | CLIP-T | DINO |", "|---|---:|---:|---:|",
        "| base | 2 | **0.320** | 0.300 |",
        "| DEFT\\|r4 | 3 | 0.300 | **0.700** |"]


def test_csv_and_jsonl_can_be_read_back(results: Scores):
    rows = list(csv.reader(io.StringIO(tables.csv_text(tables.tabulate(results)))))
    assert rows[0] == ["method", "images", "CLIP-T", "DINO"] and rows[2][0] == "DEFT|r4"
    assert float(rows[2][3]) == pytest.approx(0.7)
    records = [json.loads(line) for line in results.jsonl().splitlines()]
    assert [Score(**{**record, "values": tuple(record["values"])}) for record in records] == list(results.rows)


def test_costs_are_columns_where_they_are_known(results: Scores):
    measured = [Cost("DEFT|r4", 10.0, 1000, 2**20), Cost("DEFT|r4", None, 3000, 3 * 2**20)]
    table = tables.tabulate(replace(results, costs=tuple(measured)))
    assert table.costs == ((None, None, None), (10.0, 2000.0, 2.0))  # means of what is known
    lines = tables.markdown(table).splitlines()
    assert lines[0] == "| method | images | CLIP-T | DINO | training s | values | MiB |"
    assert lines[1].count("---:|") == 6
    assert lines[2].endswith("| 0.300 |  |  |  |") and lines[3].endswith("| **0.700** | 10 | 2,000 | 2.000 |")
    rows = list(csv.reader(io.StringIO(tables.csv_text(table))))
    assert rows[0][4:] == ["training s", "values", "MiB"] and rows[1][4:] == ["", "", ""]
    assert [float(value) for value in rows[2][4:]] == [10.0, 2000.0, 2.0]
    assert tables.picture(table).shape[1] > tables.picture(tables.tabulate(results)).shape[1]
    joined = join([results, Scores((), tuple(measured))])
    last = [json.loads(line) for line in joined.jsonl().splitlines()][-1]
    assert last == {"label": "DEFT|r4", "training_seconds": None, "values": 3000, "bytes": 3 * 2**20}


def test_missing_cells_and_several_protocols(results: Scores):
    more = join([results, Scores((row("PaRa", "DINO", (71.0,), protocol="dreambench++", scale=100.0),))])
    table = tables.tabulate(more)
    assert table.columns == ("CLIP-T (dreambooth)", "DINO (dreambench++)", "DINO (dreambooth)")
    assert table.cells[2] == (None, 71.0, None) and table.best == (0, None, 1)
    assert "| PaRa | 1 |  | 71.00 |  |" in tables.markdown(table)


def test_scores_of_different_backbones_do_not_share_a_column(results: Scores):
    other = Scores((row("LoRA", "DINO", (0.5,), backbone="DINO ViT-B/8"),))
    with pytest.raises(ValueError, match="DINO of protocol dreambooth was measured in two ways"):
        tables.tabulate(join([results, other]))
    with pytest.raises(ValueError, match="no scores"):
        tables.tabulate(Scores(()))


def test_picture_shows_text_and_grows_with_rows(results: Scores):
    table = tables.tabulate(results)
    drawn = tables.picture(table, "Dog $x^2$")
    assert drawn.dtype == np.uint8 and drawn.ndim == 3 and drawn.shape[2] == 3
    assert (drawn < 128).any() and (drawn[:3] == 255).all()
    tall = tables.picture(tables.tabulate(join([results] + [Scores((row(str(i), "DINO", (0.1,)),)) for i in range(5)])))
    assert tall.shape[0] > drawn.shape[0] and tall.shape[1] == drawn.shape[1]
    changed = replace(table, best=(None, None))
    assert not np.array_equal(tables.picture(changed, "Dog $x^2$"), drawn)  # bold shows
