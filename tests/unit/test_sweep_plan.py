"""Plans: what a YAML file says, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from deft_pack.sweeps.axes import LocalFile
from deft_pack.sweeps.plan import Plan, read_plan

MINIMAL = "workflow: w.json\n"


def plan_of(folder: Path, text: str) -> Plan:
    path = folder / "plan.yaml"
    path.write_text(text)
    return read_plan(path)


def values_of(plan: Plan, axis: str) -> list[object]:
    """What the values of an axis set, one target each."""
    declared = next(each for each in plan.axes if each.name == axis)
    return [value.targets[0][1] for value in declared.values]


def test_the_smallest_plan(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, MINIMAL)
    assert (plan.name, plan.workflow, plan.axes) == ("plan", tmp_path / "w.json", ())


def test_lists_ranges_and_seeds(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        MINIMAL
        + """
axes:
  rank: {into: Train.rank, values: [4, 8]}
  named: {into: [A.x, B.y], values: {small: 1, large: 2}}
  strength: {into: Apply.strength, range: {from: 0.1, to: 0.7, step: 0.1}}
  back: {into: A.x, range: {from: 3, to: 1, step: -1}}
  seed: {into: Sample.seed, seeds: 3, first: 42}
  chosen: {into: Sample.seed, seeds: [7, 11]}
  word: [red, blue]
""",
    )
    assert values_of(plan, "rank") == [4, 8]
    assert plan.axes[1].values[0].targets == (("A.x", 1), ("B.y", 1))
    assert plan.axes[1].values[1].label == "large"
    assert values_of(plan, "strength") == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]  # no 0.30000000000000004
    assert values_of(plan, "back") == [3, 2, 1]
    assert values_of(plan, "seed") == [42, 43, 44]
    assert values_of(plan, "chosen") == [7, 11]
    assert plan.axes[-1].values[0].targets == (("%word%", "red"),)


def test_values_that_set_several_inputs_and_switches(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        MINIMAL
        + """
axes:
  method:
    values:
      Base: {mute: Train, bypass: [Apply, Other], without: rank}
      DEFT r4: {Train.method: deft, Train.method.rank: 4}
      as it is:
  rank: {into: Train.rank, values: [4, 8]}
""",
    )
    base, deft, plain = plan.axes[0].values
    assert (base.mute, base.bypass, base.without, base.targets) == (("Train",), ("Apply", "Other"), ("rank",), ())
    assert deft.targets == (("Train.method", "deft"), ("Train.method.rank", 4))
    assert (plain.label, plain.targets) == ("as it is", ())


def test_rows_of_a_csv(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "subjects.csv").write_text(
        '\ufeffname,folder,class,kind\ncat,a/cat,cat,live\n"vase, red",a/vase,vase,object\n', encoding="utf-8"
    )
    (tmp_path / "lists" / "a" / "cat").mkdir(parents=True)
    text = (
        MINIMAL
        + """
axes:
  subject:
    csv: lists/subjects.csv
    label: name
    into: {folder: Photos.folder, class: ["%class%", Score.subject]}
"""
    )
    plan = plan_of(tmp_path, text)
    cat, vase = plan.axes[0].values
    assert cat.targets == (("Photos.folder", "a/cat"), ("%class%", "cat"), ("Score.subject", "cat"))
    assert vase.label == "vase, red"
    assert vase.facts["kind"] == "object"
    only = plan_of(tmp_path, text + "    only: {kind: [live]}\n    upload: folder\n")
    assert [value.label for value in only.axes[0].values] == ["cat"]
    assert only.axes[0].values[0].targets[0][1] == LocalFile(tmp_path / "lists" / "a" / "cat")


def test_files_and_folders(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", ".hidden.png", "c.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "dog").mkdir()
    plan = plan_of(
        tmp_path,
        MINIMAL
        + f"""
axes:
  photo: {{into: Load.image, files: "*.png"}}
  same: {{into: Load.image, files: ["{tmp_path}/a.png"]}}
  folder: {{into: Photos.folder, folders: "*"}}
