"""Score Table in a real ComfyUI: its forms, the score file over several runs, and the report; and Save Scores."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .scorers import make_files, scoring

OTHER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print('{"host": "attic", "pid": 12}', file=file, flush=True)
print(flush=True)
input()
lines = open(sys.argv[2]).read()
open(sys.argv[2], "w").write(lines + lines.replace("first", "other"))
"""
SUFFIXES = ("png", "md", "csv", "tex", "jsonl")


@pytest.fixture(scope="module", autouse=True)
def files(comfyui_session) -> None:
    make_files(comfyui_session.base)


def table(label: str = "DEFT r4", **inputs: Any) -> dict:
    """A prompt with a table of one row."""
    prompt = scoring(label=label)
    prompt["table"] = {"class_type": "DEFTScoreTable", "inputs": {"scores.scores0": ["score", 0]} | inputs}
    return prompt


def two_rows(other: dict, **inputs: Any) -> dict:
    """A prompt with a second row, of other inputs of Score Images."""
    prompt = table(**inputs)
    prompt["score2"] = {"class_type": "DEFTScoreImages", "inputs": prompt["score"]["inputs"] | other}
    prompt["table"]["inputs"]["scores.scores1"] = ["score2", 0]
    return prompt


def labels(text: str) -> list[str]:
    """The labels in a score file."""
    return [json.loads(line)["label"] for line in text.splitlines()]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_inputs_and_outputs_keep_their_places(comfyui):
    """Saved workflows know them by number."""
    schema = comfyui.pack_nodes["DEFTScoreTable"].GET_SCHEMA()
    assert [item.id for item in schema.inputs] == [
        "scores",
        "title",
        "filename_prefix",
        "rows",
        "append_to",
        "published",
    ]
    assert [item.display_name for item in schema.outputs] == ["image", "markdown", "csv", "jsonl", "latex", "report"]
    assert all(item.optional for item in schema.inputs[1:])


def test_table_in_all_its_forms(comfyui):
    prompt = two_rows({"images": ["real", 0], "label": "upper bound"}, title="Dog", filename_prefix="tables/dog")
    run = comfyui.run(prompt, want=["table"])
    markdown, csv, jsonl, latex, report = (run.output("table", slot) for slot in range(1, 6))
    assert run.text("table") == markdown
    assert "| upper bound | 2 | **" in markdown
    assert csv.splitlines()[0] == (
        "method,images,CLIP-I,CLIP-I low,CLIP-I high,CLIP-T,CLIP-T low,CLIP-T high,DINO,DINO low,DINO high"
    )
    assert labels(jsonl) == ["DEFT r4"] * 3 + ["upper bound"] * 3
    assert "\\caption{Dog}" in latex
    assert "upper bound & 2 & \\textbf{" in latex
    assert [line.split(":")[0] for line in report.splitlines()[:3]] == ["CLIP-I", "CLIP-T", "DINO"]
    assert all(line in markdown for line in report.splitlines())
    assert run.output("table").shape[0] == 1
    assert run.output("table").shape[3] == 3
    assert len(run.ui["table"]["images"]) == 1
    folder = comfyui.base / "output" / "tables"
    assert names(folder) == {f"dog_00001_.{suffix}" for suffix in SUFFIXES}
    assert set(run.files("table")) == {f"tables/dog_00001_.{suffix}" for suffix in SUFFIXES}
    assert (folder / "dog_00001_.csv").read_text() == csv
    assert (folder / "dog_00001_.tex").read_text() == latex
    prompt["table"]["inputs"]["title"] = "Dog again"
    comfyui.run(prompt)
    assert (folder / "dog_00002_.md").read_text().startswith("### Dog again")


def test_letters_that_no_font_has_are_named_at_the_node(comfyui):
    run = comfyui.run(table(title="Dog \U00010330"), want=["table"])
    assert "no font on this computer has these letters, which are drawn as boxes: \U00010330." in run.text("table")
    assert run.text("table").endswith(run.output("table", 1))
    assert "\U00010330. Install a font" in run.output("table", 5)
    assert "Warning" not in run.output("table", 1)


def test_files_stay_in_the_output_folder(comfyui):
    assert "outside the output folder" in comfyui.fail(table(filename_prefix="../../escaped")).message


