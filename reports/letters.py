"""Letters of pictures: DejaVu Sans for Latin, Greek, Cyrillic; a font of the system for Chinese, Japanese, Korean.

DejaVu Sans is the one that matplotlib brings, a requirement of the pack, so that the pack needs no copy. Each letter is
drawn by the first font that has it by its cmap; what none has is named by `warning`. Nothing here runs a program.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import ImageDraw, ImageFont

if TYPE_CHECKING:
    from matplotlib.font_manager import FontProperties

Colour = tuple[int, int, int]

# How the files of fonts with Chinese, Japanese or Korean begin, in lower case without spaces, best first.
EAST_ASIAN = (
    "notosanscjk",
    "notosanssc",
    "sourcehansans",
    "msyh",
    "pingfang",
    "hiraginosansgb",
    "stheiti",
    "wqy-microhei",
    "wqy-zenhei",
    "droidsansfallback",
    "simhei",
    "simsun",
    "notosansjp",
    "notosanskr",
    "notosanstc",
    "yugoth",
    "meiryo",
    "hiraginokakugothic",
    "malgun",
    "applesdgothic",
    "msgothic",
    "nanumgothic",
    "ipag",
    "takao",
    "vl-gothic",
    "notoserifcjk",
    "arialunicode",
    "uming",
    "ukai",
    "unifont",
)
FONT_FILES = (".ttf", ".otf", ".ttc", ".otc")
MOST_FONTS = 4  # of the system's that are asked for a letter
NAMED = 20  # letters in a warning


class Face:
    """A font: its files, and which letters it has. path: None is the font in Pillow, where matplotlib is missing."""

    def __init__(self, path: Path | None, bold: Path | None = None) -> None:
        """Keep the files for later. bold: the file of its bold letters; None draws the others in their place."""
        self.path, self.bold = path, bold
        self._index: Callable[[int], int] | None = None

    def has(self, letter: str) -> bool:
        """Whether the font's cmap has this letter."""
        if self.path is None:  # Pillow does not show the cmap: a letter that it lacks looks like one that no font has
            font = self.at(20, False)
            return bytes(font.getmask(letter)) != bytes(font.getmask("\U0010ffff"))
        if self._index is None:
            from matplotlib.ft2font import FT2Font

            self._index = FT2Font(str(self.path)).get_char_index
        return self._index(ord(letter)) != 0

    def at(self, size: int, bold: bool) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        """The font in a size in px."""
        return _opened(self.bold if bold and self.bold else self.path, size)


