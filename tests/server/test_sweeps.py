"""Sweeps on real servers: resumed, killed, interrupted, shared; the store is what one clean run gives."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from deft_pack.sweeps.png import read_text

from .sweep_tools import (
    TRIVIAL,
    cells,
    contents,
    environment,
    own,
    read_until,
    runs,
    start,
    sweeps,
    trained,
    write_plan,
)

COLORS = "axes: {color: {into: Paint.color, range: {from: 1, to: %d}}}\n"
TRAINED = """
axes:
  method:
    values:
      Base: {mute: Train, bypass: Apply, without: rank}
      DEFT: {Train.method: deft}
  rank: {into: Train.method.rank, values: [2, 3]}
  prompt: {into: [Prompt.text, Score.text], values: [a sks teddy bear on a red background, a sks teddy bear]}
  seed: {into: Sample.seed, seeds: 2}
outputs: {previews: true}
"""
TRAININGS, PICTURES = 2, 2 * 2 * (1 + 2)


SEEN: list[psutil.Process] = []


def is_comfyui(process: psutil.Process) -> bool:
    """Whether that is a server; one that has just ended is none."""
    try:
        return "main.py" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def server_of(process: subprocess.Popen[str]) -> psutil.Process:
    """The ComfyUI that a runner has started."""
    comfyui = next(child for child in psutil.Process(process.pid).children() if is_comfyui(child))
    SEEN.append(comfyui)
    return comfyui


@pytest.fixture(autouse=True, scope="module")
def no_server_stays() -> Iterator[None]:
    """Servers of runners that were killed, after a test that has failed in between."""
    yield
    for process in SEEN:
        with contextlib.suppress(psutil.Error):
            process.kill()


def wait_for(there: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def clean(server: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The plan TRAINED and the store of one run without any trouble, on a server of the runner's own.

    All forks have one seed of the hashes of texts, and so one order of what is in a set. This run and its server have
    another, so they are no forks.
    """
    folder = tmp_path_factory.mktemp("clean")
    plan = write_plan(folder, trained(), TRAINED)
    out = sweeps("run", plan, "--store", folder / "store", *own(server.base), env=environment(PYTHONHASHSEED="1"))
    assert f"{TRAININGS + PICTURES} done, 0 failed, 0 cancelled" in out
    return plan, folder / "store"


def test_a_running_server_is_used(server: Any, tmp_path: Path) -> None:
    plan, store = write_plan(tmp_path, TRIVIAL, COLORS % 4), tmp_path / "store"
    planned = sweeps("plan", plan, "--store", store, "--server", server.url)
    assert "4 picture cells, 0 of them in the store" in planned
    assert "not known yet" in planned
    assert "4 done, 0 failed" in sweeps("run", plan, "--store", store, "--server", server.url)
    assert "picture: 4 of 4 done" in sweeps("status", plan, "--store", store)
    assert "picture: 4 of 4 done" in sweeps("status", store)
    assert "everything is done" in sweeps("plan", plan, "--store", store, "--offline")
    # Nothing is run again; a longer plan runs what is new.
    before = {path: path.stat().st_mtime_ns for path in (store / "done").rglob("*")}
    assert "every cell is in the store already" in sweeps("run", plan, "--store", store, "--server", server.url)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    longer = write_plan(tmp_path, TRIVIAL, COLORS % 6)
    assert "2 done, 0 failed" in sweeps("run", longer, "--store", store, "--server", server.url)
    assert [cell["labels"] for cell in cells(store).values()].count({"color": "5"}) == 1
    # The pictures are those that the plan asks for.
    for key, cell in cells(store).items():
        color = int(cell["labels"]["color"])
        picture = store / "done" / key[:2] / key / cell["files"][0]["name"]
        assert (np.array(Image.open(picture)) == [0, 0, color]).all()
        text = read_text(picture.read_bytes())
        assert json.loads(text["prompt"]) == cell["prompt"]
        assert json.loads(text["deft_sweep"]) == {"cell": key, "plan": "plan", "axes": cell["labels"]}