def test_a_hostile_label_stays_a_label(comfyui):
    run = comfyui.run(table("50% a_b & \\input{x} | c"), want=["table"])
    assert run.files("table") == []
    assert "| 50% a_b & \\input{x} \\| c | 2 |" in run.output("table", 1)
    assert "50\\% a\\_b \\& \\textbackslash{}input\\{x\\} \\textbar{} c & 2 &" in run.output("table", 4)


def test_equal_rows_tie(comfyui):
    run = comfyui.run(two_rows({"label": "the same"}), want=["table"])
    assert "| the same | 2 | ~" in run.output("table", 1)
    assert (
        "DINO: DEFT r4 has the best mean, but nothing is distinguishable from it (95% interval of the paired "
        "difference contains 0)."
    ) in run.output("table", 5)


def test_rows_by_subject(comfyui):
    other = {"images": ["real", 0], "subject": "cat"}
    run = comfyui.run(two_rows(other), want=["table"])
    assert "| DEFT r4 | 4 |" in run.output("table", 1)
    run = comfyui.run(two_rows(other, rows="method x subject"), want=["table"])
    lines = run.output("table", 1).splitlines()
    assert lines[0].startswith("| method | subject | images | CLIP-I \u2191 |")
    assert lines[2].startswith("| DEFT r4 | dog | 2 |")
    assert lines[3].startswith("| DEFT r4 | cat | 2 |")


def test_runs_append_without_duplicates(comfyui):
    path = comfyui.base / "output" / "appended" / "scores.jsonl"
    first = comfyui.run(table("first", append_to="appended/scores"), want=["table"])
    assert path.read_text() == first.output("table", 3)
    assert labels(path.read_text()) == ["first"] * 3
    assert first.files("table") == ["appended/scores.jsonl"]
    second = comfyui.run(table("second", append_to="appended/scores.jsonl"), want=["table"])
    assert path.read_text() == second.output("table", 3)
    assert labels(path.read_text()) == ["first"] * 3 + ["second"] * 3
    assert second.output("table", 2).count("\nfirst,") == second.output("table", 2).count("\nsecond,") == 1
    before = path.read_bytes()
    again = comfyui.run(table("first", append_to="appended/scores"), want=["table"])
    assert path.read_bytes() == before
    assert again.output("table", 1) == second.output("table", 1)
    assert names(path.parent) == {"scores.jsonl"}  # no temporary file is left


def test_a_changed_or_deleted_file_is_noticed(comfyui):
    """Noticed once more after its own writing, then from the cache, and again when somebody else touches the file."""
    folder = comfyui.base / "output" / "noticed"
    prompt = table("mine", append_to="noticed/scores", filename_prefix="noticed/table")

    def runs() -> int:
        comfyui.run(prompt)
        return len(list(folder.glob("table_*_.md")))

    path = folder / "scores.jsonl"
    assert [runs() for _ in range(4)] == [1, 2, 2, 2]
    path.write_text(path.read_text().replace('"mine"', '"theirs"'))
    assert runs() == 3
    assert labels(path.read_text()) == ["theirs"] * 3 + ["mine"] * 3
    assert [runs() for _ in range(2)] == [4, 4]
    path.unlink()
    assert runs() == 5
    assert labels(path.read_text()) == ["mine"] * 3
    path.unlink()
    assert runs() == 6
    assert path.exists()


def test_without_a_score_file_runs_come_from_the_cache(comfyui):
    folder = comfyui.base / "output" / "cached"
    for _ in range(3):
        comfyui.run(table(filename_prefix="cached/table"))
    assert names(folder) == {f"table_00001_.{suffix}" for suffix in SUFFIXES}


@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped", "{outside}/escaped", "folder/", "linked/escaped"])
def test_the_score_file_stays_in_the_output_folder(comfyui, tmp_path, name):
    link = comfyui.base / "output" / "linked"
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path, target_is_directory=True)
    name = name.format(outside=tmp_path)
    failed = comfyui.fail(table(append_to=name))
    assert failed.node_type == "DEFTScoreTable"
    assert f"append_to: {name!r} is not a file inside" in failed.message
    assert list(comfyui.base.rglob("escaped*")) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"{broken\n", b'{"metric": "DINO"}\n', b"\xff\xfe\n", b"17\n"])
