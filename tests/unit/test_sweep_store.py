"""The store: a cell is there whole or not at all, and no two runners are at one cell."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deft_pack.disk import errors
from deft_pack.sweeps import command, writing
from deft_pack.sweeps import store as module
from deft_pack.sweeps.launch import remembered
from deft_pack.sweeps.records import Cell, CellRun, StoredFile
from deft_pack.sweeps.store import Store
from deft_pack.sweeps.workflow import open_workflow

ROOT = Path(__file__).resolve().parent.parent.parent
KEY = "ab" * 16


def cell(key: str = KEY) -> Cell:
    return Cell(
        key,
        "picture",
        {"seed": "1"},
        ("cd" * 16,),
        {"1": {"class_type": "X", "inputs": {}}},
        (StoredFile("a.png", "1", "Save", "SaveImage"),),
        {"score": 0.5},
    )


def fill(store: Store, text: bytes = b"picture") -> Path:
    scratch = store.scratch()
    (scratch / "a.png").write_bytes(text)
    return scratch


def test_a_cell_is_kept_and_read_back(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", "plan")
    assert store.read(KEY) is None
    assert store.keys() == set()
    run = CellRun("done", seconds=1.5, memory={"process": 10.0}, versions={"torch": "2"}, texts={"Show": ["a\u2028b"]})
    assert store.put(cell(), run, fill(store))
    stored = store.read(KEY)
    assert stored is not None
    assert (stored.cell, stored.run) == (cell(), run)
    assert stored.path(stored.cell.files[0]).read_bytes() == b"picture"
    assert store.keys() == {KEY}
    assert list((store.root / "tmp").iterdir()) == []


def test_what_a_newer_version_has_added_is_no_damage(tmp_path: Path) -> None:
    """Keys that this version does not know, at each level of both files, and fewer of those that have a default."""
    store = Store.open(tmp_path / "store", "plan")
    store.put(cell(), CellRun("done", seconds=1.5), fill(store))
    for name in ("cell.json", "run.json"):
        path = store.folder(KEY) / name
        content = json.loads(path.read_text()) | {"new": {"a": [1]}}
        content.pop("numbers", None)
        content.pop("worker", None)
        for file in content.get("files", ()):
            file["size"] = 5
        path.write_text(json.dumps(content))
    stored = store.read(KEY)
    assert stored is not None
    assert stored.cell == replace(cell(), numbers={})
    assert stored.run == CellRun("done", seconds=1.5)
    marker = store.root / "store.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"new": 1}))
    assert Store.open(store.root, "other", join=True).plans() == ["plan", "other"]
    assert json.loads(marker.read_text())["new"] == 1


def test_damaged_cells_are_named_and_removed_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(tmp_path / "store", "plan")
    other, failed = "ef" * 16, "01" * 16
    for key in (KEY, other, failed):
        store.put(replace(cell(key)), CellRun("failed" if key == failed else "done"), fill(store))
    index = ["seed"], *([key, "picture", ["1"], []] for key in (KEY, other, failed))
    lines = "\n".join(map(json.dumps, index)) + "\n"
    store.write_plan("plan", {"cells.jsonl": lines.encode(), "report.json": b'{"rows": ["seed"], "new": 1}'})
    (store.folder(KEY) / "cell.json").write_text("{")
    shutil.copy(store.folder(other) / "run.json", store.folder(failed, "failed") / "cell.json")

    def printed(*words: str) -> str:
        command.main([words[0], str(store.root), *words[1:]])
        return capsys.readouterr().out

    assert f"{failed}/cell.json cannot be read" in printed("status")
    assert "index.html" in printed("report")
    assert "cell.json cannot be read" in (store.root / "report" / "report.md").read_text()
    assert "1 failed cells, 0 cancelled cells, 0 dead" in printed("clean")
    assert "1 failed cells, 0 cancelled cells, 1 damaged cells" in printed("clean", "--damaged", "--yes")
    assert store.keys() == {other}


@pytest.mark.parametrize("file", ["cells.jsonl", "report.json", "facts.json"])
@pytest.mark.parametrize("data", [b"", b"\xff", b"{", b"[1]\n[1]\n", b"7", b"[" * 100_000], ids=range(6))
def test_a_damaged_file_of_a_plan_is_named(tmp_path: Path, file: str, data: bytes) -> None:
    store = Store.open(tmp_path / "store", "ducks")
    good = {"cells.jsonl": b'[]\n["%s", "picture", [], []]\n' % KEY.encode(), "report.json": b"{}", "facts.json": b""}
    store.write_plan("ducks", good | {file: data})
    with pytest.raises(ValueError, match=rf"plan/ducks/{file} is damaged \(.*: `sweeps plan` and `sweeps run` write"):
        if file == "facts.json":
            remembered(store, "ducks")
        else:
            options = command._parser().parse_args(["report", str(store.root)])
            command.report_command(options)


def test_files_of_a_system_between_the_cells(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", "ducks")
    assert store.put(cell(), CellRun("done"), fill(store))
    for folder in (store.root / "done", store.folder(KEY).parent):
        (folder / "Thumbs.db").write_bytes(b"x")
    assert store.keys() == {KEY}


def test_the_second_of_two_results_is_dropped(tmp_path: Path) -> None:
    one, two = Store.open(tmp_path, "plan"), Store.open(tmp_path, "plan")
    assert one.put(cell(), CellRun("done"), fill(one, b"first"))
    assert not two.put(cell(), CellRun("done"), fill(two, b"second"))
    assert (one.folder(KEY) / "a.png").read_bytes() == b"first"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_failed_then_done(tmp_path: Path) -> None:
    store = Store.open(tmp_path, "plan")
    store.put(cell(), CellRun("failed", "first"), fill(store))
    store.put(cell(), CellRun("failed", "second"), fill(store))
    stored = store.read(KEY)
    assert stored is not None
    assert stored.run.error == "second"
    store.put(cell(), CellRun("cancelled"), fill(store))
    assert (store.status(KEY), store.keys("failed")) == ("cancelled", set())
    store.put(cell(), CellRun("done"), fill(store))
    assert store.status(KEY) == "done"
    assert store.keys("failed") | store.keys("cancelled") == set()


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(tmp_path, "plan")
    scratch = fill(store)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            store.put(cell(), CellRun("done"), scratch)
    assert store.keys() == set()
    assert list((tmp_path / "tmp").iterdir()) == []
    assert store.put(cell(), CellRun("done"), fill(store))


def test_damaged_records_are_named(tmp_path: Path) -> None:
    store = Store.open(tmp_path, "plan")
    store.put(cell(), CellRun("done"), fill(store))
    (store.folder(KEY) / "run.json").write_text('{"status": "do')
    with pytest.raises(ValueError, match=r"run\.json cannot be read .* remove the folder"):
        store.read(KEY)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not the store of a sweep"):
        Store.open(tmp_path / "none")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="is not empty and not the store"):
        Store.open(tmp_path / "full", "plan")
    Store.open(tmp_path / "store", "one")
    with pytest.raises(ValueError, match="is the store of the plan 'one', not of 'two'.*--join"):
        Store.open(tmp_path / "store", "two")
    assert Store.open(tmp_path / "store", "two", join=True).plans() == ["one", "two"]
    Store.open(tmp_path / "store", "two")
    for text in ("{", '{"format": 99, "plans": []}', "[]", "[" * 200_000):
        (tmp_path / "store" / "store.json").write_text(text)
        with pytest.raises(ValueError, match=r"store\.json cannot be read"):
            Store.open(tmp_path / "store", "one")


def test_many_make_the_same_store_at_once(tmp_path: Path) -> None:
    """None of them takes what another is writing for a foreign folder."""
    for number in range(50):
        barrier = threading.Barrier(8)

        def make(root: Path, barrier: threading.Barrier = barrier) -> list[str]:
            barrier.wait()
            store = Store.open(root, "plan")
            (store.root / "claims").mkdir(exist_ok=True)
            return store.plans()

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(make, [tmp_path / str(number)] * 8)) == [["plan"]] * 8


def test_the_mark_of_a_runner_that_died_while_it_took_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark keeps others out while it is fresh; the first that finds it old removes it, the next look has the claim.
    Of two that remove it at once, the second finds nothing to remove and just looks again."""
    store = Store.open(tmp_path, "plan")
    claim, mark = (tmp_path / "claims" / name for name in (KEY, f"{KEY}.takeover"))
    claim.parent.mkdir()
    claim.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "y"}))
    mark.touch()
    os.utime(claim, (1, 1))
    assert not store.claim(KEY)
    assert mark.exists()
    os.utime(mark, (1, 1))
    age = module._age

    def removed_by_another(path: Path) -> float:
        seconds = age(path)
        if path == mark:
            mark.unlink()
        return seconds

    with monkeypatch.context() as patch:
        patch.setattr(module, "_age", removed_by_another)
        assert store.claim(KEY) is False
    mark.touch()
    os.utime(mark, (1, 1))
    assert store.claim(KEY) is False
    assert not mark.exists()
    assert store.claim(KEY)
    assert store.holder(KEY) == store.owner