def test_an_adapter_is_trained_once(server: Any, clean: tuple[Path, Path]) -> None:
    _, store = clean
    stored = cells(store)
    trainings = {key: cell for key, cell in stored.items() if cell["kind"] == "training"}
    assert len(trainings) == TRAININGS
    assert len(stored) == TRAININGS + PICTURES
    for cell in trainings.values():
        assert {file["title"] for file in cell["files"]} == {"Save Adapter", "Loss"}
        assert set(cell["labels"]) == {"method", "rank"}
    for key, cell in stored.items():
        if cell["kind"] == "picture":
            assert len(cell["needs"]) == (cell["labels"]["method"] != "Base")
            assert set(cell["needs"]) <= set(trainings)
            run = json.loads((store / "done" / key[:2] / key / "run.json").read_text())
            assert run["seconds"] > 0
            assert run["versions"]["comfyui"]
            assert {file["title"] for file in cell["files"]} == {"Save picture", "Save scores"}
    # A picture from the saved adapter is the picture of the whole workflow, trained and sampled in one go.
    cell = next(
        cell
        for cell in stored.values()
        if cell["labels"] == {"method": "DEFT", "rank": "3", "prompt": "a sks teddy bear", "seed": "1"}
    )
    saved = next(
        shown["images"][0]
        for node, shown in server.run(cell["prompt"]).outputs.items()
        if cell["prompt"][node]["class_type"] == "SaveImage"
    )
    name = next(file["name"] for file in cell["files"] if file["title"] == "Save picture")
    mine = Image.open(store / "done" / cell["key"][:2] / cell["key"] / name)
    assert (np.array(mine) == np.array(Image.open(io.BytesIO(server.image(saved))))).all()
    assert len({picture.read_bytes() for picture in (store / "done").rglob("Save_picture*.png")}) == PICTURES


def test_a_token_is_trained_once(server: Any, tmp_path: Path) -> None:
    """Textual Inversion: the embedding lies in the store, and every picture cell gets it, also one at an address."""
    workflow = trained()
    ids = {node["_meta"]["title"]: node_id for node_id, node in workflow.items()}
    for title in ("Train", "Apply"):
        del workflow[ids[title]]
    del workflow["loss"], workflow[ids["Score"]]["inputs"]["adapter"]
    workflow[ids["Sample"]]["inputs"]["model"] = [ids["Model"], 0]
    workflow["ti"] = {
        "class_type": "DEFTTrainTextualInversion",
        "_meta": {"title": "Train token"},
        "inputs": {
            "model": [ids["Model"], 0],
            "clip": [ids["Text encoder"], 0],
            "latents": [ids["Encode photos"], 0],
            "token": "sweep-token",
            "vectors": 1,
            "start": "bear",
            "template": "object",
            "steps": 3,
            "learning_rate": 0.1,
            "batch_size": 5,
            "seed": 1,
            "overwrite": True,
            "precision": "fp32",
            "gradient_checkpointing": False,
        },
    }
    workflow["join"] = {
        "class_type": "StringConcatenate",
        "_meta": {"title": "Join"},
        "inputs": {"string_a": "a picture of a", "string_b": ["ti", 0], "delimiter": " "},
    }
    workflow[ids["Prompt"]]["inputs"]["text"] = ["join", 0]
    plan = write_plan(
        tmp_path,
        workflow,
        "axes: {seed: {into: Sample.seed, seeds: 2}}\noutputs: {only: [Save picture, Save scores]}\n",
    )
    cut, sent = tmp_path / "cut", tmp_path / "sent"
    assert "3 done, 0 failed" in sweeps("run", plan, "--store", cut, *own(server.base))
    # The server of these tests has a folder of embeddings in its output folder.
    assert "3 done, 0 failed" in sweeps("run", plan, "--store", sent, "--server", server.url)
    assert contents(cut) == contents(sent)
    # The pictures are those of the whole workflow, trained and sampled in one go.
    pictures = {path.parent.name: path for path in (cut / "done").rglob("*.png")}
    assert len({path.read_bytes() for path in pictures.values()}) == 2
    for key, path in pictures.items():
        whole = server.run(cells(cut)[key]["prompt"]).outputs[ids["Save picture"]]["images"][0]
        assert (np.array(Image.open(path)) == np.array(Image.open(io.BytesIO(server.image(whole))))).all()
    # Without that folder each cell trains.
    facts = sent / "plan" / "plan" / "facts.json"
    remembered = json.loads(facts.read_text())
    remembered["models"] = [folder for folder in remembered["models"] if "output/embeddings" not in folder]
    facts.write_text(json.dumps(remembered))
    out = sweeps("plan", plan, "--store", sent, "--offline")
    assert "2 picture cells, 2 of them in the store" in out
    assert "Train token trains in every cell" in out
    embedding = next((cut / "done").rglob("adapter.safetensors"))
    assert "sweep-token" in embedding.read_bytes()[:4000].decode(errors="replace")