def test_a_damaged_line_costs_that_line(comfyui, damage):
    """The line is named at the node, and stays in the file as it is."""
    path = comfyui.base / "output" / "damaged" / "scores.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    comfyui.run(table("good", append_to="damaged/scores"))
    good = path.read_bytes()
    path.write_bytes(damage + good)
    for _ in range(2):
        run = comfyui.run(table("new", append_to="damaged/scores"), want=["table"])
        text = run.text("table")
        assert text.startswith(f"append_to: {path}, line 1, is not")
        assert text.partition("\n")[0].endswith("It is skipped.")
        assert labels(run.output("table", 3)) == ["good"] * 3 + ["new"] * 3
        assert path.read_bytes() == run.output("table", 3).encode() + damage
        path.write_bytes(damage + path.read_bytes().removesuffix(damage))
    assert names(path.parent) == {"scores.jsonl"}


def test_a_file_of_another_kind_is_named_and_left_alone(comfyui):
    path = comfyui.base / "output" / "another" / "scores.jsonl"
    path.parent.mkdir()
    path.write_bytes(b'\n{"prompt": "a dog"}\n')
    failed = comfyui.fail(table("new", append_to="another/scores", filename_prefix="another/table"))
    assert f"append_to: {path}, line 2, is not" in failed.message
    assert path.read_bytes() == b'\n{"prompt": "a dog"}\n'
    assert names(path.parent) == {"scores.jsonl"}


def test_tables_of_two_processes_lose_no_scores(comfyui, monkeypatch):
    """The second one waits for the first one, and after a while says for whom."""
    path = comfyui.base / "output" / "shared" / "scores.jsonl"
    comfyui.run(table("first", append_to="shared/scores"))
    before = path.read_bytes()
    command = [sys.executable, "-c", OTHER, str(path.with_name(".scores.jsonl.lock")), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        monkeypatch.setattr(comfyui.module("nodes.tables"), "_PATIENCE", 0.2)
        failed = comfyui.fail(table("second", append_to="shared/scores"))
        assert f"append_to: {path} has been in use for 0 s (process 12 on attic): run this again" in failed.message
        assert path.read_bytes() == before
        monkeypatch.undo()
        threading.Timer(0.5, other.stdin.write, [b"\n"]).start()
        threading.Timer(0.6, other.stdin.flush).start()
        comfyui.run(table("second", append_to="shared/scores"))
    assert labels(path.read_text()) == ["first"] * 3 + ["other"] * 3 + ["second"] * 3
    assert names(path.parent) == {"scores.jsonl"}


@pytest.mark.parametrize("node", ["table", "save"])
def test_a_full_disk(comfyui, node):
    """The limit on a file's size stands for it: writing fails in the same way. What was there is as it was."""
    if node == "table":
        prompt = lambda: table("second", append_to="full/scores", filename_prefix="full/table")  # noqa: E731
        comfyui.run(table("first", append_to="full/scores"))
    else:
        prompt = lambda: saving("second", filename_prefix="full/saved")  # noqa: E731
        (comfyui.base / "output" / "full").mkdir(exist_ok=True)
    folder = comfyui.base / "output" / "full"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, limit[1]))
        failed = comfyui.fail(prompt())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    form = rf"{re.escape(str(folder))}/s\w+\.jsonl could not be written \(.*\): free some space"
    assert re.search(form, failed.message)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    comfyui.run(prompt())
    assert len(names(folder)) > len(before)


def test_scores_that_do_not_compare_leave_the_file_alone(comfyui):
    path = comfyui.base / "output" / "other" / "scores.jsonl"
    comfyui.run(table("first", append_to="other/scores"))
    before = path.read_bytes().replace(b"demo DINO", b"other DINO")
    path.write_bytes(before)
    assert "measured in two ways" in comfyui.fail(table("second", append_to="other/scores")).message
    assert path.read_bytes() == before


def test_report_beside_a_published_table(comfyui):
    prompt = table("deft_r4", published="DEFT supplement, Table 1", filename_prefix="reports/cat", title="Mine")
    prompt["score"]["inputs"]["subject"] = "cat"
    run = comfyui.run(prompt, want=["table"])
    report = run.output("table", 5)
    assert "\n# Mine\n" in report
    assert "1 of 27 published rows have a measured one." in report
    assert "| DEFT | 4 | CAT | 0.9280 | deft_r4 | " in report
    assert "| TI" not in report
    assert "| DEFT | 8 | CAT | 0.9504 | not measured |  |  |" in report
    assert "**Warning:** CLIP-I was measured under the protocol demo at scale 1" in report
    assert "The best number of DOG8 is that of PaRa r8 (0.8955), not DEFT's." in report
    folder = comfyui.base / "output" / "reports"
    assert names(folder) == {f"cat_00001_.{suffix}" for suffix in (*SUFFIXES, "report.md", "report.html")}
    assert report.endswith((folder / "cat_00001_.report.md").read_text())
    assert "<h1>Mine</h1>" in (folder / "cat_00001_.report.html").read_text()
    comfyui.run(prompt | {"table": {**prompt["table"], "inputs": prompt["table"]["inputs"] | {"title": "2"}}})
    assert (folder / "cat_00002_.report.html").exists()


