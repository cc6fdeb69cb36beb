"""What the runs' folders say, read from folders made by hand: whole, old, damaged and hostile ones."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from deft_pack.trainers.run import history

MARK = "0123456789"
JPEG = b"\xff\xd8\xff\xe0 a picture"


def line(step: int, loss: object = 0.5) -> str:
    return json.dumps({"step": step, "loss": loss, "rate": 1e-4, "grad_norm": 1.0, "seconds": 0.25}) + "\n"


def make(root: Path, name: str = f"training/duck_{MARK}", steps: int = 3, **record: Any) -> Path:
    """A run's folder as a training leaves it."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text("".join(line(step, 1 / step) for step in range(1, steps + 1)))
    facts = {"format": 1, "title": "deft rank 4", "method": "deft", "base": "SDXL", "steps": 20, "created": 5.0}
    facts |= {"state": "finished", "settings": {"rank": 4, "learning_rate": 1e-4, "options": {"alpha": 16}}}
    (folder / "run.json").write_text(json.dumps(facts | record))
    for name in ("checkpoint_00000002.pt", "adapter_00000002.safetensors", "notes.txt", "preview_x.jpg"):
        (folder / name).write_bytes(b"x")
    for step in (2, 10):
        (folder / f"preview_{step:08}.jpg").write_bytes(JPEG)
    return folder


def only(root: Path) -> dict[str, Any]:
    """The summary of the one run below a root; it can be sent as JSON."""
    (folder,) = history.runs(root).values()
    run = history.detail(root, folder)
    json.dumps(run, allow_nan=False)
    return run


def test_a_run(tmp_path: Path) -> None:
    folder = make(tmp_path)
    run = only(tmp_path)
    assert run["name"] == f"training/duck_{MARK}"
    assert (run["method"], run["base"], run["state"]) == ("deft", "SDXL", "finished")
    assert (run["step"], run["steps"], run["loss"], run["created"]) == (3, 20, 1 / 3, 5.0)
    assert run["problems"] == []
    assert run["curve"] == {"step": [1, 2, 3], "loss": [1, 1 / 2, 1 / 3], "rate": [1e-4] * 3}
    assert run["settings"] == {"rank": 4, "learning_rate": 1e-4, "options": {"alpha": 16}}
    assert run["checkpoints"] == [2]
    assert run["adapters"] == [{"step": 2, "file": "adapter_00000002.safetensors"}]
    assert run["previews"] == [2, 10]
    assert history.preview(folder, 10) == JPEG
    assert history.preview(folder, 3) is None


def test_only_this_process_knows_that_a_run_goes_on(tmp_path: Path) -> None:
    make(tmp_path, "a_0000000000", state="running", session=history.SESSION)
    make(tmp_path, "b_0000000000", state="running", session="another")
    make(tmp_path, "c_0000000000", state="dancing")
    states = {folder.name: history.summary(tmp_path, folder)["state"] for folder in history.runs(tmp_path).values()}
    assert states == {"a_0000000000": "running", "b_0000000000": "broken off", "c_0000000000": "unknown"}