def test_claims_of_living_and_dead(tmp_path: Path) -> None:
    mine, other = Store.open(tmp_path, "plan"), Store.open(tmp_path, "plan")
    assert mine.claim(KEY)
    assert mine.claim(KEY)
    assert not other.claim(KEY)
    other.release(KEY)  # not its own
    assert mine.holder(KEY) == mine.owner
    assert not other.claim(KEY)
    mine.release(KEY)
    assert other.claim(KEY)
    # A process of this machine that is gone.
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, text=True)
    claim = {"host": mine.owner.host, "pid": int(dead.stdout), "token": "x"}
    (tmp_path / "claims" / KEY).write_text(json.dumps(claim))
    assert mine.holder(KEY) is None
    assert mine.claim(KEY)
    assert mine.holder(KEY) == mine.owner
    # Another machine: alive as long as it gives signs of life.
    (tmp_path / "claims" / KEY).write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "y"}))
    assert not mine.claim(KEY)
    os.utime(tmp_path / "claims" / KEY, (time.time() - module.STALE - 1,) * 2)
    assert mine.claim(KEY)
    assert dict(mine.claims()) == {KEY: mine.owner}
    # A sign of life keeps a claim that would have been taken over.
    (tmp_path / "claims" / KEY).write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "z"}))
    os.utime(tmp_path / "claims" / KEY, (1, 1))
    assert mine.holder(KEY) is None
    other.beat([KEY, "gone"])
    assert not mine.claim(KEY)
    # A claim that was cut off while it was written.
    (tmp_path / "claims" / KEY).write_text("")
    os.utime(tmp_path / "claims" / KEY, (time.time() - module.STALE - 1,) * 2)
    assert mine.claim(KEY)