def test_an_adapter_that_was_removed_is_made_when_it_is_needed(
    server: Any, clean: tuple[Path, Path], tmp_path: Path
) -> None:
    plan, clean_store = clean
    store = tmp_path / "store"
    shutil.copytree(clean_store, store)
    removed = next(cell for cell in cells(store).values() if cell["labels"] == {"method": "DEFT", "rank": "3"})["key"]
    (store / "done" / removed[:2] / removed / "adapter.safetensors").unlink()
    assert "every cell is in the store already" in sweeps("run", plan, "--store", store, "--server", server.url)
    assert f"{TRAININGS} of {TRAININGS} done" in sweeps("status", store)
    more = write_plan(tmp_path, trained(), TRAINED.replace("seeds: 2", "seeds: 3"))
    out = sweeps("run", more, "--store", store, "--server", server.url)
    assert out.count("trained") == 1
    assert f"{1 + PICTURES // 2} done, 0 failed" in out  # the third seed's
    files = contents(store)
    assert {name: files[name] for name in contents(clean_store)} == contents(clean_store)


def test_killed_and_run_again(server: Any, clean: tuple[Path, Path], tmp_path: Path) -> None:
    """SIGKILL twice, while a picture and while a training runs, then ComfyUI is killed under the runner, which starts a
    new one; in the end all is as in a clean run."""
    plan, clean_store = clean
    store = tmp_path / "store"
    for word in ("[3/", "trained"):
        process = start("run", plan, "--store", store, *own(server.base))
        read_until(process, word)
        its_server = server_of(process)
        process.kill()
        process.wait()
        psutil.wait_procs([its_server], timeout=30)
        assert not its_server.is_running()
        assert contents(store).items() <= contents(clean_store).items()
    assert "not run" in sweeps("status", plan, "--store", store, status=1)
    process = start("run", plan, "--store", store, *own(server.base))
    read_until(process, "[2/")
    server_of(process).kill()
    out = process.communicate(timeout=200)[0]
    assert process.returncode == 0, out
    assert "trying again" in out
    assert "0 failed, 0 cancelled" in out
    assert contents(store) == contents(clean_store)
    assert list((store / "tmp").iterdir()) == [] or "folders of unfinished work" in sweeps("clean", store)
    sweeps("clean", store, "--yes")
    assert not (store / "tmp").exists()
    assert contents(store) == contents(clean_store)


def test_a_server_that_dies(server: Any, clean: tuple[Path, Path], tmp_path: Path) -> None:
    """ComfyUI is killed under the runner: a new one is started, the cell is run again, the rest goes on."""
    plan, clean_store = clean
    process = start("run", plan, "--store", tmp_path / "store", *own(server.base))
    read_until(process, "[6/")
    server_of(process).kill()
    rest = process.communicate(timeout=200)[0]
    assert process.returncode == 0, rest
    assert "trying again" in rest
    assert contents(tmp_path / "store") == contents(clean_store)


def test_a_cell_that_kills_its_server_is_not_tried_for_ever(server: Any, tmp_path: Path) -> None:
    """The same cell is killed twice: it is written down as failed, the others are done."""
    plan = write_plan(
        tmp_path,
        trained(steps=4000),
        TRAINED.replace("values: [2, 3]", "values: [2]"),
    )
    process = start("run", plan, "--store", tmp_path / "store", *own(server.base))
    read_until(process, "[4/")
    work = tmp_path / "store" / "work" / "server-1"
    for _ in range(2):
        wait_for(lambda: list(work.rglob("log.jsonl")), 120)
        victim = server_of(process)
        victim.kill()
        victim.wait(10)
        for log in work.rglob("log.jsonl"):  # the next one is written by the next server
            log.unlink()
    rest = process.communicate(timeout=200)[0]
    assert process.returncode == 1, rest
    assert "4 done, 1 failed, 0 cancelled, 4 skipped because their training did not finish" in rest
    (failed,) = runs(tmp_path / "store", "failed").values()
    assert "died 2 times while it ran this cell" in failed["error"]
    assert failed["attempts"] == 2
    assert "failed: DEFT · 2" in sweeps("status", tmp_path / "store", status=1)


