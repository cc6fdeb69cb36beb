"""What the system refuses, writing and reading, is an error message with the file's name and what to do."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from deft_pack.deft_ops import files
from deft_pack.deft_ops.files import safe


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "choose a folder that may"), (errno.EIO, "check the folder")],
)
def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str) -> None:
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "duck.safetensors").write_bytes(b"before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=rf"duck\.safetensors could not be written \({os.strerror(number)}\): {advice}"
    ) as caught:
        safe.write_files(tmp_path, {"duck.safetensors": b"after"})
    assert (caught.value.errno, caught.value.strerror) == (number, os.strerror(number))
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("duck.safetensors", b"before")]


def test_names_that_the_system_refuses(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"aaa could not be written \(File name too long\): choose a shorter name"):
        safe.write_files(tmp_path, {"a" * 300: b""})
    with pytest.raises(ValueError, match="has a zero character: choose another name"):
        safe.write_files(tmp_path, {"a\0b": b""})
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"file could not be written .*: a file has the name of the folder"):
        safe.write_files(tmp_path / "file", {"x": b""})
    with pytest.raises(ValueError, match=r"aaa\.safetensors cannot be read \(File name too long\): check its name"):
        files.read(tmp_path / f"{'a' * 300}.safetensors")


def test_what_killed_writes_have_left_goes_after_a_day(tmp_path: Path) -> None:
    """Only files of this pack's naming go, and nothing that may still be written."""
    mark = "0123456789abcdef" * 2
    left = [f".duck.safetensors.{mark}.tmp", f".run.json.{mark}.tmp"]
    others = [
        f"duck.{mark}.tmp",
        f".duck.{mark[1:]}.tmp",
        ".duck.tmp",
        f".duck.{mark}.part",
        f".duck.{mark.upper()}.tmp",
    ]
    young, folder, link = f".young.{mark}.tmp", f".folder.{mark}.tmp", f".link.{mark}.tmp"
    for name in (*left, *others, young):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / folder).mkdir()
    (tmp_path / link).symlink_to(tmp_path / ".duck.tmp")
    yesterday = time.time() - 25 * 60 * 60
    for name in (*left, *others, folder, link):
        os.utime(tmp_path / name, (yesterday, yesterday), follow_symlinks=False)
    safe.write_files(tmp_path, {"new": b"whole"})
    assert {file.name for file in tmp_path.iterdir()} == {*others, young, folder, link, "new"}