""",
    )
    assert values_of(plan, "photo") == [LocalFile(tmp_path / "a.png"), LocalFile(tmp_path / "b.png")]
    assert values_of(plan, "same") == [LocalFile(tmp_path / "a.png")]
    assert [value.label for value in plan.axes[2].values] == ["dog"]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.png").write_bytes(b"x")
    plan = plan_of(tmp_path, MINIMAL + "axes: {photo: {into: Load.image, files: '*/photo.png'}}\n")
    assert [value.label for value in plan.axes[0].values] == [f"{tmp_path}/{name}/photo.png" for name in ("one", "two")]


def test_output_rules_and_report(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        MINIMAL
        + r"""
outputs: {only: Save, previews: true, numbers: {score: {node: Show, pattern: "score (\\d+)"}, any: {node: Show}}}
report: {rows: [method]}
""",
    )
    assert plan.outputs.only == ("Save",)
    assert plan.outputs.previews
    assert plan.outputs.numbers[0].pattern.search("score 12").group(1) == "12"
    assert plan.outputs.numbers[1].pattern.search("it is -1.5e3 there").group() == "-1.5e3"
    assert plan.report == {"rows": ["method"]}


AXIS = MINIMAL + "axes:\n  a: "
WRONG = {
    "workflw: w.json\n": "unknown word 'workflw'; near: workflow",
    "name: x\n": "`workflow` is missing",
    "name: ../x\nworkflow: w\n": "`name` is '../x'",
    "- a\n": "the plan must be a mapping",
    "a: [1\n": "is not valid YAML",
    AXIS + "{into: A.x, vales: [1]}\n": "the axis a has the unknown word 'vales'; near: values",
    AXIS + "{into: A.x}\n": "needs one of values, range, seeds",
    AXIS + "{into: A.x, values: [1], seeds: 2}\n": "and has values and seeds",
    AXIS + "{values: [1]}\n": "the axis a: `into` is missing",
    AXIS + "{into: A.x, values: [1, 1]}\n": "two values that are called '1'",
    AXIS + "{into: A.x, values: []}\n": "the axis a has no values",
    AXIS + "{into: A.x, values: [[1]]}\n": "the axis a: `values`: value 1 is set to [1]; write a plain value",
    AXIS + "{into: A.x, range: {from: 1}}\n": "the axis a: `range`: `to` is missing: write the last number",
    AXIS + "{into: A.x, range: {from: 1, to: 5, step: 0}}\n": "is never reached",
    AXIS + "{into: A.x, range: {from: 1, to: 0}}\n": "is never reached",
    AXIS + "{into: A.x, range: {from: 1, to: 1.0e9}}\n": "1,000,000,000 values; 100,000 are the most",
    AXIS + "{into: A.x, range: {from: one, to: 2}}\n": "`range`: `from` is 'one': write a number",
    AXIS + "{into: A.x, seeds: 0}\n": "`seeds` is 0: write how many there are",
    AXIS + "{into: A.x, seeds: 2, first: 1.5}\n": "`first` is 1.5: write the first seed",
    AXIS + "{into: A.x, files: '*.png'}\n": "no files are found under *.png",
    AXIS + "{csv: no.csv, into: A.x}\n": "no.csv does not exist",
    AXIS + "{csv: t.csv, into: {nme: A.x}}\n": "has no column 'nme'; near: name",
    AXIS + "{csv: t.csv, into: {name: A.x}, only: {knd: x}}\n": "has no column 'knd'; near: kind",
    AXIS + "{csv: short.csv, into: A.x}\n": "short.csv, line 2: it has not as many values",
    AXIS + "{csv: long.csv, into: A.x}\n": "long.csv, line 2: it has not as many values",
    AXIS + "{csv: bytes.csv, into: A.x}\n": "bytes.csv cannot be read",
    AXIS + "{csv: t.csv, into: {name: A.x}, upload: name}\n": "cat does not exist",
    AXIS + "{csv: t.csv, into: {name: A.x}, match: kind}\n": "matches by the column 'kind'",
    AXIS + "{values: {x: {without: rnk}}}\n  rank: [1]\n": "`without` names 'rnk', which is no other axis; near: rank",
    AXIS + "{into: A.x, values: [1]}\nexclude: [{b: 1}]\n": "`exclude` names 'b'",
    AXIS + "{into: A.x, values: [1]}\nexclude: [{}]\n": "a rule of `exclude` is empty",
    MINIMAL + "outputs: {ony: [x]}\n": "`outputs` has the unknown word 'ony'; near: only",
    MINIMAL + "outputs: {numbers: {n: {node: A, pattern: '('}}}\n": "is no regular expression",
    MINIMAL + f"outputs: {{numbers: {{n: {{node: A, pattern: 'a{{{'9' * 20}}}'}}}}}}\n": "is no regular expression",
    MINIMAL
    + f"outputs: {{numbers: {{n: {{node: A, pattern: '{'(' * 3000}{')' * 3000}'}}}}}}\n": "is no regular expression",
    MINIMAL
    + "outputs: {numbers: {n: {pattern: x}}}\n": "the number 'n': `node` is missing: write the title of the node",
    MINIMAL + "report: {row: [x]}\n": "unknown word 'row'; near: rows",
    MINIMAL + "report: {published: [PEFT]}\n": "`published` is set to ['PEFT']; write a plain value",
    MINIMAL + "report: {rows: {a: b}}\n": "`report`: `rows` is {'a': 'b'}: write a name",
    AXIS + "3\n": "the axis a must be a mapping of values, range, seeds",
    AXIS + "{into: A.x, values: 3}\n": "`values` is 3: write a list of plain values, or a mapping of labels",
    AXIS + "{into: A.x, seeds: true}\n": "`seeds` is True: write how many there are",
    AXIS
    + "{into: A.x, range: {from: 1, to: 2, by: 3}}\n": "`range` has the unknown word 'by'; there are: from, to, step",
    AXIS + "{into: A.x, range: {from: true, to: 2}}\n": "`range`: `from` is True: write a number",
    AXIS + "{into: A.x, range: {from: .nan, to: 2}}\n": "`range`: `from` is nan: write a number",
    AXIS + "{into: A.x, range: {from: 1" + 400 * "0" + ", to: 2}}\n": "`range`: `from` is 1000",
    AXIS + "{values: {x: {A.y: [1]}}}\n": "the axis a: `values`: `x`: `A.y` is set to [1]; write a plain value",
    AXIS + "{csv: t.csv, into: A.x, only: 3}\n": "the axis a: `only` must be a mapping (name: value), not 3",
    MINIMAL + "axes: [1]\n": "`axes` must be a mapping (name: value), not [1]",
    MINIMAL + "exclude: {a: 1}\n": "`exclude` is {'a': 1}: write a list of rules",
    MINIMAL + "exclude: [3]\n": "a rule of `exclude` must be a mapping (name: value), not 3",
    MINIMAL + "outputs: {previews: perhaps}\n": "`outputs`: `previews` is 'perhaps': write true or false",
    MINIMAL + "outputs: {numbers: {n: {nod: A}}}\n": "the number 'n' has the unknown word 'nod'; near: node",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: WRONG[text][:40])
def test_what_is_wrong_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text("name,kind\ncat,live\n")
    (tmp_path / "short.csv").write_text("name,kind\ncat\n")
    (tmp_path / "long.csv").write_text("name,kind\ncat,live,more\n")
    (tmp_path / "bytes.csv").write_bytes(b"name\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"plan\.yaml") as caught:
        plan_of(tmp_path, text)
    assert WRONG[text] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_left_empty_is_not_there(tmp_path: Path) -> None:
    text = "name:\nset:\naxes:\nexclude:\noutputs: {only: , numbers: }\nreport: {rows: }\n"
    assert plan_of(tmp_path, MINIMAL + text) == plan_of(tmp_path, MINIMAL)


def test_a_missing_plan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_plan(tmp_path / "none.yaml")