WRESTLE = """
import importlib, sys, time
sys.path.insert(0, sys.argv[1])
importlib.import_module("sweeps.__main__").load_pack()
store = importlib.import_module("deft_pack.sweeps.store")
mine = store.Store.open(store.Path(sys.argv[2]), "plan")
(mine.root / f"ready-{sys.argv[3]}").touch()
while not (mine.root / "go").exists():
    time.sleep(0.001)
for number in range(300):
    name = f"cell{number}"
    if mine.claim(name):
        with open(mine.root / "won.txt", "a") as file:
            file.write(name + "\\n")
(mine.root / f"through-{sys.argv[3]}").touch()
while not (mine.root / "stop").exists():  # a claim of a process that has ended may be taken over
    time.sleep(0.01)
"""


@pytest.mark.parametrize("stale", [False, True], ids=["free", "left by a dead runner"])
def test_many_runners_never_hold_the_same(tmp_path: Path, stale: bool) -> None:
    store = Store.open(tmp_path, "plan")
    if stale:
        (tmp_path / "claims").mkdir()
        for number in range(300):
            claim = tmp_path / "claims" / f"cell{number}"
            claim.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "x"}))
            os.utime(claim, (1, 1))
    command = [sys.executable, "-c", WRESTLE, str(ROOT), str(tmp_path)]
    runners = [subprocess.Popen([*command, str(number)]) for number in range(4)]

    def all_have(word: str) -> None:
        end = time.monotonic() + 120
        while len(list(tmp_path.glob(f"{word}-*"))) < 4:
            assert time.monotonic() < end
            assert all(runner.poll() is None for runner in runners)
            time.sleep(0.01)

    all_have("ready")
    (tmp_path / "go").touch()
    all_have("through")
    left = {f"cell{number}" for number in range(300)} - set((tmp_path / "won.txt").read_text().split())
    assert stale or not left
    assert all(store.claim(name) for name in left)  # that two have tried for at once: the next look gets it
    (tmp_path / "stop").touch()
    assert [runner.wait(60) for runner in runners] == [0] * 4
    won = Counter((tmp_path / "won.txt").read_text().split())
    assert set(won.values()) == {1}
    assert set(won).isdisjoint(left)
    assert not list(store.root.glob("claims/*.takeover"))


