"""What the plan of PEFT's image benchmark needs, out of its photos and its default_training_params.json.

PEFT is huggingface/peft, method_comparison/image-gen, as of August 2026: data.py shuffles the photos by NumPy's legacy
generator with the seed 0, and takes the first of them for training, two for validation, four for the test. Training
pictures are scaled to a square without keeping their shape. Captions and prompts are those of the user's file.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...disk.errors import reason
from ..writing import write

PHOTOS, TESTS, REPEATS = "instance_prompts", "test_size", 3  # it draws each test caption three times
_DRIFT = "drift_image_prompts"
_FOLDER = "peft_benchmark"  # in ComfyUI's input
_COLUMNS = ("name", "kind", "prompt", "photo", "pictures")
# What the plan has; a file with other values is of another version of the benchmark.
PLANNED: dict[str, Any] = {
    "model_id": "black-forest-labs/FLUX.2-klein-base-4B",
    "max_steps": 750,
    "batch_size": 2,
    "resolution": 512,
    "optimizer_type": "AdamW",
    "optimizer_kwargs": {"lr": 0.0001, "weight_decay": 0.0001},
    "grad_norm_clip": 1.0,
    "lr_scheduler": None,
    "weighting_scheme": "none",
    "num_inference_steps": 20,
    "guidance_scale": 3.5,
    "dino_model_id": "facebook/dinov2-base",
}


def prepare(photos: Path, parameters: Path, inputs: Path, prompts: Path) -> list[str]:
    """Write the training pictures with their captions and the photos of the test below `inputs`, and the plan's CSV.

    photos: the folder of the photos, whose names are in the order of the data set. parameters: PEFT's file. inputs:
    ComfyUI's input folder. prompts: the CSV file. Returns lines on which photo has which caption and part, and on
    values of the file that the plan does not have.

    Raises:
        ValueError: a file that is not PEFT's, another number of photos than of captions, a photo that cannot be read.
    """
    from PIL import Image

    from ...scoring.pictures import FilePictures, picture_files

    given = _read(parameters)
    captions, drift = _texts(given, PHOTOS, parameters), _texts(given, _DRIFT, parameters)
    files = picture_files(photos)
    if len(files) != len(captions):
        raise ValueError(
            f"{photos} has {len(files)} photos, and {parameters} has {len(captions)} captions ({PHOTOS}): put all "
            "photos of the data set there, and nothing else."
        )
    training, test = split(len(files), _count(given, "valid_size", parameters), _count(given, TESTS, parameters))
    side = _count(given, "resolution", parameters)
    pictures, folder = FilePictures(files), inputs / _FOLDER
    for place in training:
        square = pictures[place].resize((side, side), Image.Resampling.BILINEAR)
        write(folder / "training" / f"{place:02}.png", _png(square))
        write(folder / "training" / f"{place:02}.txt", f"{captions[place]}\n".encode())
    rows: list[tuple[str, str, str, str, int]] = []
    for place in test:
        write(folder / "held_out" / f"{place:02}.png", _png(pictures[place]))
        photo = f"{_FOLDER}/held_out/{place:02}.png"
        rows.append((f"photo {place:02}", "likeness", captions[place], photo, REPEATS))
    rows += [(f"drift {place:02}", "drift", text, rows[0][3], 1) for place, text in enumerate(drift)]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(_COLUMNS)
    lines.writerows(rows)
    write(prompts, text.getvalue().encode())
    parts = dict.fromkeys(training, "training") | dict.fromkeys(test, "test")
    return [
        *(
            f"{file.name}: {parts.get(place, 'validation, not used')}: {caption}"
            for place, (file, caption) in enumerate(zip(files, captions))
        ),
        *(
            f"{name} is {given.get(name)!r} there and {value!r} in the plan: PEFT has changed it since; the published "
            "values may be others."
            for name, value in PLANNED.items()
            if given.get(name) != value
        ),
        f"wrote {folder} and {prompts}",
    ]


def split(count: int, valid: int, test: int) -> tuple[list[int], list[int]]:
    """The places of the photos for training and for the test, as PEFT's data.py parts them.

    Raises ValueError if none is left for training, or none for the test.
    """
    import numpy as np

    places = np.arange(count)
    np.random.RandomState(0).shuffle(places)  # its np.random.seed(0) and np.random.shuffle, without the global state
    end = count - valid - test
    if end < 1 or test < 1:
        raise ValueError(
            f"of {count} photos, {valid} for validation and {test} for the test leave none to train or test."
        )
    order = places.tolist()
    return order[:end], order[end + valid :]


def _read(path: Path) -> dict[str, Any]:
    try:
        given = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read ({reason(error)}): name PEFT's default_training_params.json."
        ) from error
    if not isinstance(given, dict):
        raise ValueError(f"{path} is not PEFT's default_training_params.json: it holds no names with values.")
    return given


def _texts(given: dict[str, Any], name: str, path: Path) -> Sequence[str]:
    texts = given.get(name)
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{path} has no list of texts {name!r}: name PEFT's default_training_params.json.")
    return texts


def _count(given: dict[str, Any], name: str, path: Path) -> int:
    number = given.get(name)
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError(f"{path} has no whole number {name!r}: name PEFT's default_training_params.json.")
    return number


def _png(picture: Any) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()