@pytest.mark.parametrize("inputs", [{"published": "Table 3"}, {"rows": "subject"}])
def test_unknown_choices_do_not_pass(comfyui, inputs):
    assert comfyui.fail(table(**inputs)).stage == "validation"


# -------------------------------------------------------------------------------------------------------- Save Scores


def saving(label: str = "DEFT r4", **inputs: Any) -> dict:
    """A prompt that saves the scores of one row."""
    prompt = scoring(label=label)
    prompt["save"] = {
        "class_type": "DEFTSaveScores",
        "inputs": {"scores.scores0": ["score", 0], "filename_prefix": "saved/dog"} | inputs,
    }
    return prompt


def test_scores_are_saved_one_file_a_run(comfyui):
    prompt = saving()
    prompt["score2"] = {
        "class_type": "DEFTScoreImages",
        "inputs": prompt["score"]["inputs"] | {"images": ["real", 0], "label": "upper bound"},
    }
    prompt["save"]["inputs"]["scores.scores1"] = ["score2", 0]
    run = comfyui.run(prompt, want=["save", "score"])
    folder = comfyui.base / "output" / "saved"
    text = run.output("save")
    assert run.files("save") == ["saved/dog_00001_.jsonl"]
    assert names(folder) == {"dog_00001_.jsonl"}
    assert (folder / "dog_00001_.jsonl").read_text() == text
    assert labels(text) == ["DEFT r4"] * 3 + ["upper bound"] * 3
    assert json.loads(text.splitlines()[0])["provenance"]
    assert text.startswith(run.output("score").jsonl())
    assert run.output("score", 5) in run.text("save")
    assert "upper bound of dog: DINO" in run.text("save")
    # The same again comes from the cache; something new gets a number of its own.
    assert comfyui.run(prompt).files("save") == ["saved/dog_00001_.jsonl"]
    assert len(names(folder)) == 1
    assert comfyui.run(saving("LoRA r4")).files("save") == ["saved/dog_00002_.jsonl"]
    # Score Table reads such a file as its own.
    shown = comfyui.run(table("new", append_to="saved/dog_00001_"), want=["table"])
    assert labels(shown.output("table", 3)) == ["DEFT r4"] * 3 + ["upper bound"] * 3 + ["new"] * 3


def test_scores_are_saved_without_a_folder(comfyui):
    assert comfyui.run(saving(filename_prefix=" only ")).files("save") == ["only_00001_.jsonl"]
    assert (comfyui.base / "output" / "only_00001_.jsonl").is_file()


def test_saved_scores_stay_in_the_output_folder(comfyui):
    failed = comfyui.fail(saving(filename_prefix="../../escaped"))
    assert failed.node_type == "DEFTSaveScores"
    assert "outside the output folder" in failed.message
    assert list(comfyui.base.rglob("escaped*")) == []


def test_a_score_file_behind_a_link_is_listed_where_it_lies(comfyui):
    """The output folder itself may be a link to another disk."""
    import folder_paths

    output = comfyui.base / "output"
    link = comfyui.base / "linked output"
    link.symlink_to(output, target_is_directory=True)
    try:
        folder_paths.set_output_directory(str(link))
        run = comfyui.run(table("first", append_to="behind/scores", filename_prefix="behind/table"))
    finally:
        folder_paths.set_output_directory(str(output))
        link.unlink()
    assert set(run.files("table")) == {"behind/scores.jsonl", *(f"behind/table_00001_.{end}" for end in SUFFIXES)}


def test_two_who_save_at_once_overwrite_nothing(comfyui):
    save = comfyui.module("nodes.output").save_files
    with ThreadPoolExecutor(4) as pool:
        files = [file for (file,) in pool.map(lambda n: save("both/x", {"txt": str(n).encode()}), range(40))]
    assert len(set(files)) == 40
    assert [file.read_text() for file in files] == list(map(str, range(40)))
    assert names(files[0].parent) == {file.name for file in files}