@lru_cache(maxsize=64)
def _opened(path: Path | None, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(str(path), size, _simplified(path))


@cache
def _simplified(path: Path) -> int:
    """The number of the font for simplified Chinese in a collection of fonts for several languages, else the first."""
    if path.suffix.lower() not in (".ttc", ".otc"):
        return 0
    for index in range(16):
        try:
            family = ImageFont.truetype(str(path), 12, index).getname()[0] or ""
        except OSError:
            break
        if family.endswith(" SC"):
            return index
    return 0


@cache
def own_face() -> Face:
    """The font for all letters that it has."""
    try:
        import matplotlib
    except ImportError:
        return Face(None)
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return Face(folder / "DejaVuSans.ttf", folder / "DejaVuSans-Bold.ttf")


def font_folders() -> list[Path]:
    """Where this system and its user keep fonts."""
    home = Path.home()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", "")
        own = [Path(local) / "Microsoft" / "Windows" / "Fonts"] if local else []
        return [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts", *own]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts"]
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    data = os.environ.get("XDG_DATA_HOME") or str(home / ".local" / "share")
    return [*(Path(folder) / "fonts" for folder in [data, *shared.split(":")] if folder), home / ".fonts"]


@cache
def system_faces() -> tuple[Face, ...]:
    """The system's fonts for Chinese, Japanese and Korean, as far as it has any."""
    ranked: list[tuple[int, str, Path]] = []
    for folder in font_folders():
        for where, _, names in os.walk(folder):
            for name in names:
                stem = name.lower().replace(" ", "").replace("_", "")
                rank = next((place for place, start in enumerate(EAST_ASIAN) if stem.startswith(start)), None)
                if rank is not None and stem.endswith(FONT_FILES):
                    # A plain weight before light and bold ones.
                    weight = "0" if "regular" in stem or "-" not in stem else "1"
                    ranked.append((rank, weight + stem, Path(where) / name))
    faces: dict[int, Face] = {}
    for rank, _, path in sorted(ranked):
        if rank not in faces and len(faces) < MOST_FONTS:
            face = Face(path)
            try:
                face.has("a")
                face.at(12, False)
            except (OSError, RuntimeError):  # no font in spite of its name
                continue
            faces[rank] = face
    return tuple(faces.values())


@lru_cache(maxsize=4096)
def face_of(letter: str) -> Face | None:
    """The font that draws a letter; None where no font has it."""
    own = own_face()
    if letter.isascii() or own.has(letter):
        return own
    return next((face for face in system_faces() if face.has(letter)), None)


def missing(texts: Iterable[str]) -> list[str]:
    """The letters that no font has, each once."""
    letters = dict.fromkeys(letter for text in texts for letter in text)
    return [letter for letter in letters if not _unseen(letter) and face_of(letter) is None]


def _unseen(letter: str) -> bool:
    """Whether a letter leaves no ink: spaces, controls, joiners, selectors of variants."""
    return letter.isspace() or unicodedata.category(letter)[0] == "C" or "\ufe00" <= letter <= "\ufe0f"


def warning(texts: Iterable[str]) -> str:
    """A warning that names the letters which are drawn as boxes, and what to do; "" where there are none."""
    letters = missing(texts)
    if not letters:
        return ""
    named = " ".join(letters[:NAMED]) + (f" and {len(letters) - NAMED} more" if len(letters) > NAMED else "")
    east = any(unicodedata.east_asian_width(letter) == "W" for letter in letters)
    hint = " such as Noto Sans CJK" if east else ""
    return (
        f"Warning: no font on this computer has these letters, which are drawn as boxes: {named}. Install a font{hint} "
        "and restart ComfyUI, or write them otherwise."
    )


def figure_font(text: str, bold: bool = False) -> FontProperties:
    """The font for a whole text in a matplotlib figure: the first that has all of it, else the one that has most."""
    from matplotlib.font_manager import FontProperties

    letters = {letter for letter in text if not _unseen(letter)}
    faces = [own_face(), *(system_faces() if any(face_of(letter) is not own_face() for letter in letters) else ())]
    face = max(faces, key=lambda face: sum(map(face.has, letters)))
    return FontProperties(fname=str(face.bold if bold and face.bold else face.path))


class Lettering:
    """Letters of one size, measured and drawn with the fonts that have them."""

    def __init__(self, size: int, bold: bool = False) -> None:
        """size: in px."""
        self.size, self.bold = size, bold
        font = own_face().at(size, bold)
        self.ascent, self.descent = font.getmetrics() if isinstance(font, ImageFont.FreeTypeFont) else (size, size // 4)
        self.step = self.ascent + self.descent + max(2, size // 8)  # from one line to the next

    def _runs(self, text: str) -> Iterator[tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]]:
        """The text in parts of one font each."""
        last = own_face()

        def face(letter: str) -> Face:
            nonlocal last
            last = last if _unseen(letter) else face_of(letter) or own_face()
            return last

        for one, letters in groupby(text, key=face):
            yield "".join(letters), one.at(self.size, self.bold)

    def width(self, text: str) -> int:
        """The width of a line in px."""
        length = sum(font.getlength(part) for part, font in self._runs(text))
        return int(-(-length // 1))

    def draw(self, draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, colour: Colour) -> None:
        """Write a line with its left upper corner there."""
        across, top = place
        for part, font in self._runs(text):
            draw.text((across, top + self.ascent), part, colour, font, "ls")
            across += font.getlength(part)

    def cut(self, text: str, width: int) -> str:
        """The text, or as much of it as fits with three dots."""
        if self.width(text) <= width:
            return text
        while len(text) > 1 and self.width(text + "...") > width:
            text = text[:-1]
        return text + "..."

    def wrap(self, text: str, width: int, lines: int = 4, between: str = " ") -> list[str]:
        """Break a text into lines of at most `width` px; more lines than `lines` are cut.

        It is broken at `between`; with two spaces, single ones do not break. A word that is too long is cut, or broken
        anywhere where it is of letters that stand without spaces, as Chinese.
        """
        result: list[str] = []
        for word in text.split() if between == " " else filter(None, text.split(between)):
            longer = f"{result[-1]}{between}{word}" if result else word
            if result and self.width(longer) <= width:
                result[-1] = longer
            elif between == " " and self.width(word) > width and _unspaced(word):
                result += self._broken(word, width)
            else:
                result.append(self.cut(word, width))
        if len(result) > lines:
            result = [*result[: lines - 1], self.cut(result[lines - 1] + "...", width)]
        return result

    def _broken(self, word: str, width: int) -> list[str]:
        """A word without spaces in pieces of at most `width` px."""
        pieces = [""]
        for letter in word:
            if pieces[-1] and self.width(pieces[-1] + letter) > width:
                pieces.append("")
            pieces[-1] += letter
        return pieces


def _unspaced(word: str) -> bool:
    return sum(unicodedata.east_asian_width(letter) == "W" for letter in word) > len(word) / 2