def test_control_c(server: Any, tmp_path: Path) -> None:
    """One Ctrl+C lets what runs finish, a second one cancels it. The same command goes on afterwards."""
    # A second each. Up to two of them are with the server, so the last is among those that are cancelled: it takes
    # longer, so that both signals arrive in time.
    seeds = "{a: 1, b: 2, c: 3, d: {Sample.seed: 4, Sample.steps: 400}}"
    text = f"axes: {{seed: {{into: Sample.seed, values: {seeds}}}}}\n"
    plan, store = write_plan(tmp_path, trained(sampling=150), text), tmp_path / "store"
    options = ["run", plan, "--store", store, "--server", server.url]
    process = start(*options)
    read_until(process, "[2/5]")
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=100)[0]
    assert process.returncode == 1
    assert "finishing the running cells" in out
    assert "0 failed, 0 cancelled" in out
    assert "run the same command again to continue" in out
    done = len(cells(store))
    assert 2 <= done < 5
    process = start(*options)
    read_until(process, "cells to run")
    wait_for(lambda: server.get("/queue")["queue_running"])
    process.send_signal(signal.SIGINT)
    read_until(process, "finishing")
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=100)[0]
    assert "cancelling the running cells" in out
    assert "0 failed" in out
    assert "0 cancelled" not in out
    assert runs(store, "cancelled")
    assert len(cells(store)) < 5
    wait_for(lambda: not server.get("/queue")["queue_running"] and not server.get("/queue")["queue_pending"])
    assert "0 failed, 0 cancelled" in sweeps(*options)
    assert len(cells(store)) == 5
    assert not runs(store, "cancelled")
    assert not list((store / "claims").iterdir())


def test_two_runners_share_a_store(server: Any, clean: tuple[Path, Path], tmp_path: Path) -> None:
    """Each on its own server: no cell is run twice, and together they give what one gives."""
    plan, clean_store = clean
    store = tmp_path / "store"
    first = start("run", plan, "--store", store, *own(server.base))
    out = read_until(first, "[1/")
    first.send_signal(signal.SIGSTOP)  # or it might be through before the other's server is up
    second = start("run", plan, "--store", store, *own(server.base))
    also = read_until(second, "[1/")
    first.send_signal(signal.SIGCONT)
    out += first.communicate(timeout=200)[0]
    also += second.communicate(timeout=200)[0]
    assert first.returncode == second.returncode == 0, out + also
    counted = [int(line.split(" done")[0]) for text in (out, also) for line in text.splitlines() if " done, " in line]
    assert len(counted) == 2
    assert sum(counted) == TRAININGS + PICTURES
    assert min(counted) > 0
    assert contents(store) == contents(clean_store)
    assert {run["worker"] for run in runs(store).values()} == {"server-1", "server-2"}


def test_two_servers_of_one_runner(server: Any, clean: tuple[Path, Path], tmp_path: Path) -> None:
    plan, clean_store = clean
    process = start("run", plan, "--store", tmp_path / "store", "--workers", "2", *own(server.base))
    out = read_until(process, "[1/")
    assert sum(map(is_comfyui, psutil.Process(process.pid).children())) == 2
    out += process.communicate(timeout=200)[0]
    assert process.returncode == 0, out
    assert contents(tmp_path / "store") == contents(clean_store)
    # One of them may have had everything done before the other was up.
    assert {run["worker"] for run in runs(tmp_path / "store").values()} <= {"server-1", "server-2"}


