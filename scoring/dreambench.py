"""DreamBench++'s data set (arXiv 2406.16855): a text file a subject, with its class word and its nine prompts.

As dreambench_plus_dataset.py of yuangpeng/dreambench_plus reads its folder `data`: captions/CATEGORY/NUMBER.txt beside
images/CATEGORY/NUMBER.jpg, with the categories live_subject/animal, live_subject/human, object and style. The first
line of a text is the subject, each further line a prompt; spaces at the ends of lines do not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath

CAPTIONS, IMAGES = "captions", "images"
_PROMPTS = 9  # of each subject
LIVE = ("animal", "human")


@dataclass(frozen=True)
class Subject:
    """A subject. name: as DreamBench++'s results are called, such as live_subject_animal_00_kitten. word: its class."""

    name: str
    word: str
    prompts: tuple[str, ...]

    @property
    def report(self) -> str:
        """The name and how many prompts it has, with a remark where these are not nine."""
        count = f"{self.name}: {len(self.prompts)} prompt{'' if len(self.prompts) == 1 else 's'}"
        return count if len(self.prompts) == _PROMPTS else f"{count}; a subject of DreamBench++ has {_PROMPTS}"


def parsed(text: str, path: PurePath) -> Subject:
    """The subject in the text of a file; path: of the file, whose folder and name say what it is called.

    Raises:
        ValueError: nothing in it, no subject in its first line, or no prompt below.
    """
    if not text.strip():
        raise ValueError(f"{path} is empty: take DreamBench++'s own file.")
    lines = [line.strip() for line in text.splitlines()]
    word, prompts = lines[0], tuple(filter(None, lines[1:]))
    if not word:
        raise ValueError(f"{path} has no subject in its first line: take DreamBench++'s own file.")
    if not prompts:
        raise ValueError(f"{path} has a subject ({word}) and no prompts: one a line has to stand below it.")
    category = path.parent.name
    start = f"live_subject_{category}" if category in LIVE else category
    return Subject("_".join((start, path.stem, word.lower().replace(" ", "_"))), word, prompts)


def is_captions(path: PurePath) -> bool:
    """Whether a path is that of a subject's text: .txt, somewhere below a folder called captions."""
    return path.suffix.lower() == ".txt" and CAPTIONS in path.parts[:-2]


def picture_of(path: Path) -> Path:
    """The picture of a subject's text: of the same name below images in place of captions.

    Raises:
        FileNotFoundError: it is not there.
    """
    parts = list(path.parts)
    place = len(parts) - 1 - parts[::-1].index(CAPTIONS)
    picture = Path(*parts[:place], IMAGES, *parts[place + 1 :]).with_suffix(".jpg")
    if not picture.is_file():
        raise FileNotFoundError(f"{picture} does not exist: DreamBench++'s folder images belongs beside captions.")
    return picture
