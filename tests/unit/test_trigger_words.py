"""Trigger words of headers and of managers' records, in the forms that the programs write (sources named by each)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from deft_pack.deft_ops import modelspec
from deft_pack.deft_ops.trigger_words import distinct, of_header, records_of, words_of


def kohya(counts: dict[str, dict[str, int]], pictures: dict[str, int]) -> dict[str, str]:
    """The fields of sd-scripts' train_network.py: how often each tag is in the captions, by folder, in lower case.

    Folders of prior pictures are in the counts and not in ss_dataset_dirs.
    """
    folders = {name: {"n_repeats": 10, "img_count": count} for name, count in pictures.items()}
    return {"ss_tag_frequency": json.dumps(counts), "ss_dataset_dirs": json.dumps(folders)}


def ai_toolkit(word: str) -> dict[str, str]:
    """What its update_training_metadata makes of trigger_word."""
    return {"ss_tag_frequency": json.dumps({f"1_{word}": {word: 1}})}


IN_ALL = "the tags that are in all captions"
HEADERS: dict[str, tuple[dict[str, str], tuple[str, ...], str]] = {
    "nothing": ({"modelspec.title": "x"}, (), ""),
    "sd-scripts' --metadata_trigger_phrase": (
        {"modelspec.trigger_phrase": "anime style"},
        ("anime style",),
        "modelspec.trigger_phrase",
    ),
    "a phrase of words": (
        {"modelspec.trigger_phrase": " sks dog,photo,, Photo "},
        ("sks dog", "photo"),
        "modelspec.trigger_phrase",
    ),
    "an empty phrase": ({"modelspec.trigger_phrase": " , "} | ai_toolkit("ohwx"), ("ohwx",), "ss_tag_frequency"),
    "ai-toolkit": (ai_toolkit("p3r5on man"), ("p3r5on man",), "ss_tag_frequency"),
    "a phrase before counts": (
        {"modelspec.trigger_phrase": "sks"} | ai_toolkit("ohwx"),
        ("sks",),
        "modelspec.trigger_phrase",
    ),
    "kohya, without captions: the folder's words": (
        kohya({"10_sks dog": {"sks dog": 5}}, {"10_sks dog": 5}),
        ("sks dog",),
        IN_ALL,
    ),
    "kohya, tags": (kohya({"5_x": {"sks": 4, "dog": 4, "grass": 3}}, {"5_x": 4}), ("sks", "dog"), IN_ALL),
    "kohya, two folders": (
        kohya({"5_x": {"sks": 4, "dog": 4}, "5_y": {"dog": 1, "sks": 2, "cat": 2}}, {"5_x": 4, "5_y": 2}),
        ("sks",),
        IN_ALL,
    ),
    "kohya, prior pictures": (kohya({"5_x": {"sks": 4}, "1_dog": {"dog": 9}}, {"5_x": 4}), ("sks",), IN_ALL),
    "kohya, nothing in all": (kohya({"5_x": {"sks": 3, "dog": 3}}, {"5_x": 4}), (), ""),
    "kohya, a folder that was not counted": (kohya({"5_x": {"sks": 4}}, {"5_x": 4, "5_x (2)": 4}), (), ""),
    "kohya, a description": (kohya({"5_x": {"a long sentence " * 9: 4}}, {"5_x": 4}), (), ""),
    "counts alone": ({"ss_tag_frequency": json.dumps({"img": {"sks": 4, "dog": 4}})}, (), ""),
    "counts of one tag": ({"ss_tag_frequency": json.dumps({"img": {"sks": 4}})}, (), ""),
    "no folder": (kohya({}, {}), (), ""),
    "damaged counts": ({"ss_tag_frequency": "{", "ss_dataset_dirs": "[[" * 99_999}, (), ""),
    "counts of another form": ({"ss_tag_frequency": "[1]", "ss_dataset_dirs": '{"a": 3}'}, (), ""),
    "folders of another form": (
        {"ss_tag_frequency": '{"x": {"sks": "4", "dog": 4}}', "ss_dataset_dirs": '{"x": {"img_count": null}}'},
        (),
        "",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers(name: str) -> None:
    header, words, field = HEADERS[name]
    assert of_header(header) == (words, field)


@pytest.mark.parametrize("captions", [["a photo of sks dog"], ["SKS dog, red", "sks dog, blue", "blue, sks DOG"]])
def test_what_this_pack_writes_is_read(captions: list[str]) -> None:
    fields = modelspec.caption_fields(captions, max(len(captions), 3))
    assert of_header(fields) == ((fields["modelspec.trigger_phrase"],), "modelspec.trigger_phrase")
    fields.pop("modelspec.trigger_phrase")
    assert of_header(fields) == ((), "")  # counts alone, without the number of captions, say nothing


def test_distinct() -> None:
    assert distinct(["a, b", "B", "  c \n d ", None, 3, "<lora:name:0.8> e", "f,<lyco:x:1>"]) == (
        "a",
        "b",
        "c d",
        "e",
        "f",
    )
    assert distinct(["(a, b:1.2), c", "(d, b:1.2)", "c"]) == ("(a, b:1.2), c", "(d, b:1.2)", "c")  # brackets stay
    assert distinct([]) == distinct(["", " ,, "]) == ()


# The record's ending and what is in it. LoRA Manager: py/utils/models.py, its words are those of Civitai's answer or of
# no source; Civitai Helper writes the answer itself; Stability Matrix: ConnectedModelInfo; web UI: "activation text".
RECORDS: dict[str, tuple[str, Any]] = {
    "LoRA Manager": (".metadata.json", {"file_name": "a", "civitai": {"id": 1, "trainedWords": ["sks", "dog, red"]}}),
    "LoRA Manager, of no source": (".metadata.json", {"civitai": {}, "trainedWords": ["sks", "dog", "red"]}),
    "LoRA Manager, null": (".metadata.json", {"civitai": None, "trainedWords": ["sks, dog, red"]}),
    "Civitai Helper": (".civitai.info", {"id": 1, "trainedWords": ["sks, dog, red,"]}),
    "Stability Matrix": (".cm-info.json", {"ModelId": 1, "TrainedWords": ["sks", "dog", "red"]}),
    "web UI": (".json", {"description": "", "sd version": "SDXL", "activation text": "<lora:a:1> sks, dog, red"}),
}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A file whose own header says something else."""
    path = tmp_path / "a.b.safetensors"
    save_file({"x.deft_Q": torch.ones(4, 2)}, path, {"modelspec.trigger_phrase": "of the header"})
    return path