def test_what_fails_does_not_stop_the_rest(server: Any, tmp_path: Path) -> None:
    """A node that raises: its cell has the error with the name of the node, and the others are done."""
    workflow = copy.deepcopy(trained())
    loader = next(node for node in workflow.values() if node["_meta"]["title"] == "Scorer")
    loader["inputs"]["protocol"] = "demo"
    text = "axes: {protocol: {into: Scorer.protocol, values: [demo, dreambooth]}}\nset: {Scorer.missing: error}\n"
    plan, store = write_plan(tmp_path, workflow, text), tmp_path / "store"
    out = sweeps("run", plan, "--store", store, "--server", server.url, status=1)
    assert "2 done, 1 failed, 0 cancelled" in out
    (failed,) = runs(store, "failed").values()
    assert failed["error"].startswith("Scorer (")
    assert "Traceback" not in failed["error"].splitlines()[0]
    assert "dreambooth" in json.dumps(cells(store, "failed"))
    assert "picture: 1 of 2 done; 1 failed" in sweeps("status", store, status=1)
    assert "1 failed cells" in sweeps("clean", store)
    assert runs(store, "failed")
    sweeps("clean", store, "--yes")
    assert not runs(store, "failed")
    assert len(cells(store)) == 2


def test_files_of_this_machine_are_sent(server: Any, tmp_path: Path) -> None:
    """A picture and a folder of pictures that are not on the server; one name with two contents is two cells."""
    for folder, color in (("one", 10), ("two", 200)):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (16, 16), (color, 0, 0)).save(tmp_path / folder / "photo.png")
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}, "_meta": {"title": "Load"}},
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": "sent/picture"},
            "_meta": {"title": "Save picture"},
        },
    }
    plan = write_plan(tmp_path, workflow, "axes: {photo: {into: Load.image, files: '*/photo.png'}}\n")
    sweeps("run", plan, "--store", tmp_path / "store", "--server", server.url)
    red = {int(np.array(Image.open(path))[0, 0, 0]) for path in (tmp_path / "store" / "done").rglob("*.png")}
    assert red == {10, 200}
    workflow["1"] = {"class_type": "LoadImageDataSetFromFolder", "inputs": {"folder": "x"}, "_meta": {"title": "Load"}}
    plan = write_plan(tmp_path, workflow, "axes: {photos: {into: Load.folder, folders: [one, two]}}\n", "folders")
    sweeps("run", plan, "--store", tmp_path / "folders", "--server", server.url)
    red = {int(np.array(Image.open(path))[0, 0, 0]) for path in (tmp_path / "folders" / "done").rglob("*.png")}
    assert red == {10, 200}


def test_numbers_from_texts_and_previews(server: Any, tmp_path: Path) -> None:
    workflow = {
        "1": {"class_type": "PrimitiveInt", "inputs": {"value": 3}, "_meta": {"title": "Number"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}, "_meta": {"title": "Show"}},
    }
    text = "axes: {n: {into: Number.value, values: [3, 12]}}\noutputs: {numbers: {shown: {node: Show}}}\n"
    plan, store = write_plan(tmp_path, workflow, text), tmp_path / "store"
    sweeps("run", plan, "--store", store, "--server", server.url)
    assert {cell["labels"]["n"]: cell["numbers"] for cell in cells(store).values()} == {
        "3": {"shown": 3.0},
        "12": {"shown": 12.0},
    }
    assert {tuple(run["texts"]["Show"]) for run in runs(store).values()} == {("3",), ("12",)}
    none = write_plan(tmp_path / "none", workflow, "outputs: {numbers: {n: {node: Show, pattern: 'x(.)'}}}\n")
    sweeps("run", none, "--store", tmp_path / "other", "--server", server.url, status=1)
    assert "Show shows no number 'n'" in next(iter(runs(tmp_path / "other", "failed").values()))["error"]