def test_a_run_from_before_there_were_records(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (folder / "run.json").unlink()
    os.utime(folder / "log.jsonl", (7.0, 8.0))
    run = only(tmp_path)
    assert (run["state"], run["title"], run["settings"], run["step"]) == ("unknown", "", {}, 3)
    assert run["created"] == 8.0


def test_the_newest_are_first_and_no_more_than_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        log = make(tmp_path, f"run{number}_{MARK}") / "log.jsonl"
        os.utime(log, (number, number))
    assert [path.name[:4] for path in history.runs(tmp_path).values()] == ["run4", "run3", "run2", "run1", "run0"]
    monkeypatch.setattr(history, "RUNS", 2)
    assert [path.name[:4] for path in history.runs(tmp_path).values()] == ["run4", "run3"]
    monkeypatch.setattr(history, "FOLDERS", 3)
    assert len(history.runs(tmp_path)) <= 2


def test_what_is_no_run(tmp_path: Path) -> None:
    make(tmp_path, "without a mark")
    make(tmp_path, f".hidden/run_{MARK}")
    make(tmp_path, f"1/2/3/4/5/6/7/run_{MARK}")
    (make(tmp_path, f"no log_{MARK}") / "log.jsonl").unlink()
    (tmp_path / "log.jsonl").write_text(line(1))
    assert history.runs(tmp_path) == {}
    assert history.runs(tmp_path / "nowhere") == {}


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "output"
    secret = make(outside, f"secret_{MARK}")
    root.mkdir()
    (root / f"linked_{MARK}").symlink_to(secret, target_is_directory=True)
    assert history.runs(root) == {}
    folder = make(root, f"run_{MARK}")
    for name in ("run.json", "preview_00000002.jpg", "checkpoint_00000002.pt"):
        (folder / name).unlink()
        (folder / name).symlink_to(secret / name)
    run = only(root)
    assert (run["state"], run["previews"], run["checkpoints"]) == ("unknown", [10], [])
    assert history.preview(folder, 2) is None
    (folder / "log.jsonl").unlink()
    (folder / "log.jsonl").symlink_to(secret / "log.jsonl")
    assert history.runs(root) == {}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
@pytest.mark.timeout(20)
def test_a_pipe_does_not_hold_it_up(tmp_path: Path) -> None:
    folder = make(tmp_path)
    for name in ("run.json", "preview_00000002.jpg"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
    assert only(tmp_path)["previews"] == [10]
    assert history.read_bytes(folder / "run.json", 10) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        "[" * 100_000,
        '{"steps": ' + "9" * 5000 + "}",
        '{"steps": 1e999, "created": NaN, "title": 5, "state": ["running"], "settings": [1]}',
        '{"steps": true, "method": {"a": 1}, "message": null}',
        "\x00\x01",
    ],
)
def test_a_damaged_record_is_as_none(tmp_path: Path, text: str) -> None:
    (make(tmp_path) / "run.json").write_text(text)
    run = only(tmp_path)
    assert (run["state"], run["title"], run["method"], run["message"]) == ("unknown", "", "", "")
    assert (run["steps"], run["settings"], run["step"]) == (None, {}, 3)
    assert run["problems"] == (
        [] if text.startswith('{"') and "9999" not in text else ["run.json is damaged and is skipped."]
    )


def test_long_texts_and_deep_values_are_cut(tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(50):
        deep = {"more": deep}
    settings = {"deep": deep, "long": "x" * 10_000, "huge": 10**400, "bad": math.inf, "list": list(range(1000))}
    make(tmp_path, title="<b>" * 1000, settings=settings)
    run = only(tmp_path)
    assert len(run["title"]) == history.TEXT_LENGTH
    assert run["settings"]["deep"] == {"more": {"more": None}}
    assert len(run["settings"]["long"]) == history.TEXT_LENGTH
    assert (run["settings"]["huge"], run["settings"]["bad"]) == (None, None)
    assert run["settings"]["list"] == list(range(200))
    (tmp_path / f"training/duck_{MARK}" / "run.json").write_text(" " * (history.LARGEST + 1))
    assert only(tmp_path)["state"] == "unknown"


def test_lines_of_a_log_that_are_none(tmp_path: Path) -> None:
    log = make(tmp_path) / "log.jsonl"
    log.write_bytes(
        (line(1) + line(-1) + '{"step": "2"}\n{"step": 1.5}\n[3]\n' + line(4, math.nan) + line(5, "low")).encode()
        + b'\xff\xfe\n{"step": 6, "loss": 0.25}\n{"step": 7, "lo'
    )
    run = only(tmp_path)
    assert run["curve"] == {
        "step": [1, 4, 5, 6],
        "loss": [0.5, None, None, 0.25],
        "rate": [1e-4, 1e-4, 1e-4, None],
    }
    assert (run["step"], run["loss"]) == (6, 0.25)
    assert run["problems"] == ["log.jsonl: 4 damaged lines are skipped (3, 4, 5, 8)."]
    log.write_text("")
    assert (only(tmp_path)["step"], only(tmp_path)["loss"], only(tmp_path)["curve"]["step"]) == (0, None, [])


def test_a_long_curve_keeps_its_peaks(tmp_path: Path) -> None:
    steps, peaks = 50_000, {17: 90.0, 33_333: 80.0, 49_999: -3.0}
    log = make(tmp_path) / "log.jsonl"
    log.write_text("".join(line(step, peaks.get(step, 0.5)) for step in range(1, steps + 1)))
    curve = only(tmp_path)["curve"]
    assert len(curve["step"]) <= history.POINTS
    assert curve["step"] == sorted(set(curve["step"]))
    assert peaks.items() <= dict(zip(curve["step"], curve["loss"], strict=True)).items()


def test_a_preview_that_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path)
    (folder / "preview_00000002.jpg").write_text("<script>")
    assert history.preview(folder, 2) is None
    monkeypatch.setattr(history, "LARGEST_PICTURE", 5)
    assert history.preview(folder, 10) is None