def test_what_killed_runners_have_left_goes_after_a_day(tmp_path: Path) -> None:
    """Everything goes but what a living runner is at, however long its cell takes."""
    store, living = Store.open(tmp_path / "store", "ducks"), Store(tmp_path / "store")
    living.owner = replace(living.owner, host="elsewhere")
    assert living.claim("cell")
    dead = Store(tmp_path / "store").scratch()
    at_work, mine, young = living.scratch(), store.scratch(), Store(tmp_path / "store").scratch()
    store.write_plan("ducks", {"plan.yaml": b""})
    mark = "0123456789abcdef" * 2
    names = (f".store.json.{mark}.tmp", f"plan/ducks/.plan.yaml.{mark}.tmp", f"claims/.x.{mark}.tmp")
    for name in names:
        (store.root / name).write_bytes(b"half")
    yesterday = time.time() - 25 * 60 * 60
    for path in (dead, at_work, mine, *(store.root / name for name in names)):
        os.utime(path, (yesterday, yesterday))
    store.tidy()
    assert set((store.root / "tmp").iterdir()) == {at_work, mine, young}
    assert not any((store.root / name).exists() for name in names)
    assert living.claim("cell")
    assert (store.root / "plan" / "ducks" / "plan.yaml").is_file()


def test_a_full_disk_is_named_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as the system's, without a name

    (tmp_path / "run.json").write_bytes(b"before")
    monkeypatch.setattr(os, "fsync", full)
    for write in (writing.write, writing.write_synced):
        with pytest.raises(OSError, match=r"run\.json could not be written \(No space left.*\): free some space"):
            write(tmp_path / "run.json", b"after")
        if write is writing.write:
            assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("run.json", b"before")]
    with pytest.raises(OSError, match=r"aaa could not be written \(File name too long\): choose a shorter name"):
        writing.write(tmp_path / ("a" * 300), b"")
    with (
        pytest.raises(OSError, match=r"aaa could not be written \(File name too long\)"),
        writing.writing(tmp_path / ("a" * 300)),
    ):
        pass
    with pytest.raises(FileNotFoundError, match="other"), writing.writing(tmp_path / "x"):
        (tmp_path.parent / "no such folder" / "other").read_bytes()


def test_what_the_system_refuses_the_store(tmp_path: Path) -> None:
    """The store's own folders and claims: each with the file's name and what to do. A file has the name of a folder."""
    store = Store.open(tmp_path, "plan")
    scratch = fill(store)
    for name in ("done", "claims"):
        (tmp_path / name).write_bytes(b"")
    advice = r"could not be written \(.+\): a file has the name of the folder, choose another\.$"
    with pytest.raises(errors.NotWritten, match=rf"{KEY} {advice}"):
        store.put(cell(), CellRun("done"), scratch)
    with pytest.raises(errors.NotWritten, match=rf"{KEY} {advice}"):
        store.claim(KEY)
    (tmp_path / "tmp").rmdir()
    (tmp_path / "tmp").write_bytes(b"")
    with pytest.raises(errors.NotWritten, match=rf"tmp/\S+ {advice}"):
        store.scratch()