def test_a_full_disk(server: Any, clean: tuple[Path, Path], tmp_path: Path) -> None:
    """A picture that is larger than what may be written: the run stops with a sentence, and nothing half is kept."""
    workflow = copy.deepcopy(TRIVIAL)
    noise = np.random.default_rng(0).integers(0, 255, (600, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    workflow["1"] = {"class_type": "LoadImage", "inputs": {"image": "x.png"}, "_meta": {"title": "Load"}}
    plan = write_plan(tmp_path, workflow, "axes: {photo: {into: Load.image, files: '*.png'}}\n")
    store = tmp_path / "store"
    most = (tmp_path / "noise.png").stat().st_size - 1000
    process = start(
        "run",
        plan,
        "--store",
        store,
        "--server",
        server.url,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )
    out = process.communicate(timeout=100)[0]
    assert process.returncode == 1, out
    assert re.search(r"cannot be used \(\S+\.png could not be written \(File too large\): free some space", out), out
    assert "the same command again" in out, out
    assert contents(store) == {}
    assert list((store / "tmp").iterdir()) == []
    assert not list((store / "claims").iterdir())
    assert "1 done" in sweeps("run", plan, "--store", store, "--server", server.url)


def test_bad_input_is_one_sentence(server: Any, tmp_path: Path) -> None:
    plan, store = write_plan(tmp_path, TRIVIAL, COLORS % 1), tmp_path / "store"
    on = ["--store", store, "--server", server.url]

    def error_of(*words: str | Path) -> str:
        out = sweeps(*words, status=2)
        assert out.startswith("sweeps: "), out
        assert out.count("\n") == 1, out
        return out

    assert "does not exist" in error_of("run", tmp_path / "none.yaml", *on)
    wrong = write_plan(tmp_path, TRIVIAL, "axes: {a: {into: Paint.colour, values: [1]}}\n", "wrong")
    assert "wrong.yaml: the node 'Paint' (EmptyImage) has no input 'colour'; near: color" in error_of(
        "run", wrong, "--store", tmp_path / "w", "--server", server.url
    )
    assert "does not answer as a ComfyUI server" in error_of(
        "run", plan, "--store", store, "--server", "http://127.0.0.1:9"
    )
    assert "is not a ComfyUI folder" in error_of("run", plan, "--store", store, "--comfyui", tmp_path)
    sweeps("run", plan, *on)
    other = write_plan(tmp_path / "other", TRIVIAL, COLORS % 1, "other")
    assert "is the store of the plan 'plan', not of 'other'" in error_of("run", other, *on)
    assert "every cell is in the store already" in sweeps("run", other, *on, "--join")
    assert "is not the store of a sweep" in error_of("status", tmp_path)
    assert "there is no axis 'colour'; near: color" in error_of("report", plan, "--store", store, "--rows", "colour")


def test_a_server_that_cannot_start_says_why(server: Any, tmp_path: Path) -> None:
    plan = write_plan(tmp_path, TRIVIAL, COLORS % 1)
    out = sweeps("run", plan, "--store", tmp_path / "store", "--comfyui-args=--no-such-option", status=2)
    assert "ComfyUI ended at start-up" in out
    assert "--no-such-option" in out


def test_cleaning_what_no_plan_has(server: Any, tmp_path: Path) -> None:
    plan, store = write_plan(tmp_path, TRIVIAL, COLORS % 4), tmp_path / "store"
    sweeps("run", plan, "--store", store, "--server", server.url)
    shorter = write_plan(tmp_path, TRIVIAL, COLORS % 1)
    sweeps("plan", shorter, "--store", store, "--server", server.url)
    assert "3 unused cells" in sweeps("clean", store, "--unused")
    assert len(cells(store)) == 4
    sweeps("clean", store, "--unused", "--yes")
    assert [cell["labels"] for cell in cells(store).values()] == [{"color": "1"}]


@pytest.mark.skipif(not os.environ.get("DEFT_OLD_COMFYUI"), reason="no older ComfyUI is named")
def test_on_the_oldest_comfyui(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base model and a method on ComfyUI 0.24.0; in a process of its own, whose memory is measured."""
    monkeypatch.setenv("PYTHONPATH", os.environ["DEFT_OLD_PINS"])
    text = TRAINED.replace("values: [2, 3]", "values: [2]").replace("seeds: 2", "seeds: 1")
    plan, store = write_plan(tmp_path, trained(), text), tmp_path / "store"
    old = ["--comfyui", os.environ["DEFT_OLD_COMFYUI"], *own(server.base)]
    assert "5 done, 0 failed" in sweeps("run", plan, "--store", store, *old)
    records = runs(store).values()
    assert {run["versions"]["comfyui"] for run in records} == {"0.24.0"}
    assert all(run["memory"]["process"] > 100 for run in records)
