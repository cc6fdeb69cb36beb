"""Score records: lines of JSON, and merging."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from deft_pack.scoring.scores import Cost, Score, Scores, from_bytes, from_jsonl, join, merge, whole_lines


def row(label: str, values: tuple[float, ...], **changes) -> Score:
    return replace(
        Score(
            "DINO",
            values,
            label,
            "dog",
            len(values),
            5,
            "dreambooth",
            "all",
            1.0,
            "DINO ViT-S/16",
            "resize 256",
            ("a dog",) * len(values),
        ),
        **changes,
    )


def test_lines_are_read_back():
    scores = Scores(
        (
            row(
                "DEFT",
                (0.1, 0.7),
                method="deft",
                rank=4,
                pictures=("1f", "2e"),
                provenance={"seeds": [1, 2], "weights": {"file": "a.safetensors"}},
            ),
            row("PaRa", (1 / 3,), texts=("ein \u00fc|b\n",)),
        ),
        (Cost("DEFT", None, 3000, 3 * 2**20, "deft", 4, "dog"),),
    )
    text = scores.jsonl()
    assert from_jsonl(text) == scores
    assert from_jsonl("\n" + text + "\n") == scores
    records = [json.loads(line) for line in text.splitlines()]
    assert records[0]["value"] == pytest.approx(0.4)
    assert records[2]["training_seconds"] is None
    assert join([scores, scores]).rows == scores.rows * 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Expecting property name"),
        ('{"metric": "DINO"}', "missing"),
        ("5", "not a JSON object"),
        ('["metric"]', "not a JSON object"),
        (Scores((row("DEFT", (0.5,)),)).jsonl().replace("0.5]", "NaN]"), "finite"),
        (Scores((row("DEFT", (0.5,)),)).jsonl().replace("[0.5]", "[]"), "finite"),
        (Scores((row("DEFT", (0.5,)),)).jsonl().replace("[0.5]", '"123"'), "finite"),
        (Scores((row("DEFT", (0.5,)),)).jsonl().replace("[0.5]", '["1"]'), "finite"),
        (
            Scores((row("DEFT", (0.5,)),)).jsonl().replace('"images": 1', '"images": "1"'),
            "images: not of the right kind",
        ),
        (Scores((row("DEFT", (0.5,)),)).jsonl().replace('"DEFT"', '["DEFT"]'), "label.*: not of the right kind"),
        (Scores((row("DEFT", (0.5,)),)).jsonl().replace('"provenance": {}', '"provenance": {"seeds": 1}'), "lists"),
        (
            '{"label": "DEFT", "training_seconds": "1", "values": 1, "bytes": 2}',
            "training_seconds: not of the right kind",
        ),
        ("[" * 100_000, "recursion|nest"),
        (Scores((row("DEFT", (0.5,)),)).jsonl().replace('"DEFT"', '"\\ud800"'), "surrogates"),
    ],
)
def test_a_damaged_line_is_named(line: str, reason: str):
    good = Scores((row("DEFT", (0.1,)),)).jsonl()
    with pytest.raises(ValueError, match=rf"runs.jsonl, line 2, is not a score.*{reason}"):
        from_jsonl(good + line, "runs.jsonl")


def test_the_mark_that_windows_editors_write_first_is_no_damage():
    """A score file that somebody has looked at in one; a damaged line behind it has its own number."""
    data = b"\xef\xbb\xbf" + Scores((row("DEFT", (0.5,)),)).jsonl().encode()
    assert from_bytes(data) == from_bytes(data[3:])
    assert whole_lines(data).problems == ()
    with pytest.raises(ValueError, match="line 2, is not UTF-8"):
        from_bytes(data + b"\xff\n")


def test_measured_costs_are_kept_and_earlier_lines_are_read():
    cost = Cost("DEFT", 9.0, 10, 40, "deft", 4, "", 0.5, 2**30, "GPU")
    assert from_jsonl(Scores((), (cost,)).jsonl()).costs == (cost,)
    earlier = '{"label": "DEFT", "training_seconds": 9.0, "values": 10, "bytes": 40, "method": "deft", "rank": 4}'
    assert from_jsonl(earlier).costs == (Cost("DEFT", 9.0, 10, 40, "deft", 4),)
    with pytest.raises(ValueError, match="peak_bytes: not of the right kind"):
        from_jsonl(earlier.replace("}", ', "peak_bytes": "1"}'))


def test_known_seeds_replace_and_unknown_ones_add():
    seeded = {"provenance": {"seeds": (1, 2)}}
    old = Scores((row("DEFT", (0.1, 0.2), pictures=("a", "b"), **seeded), row("PaRa", (0.3,), pictures=("c",))))
    new = Scores(
        (
            row("PaRa", (0.4,), pictures=("d",)),
            row("PaRa", (0.5,), pictures=("c",)),
            row("DEFT", (0.6, 0.7), pictures=("e", "f"), **seeded),
        )
    )
    merged = merge(old, new)
    assert [(score.label, score.values) for score in merged.rows] == [
        ("DEFT", (0.6, 0.7)),
        ("PaRa", (0.5,)),
        ("PaRa", (0.4,)),
    ]
    assert merge(merged, new) == merged
    assert merge(Scores(()), merged) == merged
    assert merge(from_jsonl(old.jsonl()), new) == merged


@pytest.mark.parametrize(
    "change",
    [
        {"label": "LoRA"},
        {"method": "deft"},
        {"rank": 8},
        {"subject": "cat"},
        {"metric": "CLIP-I"},
        {"protocol": "dreambench++"},
        {"backbone": "DINO ViT-S/8"},
        {"scale": 100.0},
        {"texts": ("a cat",)},
        {"provenance": {"seeds": (2,)}},
    ],
)
def test_other_places_stay_apart(change: dict):
    first = row("DEFT", (0.1,), provenance={"seeds": (1,)})
    assert merge(Scores((first,)), Scores((replace(first, **change),))).rows == (first, replace(first, **change))


def test_costs_of_one_adapter_replace_each_other():
    old, new = Cost("DEFT", 9.0, 10, 40, "deft", 4), Cost("DEFT", 8.0, 10, 40, "deft", 4)
    other = Cost("DEFT", 7.0, 5, 20)
    merged = merge(Scores((), (old,), ("a", "b")), Scores((), (new, other), ("b",)))
    assert merged.costs == (new, other)
    assert merged.remarks == ("a", "b")


def test_other_line_separators_in_a_prompt_and_remarks_survive():
    scores = Scores((row("DEFT", (0.1,), texts=("one\u2028two\x85three",)),), remarks=("text cut: ...",))
    assert from_jsonl(scores.jsonl()) == scores


def test_scores_without_pictures_and_seeds_are_told_apart_by_their_values():
    one, other = (Scores((row("DEFT", (value,)),)) for value in (0.1, 0.2))
    assert merge(one, other).rows == one.rows + other.rows
    assert merge(one, one) == one