def test_what_the_system_refuses_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line with the file, the reason and what to do: of the store, a server's own folder and files to read."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.yaml").mkdir()
    plan, long = ROOT / "sweeps" / "plans" / "demo.yaml", "a" * 300

    def error_of(*arguments: object) -> str:
        assert command.main(list(map(str, arguments))) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert "[Errno" not in line
        return line

    for name in ("plan", "run"):
        line = error_of(name, plan, "--store", tmp_path / long)
        assert line.endswith("aaa/store.json could not be written (File name too long): choose a shorter name.\n")
        line = error_of(name, plan, "--store", tmp_path / "file")
        assert "file/store.json could not be written (Not a directory): a file has the name of the folder" in line
    for name in ("status", "report", "clean"):
        assert "aaa: File name too long: choose a shorter name." in error_of(name, tmp_path / long)
        assert "file is not the store of a sweep: name" in error_of(name, plan, "--store", tmp_path / "file")
    assert "folder.yaml cannot be read (Is a directory): check its name" in error_of("plan", tmp_path / "folder.yaml")
    with pytest.raises(
        ValueError, match=r"folder\.yaml cannot be read \(Is a directory\): check `workflow` in the plan"
    ):
        open_workflow(tmp_path / "folder.yaml", {})
    assert "aaa cannot be read (File name too long): check its name" in error_of("plan", tmp_path / long)
    comfyui = tmp_path / "ComfyUI"
    comfyui.mkdir()
    (comfyui / "main.py").write_text("")
    for folder in ("work", "work/server-1"):
        store = tmp_path / folder.replace("/", "-")
        store.mkdir()
        Store.open(store, "demo")
        (store / folder).parent.mkdir(exist_ok=True)
        (store / folder).write_bytes(b"")
        line = error_of("run", plan, "--store", store, "--comfyui", comfyui, "--quiet")
        assert re.search(
            rf"{folder}\S*: (Not a directory|File exists): a file has the name of the folder, choose", line
        )


@pytest.mark.parametrize(
    "content",
    [
        "[" * 200_000,
        "{",
        '{"host": "HOST", "pid": "abc", "token": "x"}',
        '{"host": "HOST", "pid": 1e300, "token": "x"}',
        f'{{"host": "HOST", "pid": 1{"0" * 30}, "token": "x"}}',
        '{"host": "HOST", "pid": -5, "token": "x"}',
        '{"host": ["HOST"], "pid": 5, "token": "x"}',
    ],
)
def test_a_damaged_claim_is_nobodys(tmp_path: Path, content: str) -> None:
    store = Store.open(tmp_path, "plan")
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "cell").write_text(content.replace("HOST", socket.gethostname()))
    assert dict(store.claims()) == {"cell": None}
    assert store.holder("cell") is None


def test_what_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither damaged nor missing: nothing says so, and nothing advises to begin anew or elsewhere."""
    store = Store.open(tmp_path / "store", "demo")
    store.write_plan("demo", {"cells.jsonl": b'["seed"]\n'})
    names: set[str] = set()

    def refusing(function: Any) -> Any:
        def called(path: Any, *others: Any) -> Any:
            if Path(path).name in names:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return function(path, *others)

        return called

    monkeypatch.setattr(Path, "read_bytes", refusing(Path.read_bytes))
    monkeypatch.setattr(os, "scandir", refusing(os.scandir))
    for name, text in (
        ("store.json", r"store\.json cannot be read \(Permission denied\): check its permissions\."),
        ("cells.jsonl", r"plan/demo/cells\.jsonl cannot be read \(Permission denied\): check its permissions\."),
        ("done", r"store/done: Permission denied: check its permissions\."),
    ):
        names.clear()
        names.add(name)
        assert command.main(["status", str(store.root)]) == 2
        assert re.fullmatch(rf"sweeps: \S*{text}\n", capsys.readouterr().err)


def test_a_link_names_the_file_that_is_to_blame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files are in the system's error: what cannot be read, and where there is no space for it."""
    source, target = tmp_path / "from" / "a.png", tmp_path / "to" / "b.png"
    with pytest.raises(FileNotFoundError, match=r"from/a\.png"):
        writing.link(source, target)
    source.parent.mkdir()
    source.write_bytes(b"x" * 5000)

    def refused(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refused)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
        with pytest.raises(
            errors.NotWritten, match=r"to/b\.png could not be written \(File too large\): free some space"
        ):
            writing.link(source, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(target.parent.iterdir()) == []
    writing.link(source, target)
    assert target.read_bytes() == source.read_bytes()