@pytest.mark.parametrize("name", RECORDS)
def test_records_go_before_the_header(adapter: Path, name: str) -> None:
    ending, content = RECORDS[name]
    record = adapter.with_name(f"a.b{ending}")
    assert records_of(adapter) == []
    record.write_text(json.dumps(content), encoding="utf-8-sig" if name == "web UI" else "utf-8")
    assert words_of(adapter) == (("sks", "dog", "red"), record.name, ())
    assert records_of(adapter) == [record]


EMPTY: dict[str, Any] = {
    "no words": {"civitai": {"trainedWords": []}, "trainedWords": None},
    "numbers": {"civitai": {"trainedWords": [1, {"a": 2}]}},
    "another form": {"civitai": [], "trainedWords": {"sks": 1}},
}
DAMAGED: dict[str, tuple[str, str]] = {
    "cut off": ('{"civitai": ', "is not valid JSON"),
    "a list": ("[]", "must hold a JSON object"),
    "too deep": ('{"a":' + "[" * 99_999, "is not valid JSON"),
    "a number without end": ('{"a": ' + "9" * 9999 + "}", "is not valid JSON"),
    "too large": (" " * (8 * 1024 * 1024 + 1), "it is larger than 8 MB"),
}


@pytest.mark.parametrize("name", EMPTY)
def test_a_record_without_words(adapter: Path, name: str) -> None:
    adapter.with_name("a.b.metadata.json").write_text(json.dumps(EMPTY[name]))
    assert words_of(adapter) == (("of the header",), "modelspec.trigger_phrase", ())


@pytest.mark.parametrize("name", DAMAGED)
def test_a_record_that_cannot_be_read_is_told(adapter: Path, name: str) -> None:
    text, message = DAMAGED[name]
    adapter.with_name("a.b.metadata.json").write_text(text)
    words, field, (note,) = words_of(adapter)
    assert (words, field) == (("of the header",), "modelspec.trigger_phrase")
    assert note.startswith("a.b.metadata.json was not read for trigger words: ")
    assert message in note


def test_files_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"anything")
    assert words_of(path) == ((), "", ())
    (tmp_path / "a.civitai.info").write_text('{"trainedWords": ["sks"]}')
    assert words_of(path) == (("sks",), "a.civitai.info", ())
    (tmp_path / "b.safetensors").write_bytes(b"anything")
    with pytest.raises(ValueError, match=r"b\.safetensors is not a readable safetensors file"):
        words_of(tmp_path / "b.safetensors")
