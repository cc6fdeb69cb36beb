"""The letters of pictures: which font has which, what none has, and that each is drawn with its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw

from deft_pack.reports import letters
from deft_pack.reports.letters import Lettering, figure_font, missing, own_face, warning

CATS = "\u732b\u306d\u3053"  # a cat in Chinese, and in Japanese letters


def font_with(path: Path, text: str) -> Path:
    """A font whose letters are all full squares, with nothing else in its cmap than these."""

    def square(side: int):
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0))
        for corner in ((0, side), (side, side), (side, 0)):
            pen.lineTo(corner)
        pen.closePath()
        return pen.glyph()

    names = [".notdef", *(f"letter{place}" for place in range(len(text)))]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(letter): name for letter, name in zip(text, names[1:])})
    font.setupGlyf({name: square(1000 * (name != ".notdef")) for name in names})
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    font.setupHorizontalHeader(ascent=1000, descent=0)
    font.setupNameTable({"familyName": "Test", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    font.save(path)
    return path


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The folders of the system's fonts, which are the test's own."""

    def forget() -> None:
        letters.system_faces.cache_clear()
        letters.face_of.cache_clear()

    forget()
    monkeypatch.setattr(letters, "font_folders", lambda: [tmp_path])
    yield tmp_path
    forget()


def test_letters_of_three_scripts_are_the_font_s_own(folders: Path):
    """The reference is fontTools' reading of the cmap."""
    cmap = TTFont(own_face().path).getBestCmap()
    for text in (
        "caf\u00e9 Gr\u00f6\u00dfe \u017dlu\u0165",
        "\u03b1\u03c1\u03ba\u03bf\u03c5\u03b4\u03ac\u03ba\u03b9",
        "\u043c\u0438\u0448\u043a\u0430 \u0401",
    ):
        assert set(map(ord, text)) <= set(cmap)
        assert missing([text]) == []
    every = [chr(code) for code in range(0x20, 0x3000) if not letters._unseen(chr(code))]
    assert missing(every) == [letter for letter in every if ord(letter) not in cmap]
    assert warning(["plain", ""]) == ""


def test_a_letter_that_no_font_has_is_named_once(folders: Path):
    text = warning([f"a {CATS[0]} here", CATS])
    assert "drawn as boxes: \u732b \u306d \u3053." in text
    assert "Install a font such as Noto Sans CJK" in text
    assert "and 5 more" in warning(["".join(map(chr, range(0x4E00, 0x4E00 + letters.NAMED + 5)))])
    assert "Noto" not in warning(["\U000f0000 \U00010330"])  # what leaves no ink, and Gothic


def test_a_font_of_the_system_draws_what_the_own_one_lacks(folders: Path):
    font_with(folders / "truetype" / "Other.ttf", CATS)  # of no known name
    (folders / "NotoSansCJK-Broken.ttc").write_bytes(b"no font")
    assert missing([CATS]) == list(CATS)
    letters.system_faces.cache_clear()
    letters.face_of.cache_clear()
    path = font_with(folders / "wqy" / "wqy-microhei.ttf", CATS[:1] + "a")
    assert missing([CATS]) == list(CATS[1:])

    def drawn(text: str) -> np.ndarray:
        canvas = Image.new("RGB", (160, 60), "white")
        Lettering(30).draw(ImageDraw.Draw(canvas), (0, 0), text, (0, 0, 0))
        return np.array(canvas)[..., 0]

    # Full squares of 30 px for its letter alone: a and b are the own font's, before and behind it.
    font = Lettering(30)
    assert font.width(f"a{CATS[0]}b") == pytest.approx(font.width("a") + 30 + font.width("b"), abs=2)
    cat = drawn(f"a{CATS[0]}b")
    start = font.width("a")
    assert (cat[:, start + 1 : start + 28] == 0).sum() >= 27 * 28
    assert np.array_equal(cat[:, : start - 1], drawn("a")[:, : start - 1])
    # A figure of matplotlib gets one font for a text, that which has most of it.
    assert figure_font(CATS[0]).get_file() == str(path)
    assert figure_font("ab \u00e9").get_file() == str(own_face().path)
    assert figure_font("ab", bold=True).get_file().endswith("DejaVuSans-Bold.ttf")


def test_the_better_known_font_comes_first(folders: Path):
    font_with(folders / "simsun.ttf", CATS)
    font_with(folders / "NotoSansCJKsc-Bold.otf", CATS)
    plain = font_with(folders / "NotoSansCJKsc-Regular.otf", CATS)
    assert [face.path.name for face in letters.system_faces()] == [plain.name, "simsun.ttf"]


@pytest.mark.parametrize(
    ("system", "values", "folder"),
    [
        ("win32", {"WINDIR": "D:/Win"}, "D:/Win/Fonts"),
        ("darwin", {}, "/System/Library/Fonts"),
        ("linux", {"XDG_DATA_DIRS": "/nix/share:/usr/share"}, "/nix/share/fonts"),
        ("linux", {"XDG_DATA_DIRS": ""}, "/usr/share/fonts"),
    ],
)
def test_folders_of_each_system(monkeypatch: pytest.MonkeyPatch, system: str, values: dict, folder: str):
    monkeypatch.setattr(letters.sys, "platform", system)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert Path(folder) in letters.font_folders()


def test_chinese_is_broken_without_spaces():
    font = Lettering(16)
    text = "\u4e00" * 30
    lines = font.wrap(text, 6 * font.width("\u4e00"), 9)
    assert lines == ["\u4e00" * 6] * 5
    assert font.wrap("x" * 30, 6 * font.width("x")) == [font.cut("x" * 30, 6 * font.width("x"))]
