"""The words that an adapter file is called with in prompts: from the records of LoRA managers, or its own header."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .files import safe
from .modelspec import LONGEST_TRIGGER

# What managers write beside a file, by what replaces its ending, and where the words are in it. Of each program's own
# source: LoRA Manager, Civitai Helper (the answer of Civitai), Stability Matrix, Automatic1111's web UI.
_RECORDS: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    (".metadata.json", (("civitai", "trainedWords"), ("trainedWords",))),
    (".civitai.info", (("trainedWords",),)),
    (".cm-info.json", (("TrainedWords",),)),
    (".json", (("activation text",),)),
)
_LARGEST = 8 * 1024 * 1024  # bytes of a record; they hold the prompts of all example pictures
_OTHER_SYNTAX = re.compile(r"<(?:lora|lyco):[^<>]*>")  # it loads the file in the web UI, and is text in ComfyUI


class TriggerWords(NamedTuple):
    """The words in their order, the record or field that they come from ("" for none), and what could not be read."""

    words: tuple[str, ...] = ()
    source: str = ""
    notes: tuple[str, ...] = ()


def words_of(path: Path) -> TriggerWords:
    """The trigger words of an adapter file, of the first that has some: a manager's record, then the file's header.

    A person can correct the record and not the header, so the record goes first. Raises ValueError for a damaged
    safetensors file; a record that cannot be read is a note.
    """
    notes = []
    for record, places in _records(path):
        try:
            words = _of_record(record, places)
        except (ValueError, OSError) as error:
            notes.append(f"{record.name} was not read for trigger words: {error}")
            continue
        if words:
            return TriggerWords(words, record.name, tuple(notes))
    header = safe.read_metadata(path) if path.suffix.lower() == ".safetensors" else {}
    words, field = of_header(header)
    return TriggerWords(words, field, tuple(notes))


def records_of(path: Path) -> list[Path]:
    """The records that lie beside an adapter file, for those who watch them for changes."""
    return [record for record, _ in _records(path)]


def of_header(metadata: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """The words that a header names, and the field that has them.

    modelspec.trigger_phrase; the one tag that ai-toolkit writes ({"1_word": {"word": 1}}); otherwise the tags that are
    in all captions, by the counts of kohya's scripts, if they are no more than a phrase.
    """
    phrase = distinct([metadata.get("modelspec.trigger_phrase", "")])
    if phrase:
        return phrase, "modelspec.trigger_phrase"
    counts = _objects(metadata.get("ss_tag_frequency", ""))
    folders = _objects(metadata.get("ss_dataset_dirs", ""))
    if len(counts) == 1 and not folders:
        ((name, tags),) = counts.items()
        if len(tags) == 1 and [f"1_{tag}" for tag in tags] == [name]:
            return distinct(tags), "ss_tag_frequency"
    shared = distinct(_in_all_captions(counts, folders))
    if shared and len(", ".join(shared)) <= LONGEST_TRIGGER:
        return shared, "the tags that are in all captions"
    return (), ""


def distinct(texts: Iterable[Any]) -> tuple[str, ...]:
    """The words of texts, each once whatever its case. What is between commas is a word; brackets stay whole."""
    words: dict[str, str] = {}
    for text in texts:
        if not isinstance(text, str):
            continue
        text = _OTHER_SYNTAX.sub("", text)
        for part in [text] if re.search(r"[()\[\]{}]", text) else text.split(","):
            word = " ".join(part.split()).strip(", ")
            if word:
                words.setdefault(word.casefold(), word)
    return tuple(words.values())


def _records(path: Path) -> Iterator[tuple[Path, tuple[tuple[str, ...], ...]]]:
    for ending, places in _RECORDS:
        record = path.with_name(f"{path.stem}{ending}")
        if record.is_file():
            yield record, places


def _of_record(record: Path, places: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    if record.stat().st_size > _LARGEST:
        raise ValueError(f"it is larger than {_LARGEST // 1024**2} MB")
    content = safe.read_json(record)
    for place in places:
        value: Any = content
        for key in place:
            value = value.get(key) if isinstance(value, dict) else None
        words = distinct(value if isinstance(value, list) else [value])
        if words:
            return words
    return ()


def _objects(text: str) -> dict[str, dict[str, Any]]:
    """The objects by name in a field of JSON; none in a field that is something else."""
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    inner = value if isinstance(value, dict) else {}
    return {name: tags for name, tags in inner.items() if isinstance(tags, dict)}


def _in_all_captions(counts: Mapping[str, Mapping[str, Any]], folders: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The tags that each picture has of all folders but those of prior pictures, as modelspec.caption_fields has it."""
    if not folders or not folders.keys() <= counts.keys():
        return []
    names = list(folders)
    return [tag for tag in counts[names[0]] if all(_everywhere(counts[name].get(tag), folders[name]) for name in names)]


def _everywhere(count: Any, folder: Mapping[str, Any]) -> bool:
    pictures = folder.get("img_count")
    return isinstance(count, int) and isinstance(pictures, int) and 0 < pictures <= count
