"""Plans against a small server's nodes: keys, order, labels, rules, what a value sets, and what is refused."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import pytest

from deft_pack.sweeps import cells as compiling
from deft_pack.sweeps.planned import adapter_name
from deft_pack.sweeps.schedule import Schedule

from .sweep_nodes import (
    COLORS,
    INFO,
    TRIVIAL,
    Workflow,
    compiled,
    inputs,
    keys,
    kinds,
    labels,
    node,
    token_trained,
    training,
    twice_trained,
)

# ---------------------------------------------------------------------------------------------------------------- keys


def test_a_key_is_what_is_run(tmp_path: Path) -> None:
    """Ids, titles, the order of nodes and nodes that nothing needs are nothing; values, types and connections are."""
    _, first = compiled(tmp_path / "a", TRIVIAL, COLORS)
    renamed = {
        "x": node("SaveImage", "Another title", images=["y", 0], filename_prefix="sweeps/trivial"),
        "y": copy.deepcopy(TRIVIAL["1"]),
        "unused": node("EmptyImage", "not connected", color=5),
    }
    _, second = compiled(tmp_path / "b", renamed, COLORS)
    assert keys(second) == keys(first)
    assert len(set(keys(first))) == 3
    others = [copy.deepcopy(TRIVIAL) for _ in range(3)]
    others[0]["1"]["inputs"]["width"] = 33
    others[1]["1"]["inputs"] |= {"width": 32, "height": 33}
    others[2] |= {"3": node("ImageInvert", "Invert", image=["1", 0])}
    others[2]["2"]["inputs"]["images"] = ["3", 0]
    every = [keys(compiled(tmp_path / f"other{index}", each, COLORS)[1]) for index, each in enumerate(others)]
    assert len({key for each in [keys(first), *every] for key in each}) == 3 * 4
    # The same cell by another plan: the value is fixed here.
    assert keys(compiled(tmp_path / "fixed", TRIVIAL, "set: {Paint.color: 2}\n")[1]) == keys(first)[1:2]


def test_a_key_is_the_same_in_every_version(tmp_path: Path) -> None:
    """Stores are folders named by keys. Numbers are hashed in their input's type, all else as the workflow has it."""
    workflow = {
        "1": node("EmptyImage", "Paint", width=32.0, height=32, color=0),
        "2": node("SaveImage", "Save", images=["1", 0], filename_prefix="größe"),
        "3": node("StringConcatenate", "Join", string_a=5, string_b="5"),
        "4": node("PreviewAny", "Show", source=["3", 0]),
    }

    def hashed(*parts: bytes) -> bytes:
        return hashlib.sha256(b"".join(parts)).digest()[:16]

    paint = hashed(b"EmptyImage", b"\0color\0=0", b"\0height\0=32", b"\0width\0=32")
    save = hashed(b"SaveImage", b"\0filename_prefix\0=", '"größe"'.encode(), b"\0images\0>", paint, b"0")
    join = hashed(b"StringConcatenate", b"\0string_a\0=5", b'\0string_b\0="5"')
    show = hashed(b"PreviewAny", b"\0source\0>", join, b"0")
    expected = hashlib.sha256(b"picture" + b"".join(sorted((save, show)))).hexdigest()[:32]
    assert keys(compiled(tmp_path, workflow)[1]) == [expected]


def test_the_slot_of_a_connection_is_part_of_the_key(tmp_path: Path) -> None:
    workflow = {"1": node("LoadImage", "Load", image="x.png"), "2": node("PreviewAny", "Show", source=["1", 0])}
    first = keys(compiled(tmp_path / "a", workflow)[1])
    workflow["2"]["inputs"]["source"] = ["1", 1]
    assert keys(compiled(tmp_path / "b", workflow)[1]) != first


def test_a_number_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    """1 and 1.0 are one strength; as a text they are two."""
    cell_keys = [
        keys(compiled(tmp_path / str(index), training(), f"set: {{{target}: {value}}}\n")[1])[0]
        for index, (target, value) in enumerate([("Sample.cfg", 2), ("Sample.cfg", 2.0), ("Sample.cfg", '"2"')])
    ]
    assert len(set(cell_keys)) == 1
    texts = [keys(compiled(tmp_path / f"t{each}", training(), f"set: {{Prompt.text: '{each}'}}\n")[1]) for each in "ab"]
    assert texts[0] != texts[1]


def test_a_number_of_the_workflow_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    """A person who saves 3 and one who saves 3.0 have the same cell."""
    workflow = training()
    first = keys(compiled(tmp_path / "a", workflow)[1])
    workflow["8"]["inputs"]["cfg"], workflow["4"]["inputs"]["steps"] = 3, 100.0
    assert keys(compiled(tmp_path / "b", workflow)[1]) == first
    workflow["8"]["inputs"]["cfg"] = 4
    assert keys(compiled(tmp_path / "c", workflow)[1]) != first


SWITCHED = """
axes:
  seed: {into: Sample.seed, seeds: 2}
  method: {values: {Base: {mute: Train, bypass: Apply}, DEFT: {Train.method: deft}, LoRA: {Train.method: lora}}}
  prompt: {into: [Prompt.text, Score.text], values: [a cat, "a %thing%"]}
  thing: [dog, teapot]
  rank: {into: Train.method.rank, values: [2, 4]}
"""


def test_incremental_keys_are_those_of_single_cells(tmp_path: Path) -> None:
    """Only nodes behind an axis that moved are hashed again: each cell has to come out as if it stood alone."""
    compiler, cells = compiled(tmp_path, training(), SWITCHED)
    assert len(cells.pictures) == 2 * 3 * 2 * 2 * 2
    assert len(cells.trainings) == 4
    for index, cell in enumerate(cells.pictures):
        seed, method, prompt, thing, rank = cell.choice
        text = ["a cat", "'a %thing%'"][prompt]
        switch = ["{mute: Train, bypass: Apply}", "{Train.method: deft}", "{Train.method: lora}"][method]
        lines = [
            "axes:",
            f"  seed: {{into: Sample.seed, seeds: 1, first: {seed}}}",
            f"  method: {{values: {{one: {switch}}}}}",
            f"  prompt: {{into: [Prompt.text, Score.text], values: [{text}]}}",
            f"  rank: {{into: Train.method.rank, values: [{[2, 4][rank]}]}}",
            f"  thing: [{['dog', 'teapot'][thing]}]",
        ]
        alone = "\n".join(lines if prompt else lines[:-1])  # the thing stands in the second prompt only
        (single,) = compiled(tmp_path / str(index), training(), alone)[1].pictures
        assert (single.key, single.models, single.needs) == (cell.key, cell.models, cell.needs)
    # "a cat" does not change with the thing, and the base model has no rank: equal cells have equal keys.
    assert len({json.dumps(each) for each in labels(compiler, cells)}) == len(cells.pictures)
    assert len(set(keys(cells))) == 2 * 3 * (1 + 2 * 2)


def test_equal_models_are_told_by_equal_bytes(tmp_path: Path) -> None:
    """What loads a model, and it alone, decides which cells share what a server has in memory."""
    text = "axes: {model: {into: Model.unet_name, values: [base, other]}, seed: {into: Sample.seed, seeds: 2}}\n"
    compiler, cells = compiled(tmp_path, training(), text)
    models = {
        each["model"]: {cell.models for cell, other in zip(cells.pictures, labels(compiler, cells)) if other == each}
        for each in labels(compiler, cells)
    }
    assert len(models["base"]) == len(models["other"]) == 1
    assert models["base"] != models["other"]
    assert len({cell.models for cell in cells.pictures}) == 2


def test_a_training_that_is_not_cut_out_counts_as_a_model(tmp_path: Path) -> None:
    """A training is in the server's memory as long as the cells need the same one."""
    workflow = training()
    workflow["10"]["inputs"]["text"] = ["4", 2]  # the trainer's report
    text = "axes: {rank: {into: Train.method.rank, values: [2, 4]}, seed: {into: Sample.seed, seeds: 2}}\n"
    text += "outputs: {only: [Save picture, Show]}\n"
    workflow["14"] = node("PreviewAny", "Show", source=["10", 0])
    _, cells = compiled(tmp_path, workflow, text)
    assert cells.trainings == {}
    assert [cell.needs for cell in cells.pictures] == [()] * 4
    assert len({cell.models for cell in cells.pictures}) == 2
    assert cells.pictures[0].models == cells.pictures[1].models


# --------------------------------------------------------------------------------------------------------------- order


def test_slow_axes_come_first(tmp_path: Path) -> None:
    text = """
axes:
  seed: {into: Sample.seed, seeds: 2}
  prompt: {into: Prompt.text, values: [a cat, a dog]}
  rank: {into: Train.method.rank, values: [2, 4]}
  model: {into: Model.weight_dtype, values: [default, fp8]}
  method: {values: {Base: {mute: Train, bypass: Apply}, DEFT: {}}}
"""
    compiler, cells = compiled(tmp_path, training(), text)
    names = [axis.name for axis in compiler.plan.axes]
    assert [names[index] for index in compiler.axis_order()] == ["model", "method", "rank", "prompt", "seed"]
    groups = [(cell.models, cell.needs) for cell in cells.pictures]
    assert len(set(groups)) == 2 * (1 + 2)
    assert sum(one != other for one, other in zip(groups, groups[1:])) == len(set(groups)) - 1  # no coming back


def test_the_strength_of_an_adapter_is_slower_than_a_text(tmp_path: Path) -> None:
    """A strength changes the model; a caption of the training comes before what is sampled with, too."""
    text = """
axes:
  cfg: {into: Sample.cfg, values: [1, 2]}
  prompt: {into: Prompt.text, values: [a cat, a dog]}
  strength: {into: Apply.strength_model, values: [0.5, 1]}
  caption: {into: Caption.text, values: [a cat, a dog]}
"""
    compiler, _ = compiled(tmp_path, training(), text)
    names = [axis.name for axis in compiler.plan.axes]
    assert [names[index] for index in compiler.axis_order()] == ["strength", "caption", "prompt", "cfg"]


def test_the_last_axis_is_the_fastest(tmp_path: Path) -> None:
    text = "axes: {w: {into: Paint.width, values: [1, 2]}, c: {into: Paint.color, values: [3, 4]}}\n"
    compiler, cells = compiled(tmp_path, TRIVIAL, text)
    assert [tuple(each.values()) for each in labels(compiler, cells)] == [
        ("1", "3"),
        ("1", "4"),
        ("2", "3"),
        ("2", "4"),
    ]


# --------------------------------------------------------------------------------------------------------------- rules


def test_rows_match_and_rules_exclude(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("name,kind\ncat,live\nvase,object\ndog,live\n")
    (tmp_path / "p.csv").write_text("prompt,kind\na running %name%,live\na broken %name%,object\na red %name%,object\n")
    text = """
axes:
  subject: {csv: s.csv, into: {name: "%name%"}}
  prompt: {csv: p.csv, into: {prompt: [Prompt.text, Score.text]}, match: kind}
  seed: {into: Sample.seed, seeds: [7, 8]}
exclude:
  - {subject: dog, seed: 8}
  - {prompt: "a red %name%"}
"""
    compiler, cells = compiled(tmp_path, training(), text)
    texts = sorted(
        (inputs(compiler, cell, "Prompt")["text"], inputs(compiler, cell, "Sample")["seed"]) for cell in cells.pictures
    )
    assert texts == [
        ("a broken vase", 7),
        ("a broken vase", 8),
        ("a running cat", 7),
        ("a running cat", 8),
        ("a running dog", 7),
    ]


def test_a_rule_is_met_by_label_by_value_and_by_column(tmp_path: Path) -> None:
    """All of its conditions have to be met; one of several values is enough for one of them."""
    (tmp_path / "s.csv").write_text("name,kind\ncat,live\nvase,object\n")
    axes = """
axes:
  size: {into: Paint.width, values: {small: 8, large: 64}}
  subject: {csv: s.csv, into: {name: Save picture.filename_prefix}}
  color: {into: Paint.color, values: [1, 2, 3]}
exclude:
"""
    rules = {
        "  - {size: small}\n": lambda each: each["size"] == "small",
        "  - {size: 8}\n": lambda each: each["size"] == "small",
        "  - {kind: object, color: [1, 3]}\n": lambda each: each["subject"] == "vase" and each["color"] != "2",
        "  - {size: [8, 64], color: 2}\n": lambda each: each["color"] == "2",
    }
    every = labels(*compiled(tmp_path, TRIVIAL, axes.replace("exclude:", "")))
    assert len(every) == 12
    for rule, left_out in rules.items():
        cell_labels = labels(*compiled(tmp_path, TRIVIAL, axes + rule))
        assert cell_labels == [each for each in every if not left_out(each)], rule


def test_a_value_that_sets_no_input_or_several_is_met_by_its_label_alone(tmp_path: Path) -> None:
    axes = """
axes:
  size: {values: {plain: {}, wide: {Paint.width: 64, Paint.height: 8}, small: {Paint.width: 8}, old: {Paint.width: 64}}}
exclude:
"""
    for rule, left in (("64", ["plain", "wide", "small"]), ("wide", ["plain", "small", "old"])):
        sizes = [each["size"] for each in labels(*compiled(tmp_path, TRIVIAL, f"{axes}  - {{size: {rule}}}\n"))]
        assert sizes == left


def test_a_column_of_two_axes_is_met_by_either(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("one,kind\nx,live\ny,object\n")
    (tmp_path / "b.csv").write_text("two,kind\nv,live\nw,object\n")
    text = """
axes:
  one: {csv: a.csv, into: {one: "%one%"}}
  two: {csv: b.csv, into: {two: "%two%"}}
set: {Save picture.filename_prefix: "%one%/%two%"}
exclude: [{kind: live}]
"""
    assert labels(*compiled(tmp_path, TRIVIAL, text)) == [{"one": "y", "two": "w"}]


def test_what_means_nothing_beside_a_value_is_not_varied(tmp_path: Path) -> None:
    text = SWITCHED.replace("bypass: Apply}", "bypass: Apply, without: [rank, thing]}")
    compiler, cells = compiled(tmp_path, training(), text)
    base = [each for each in labels(compiler, cells) if each["method"] == "Base"]
    assert len(base) == 2 * 2
    assert all(set(each) == {"seed", "method", "prompt"} for each in base)
    assert len(cells.pictures) == 2 * 2 + 2 * 2 * 2 * 2 * 2
    only = next(cell for cell in cells.pictures if compiler.labels(cell.choice)["method"] != "Base")
    assert compiler.labels(only.choice, (0, 4)) == {"seed": "0", "rank": "2"}


def test_a_plan_without_cells(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the plan has no cells"):
        compiled(tmp_path, TRIVIAL, COLORS + "exclude: [{color: [1, 2, 3]}]\n")


# ------------------------------------------------------------------------------------------------------ what is set


def test_placeholders_within_placeholders(tmp_path: Path) -> None:
    """Filled as often as it takes; a text that is nothing but one gets its value as it is; a file, by its name."""
    (tmp_path / "photo.png").write_bytes(b"x")
    text = """
axes:
  prompt: {into: Prompt.text, values: ["a %thing% of %kind%", plain]}
  thing: ["%size% box"]
  kind: [wood, iron]
set: {"%size%": large, Sample.seed: "%number%", "%number%": 12, Caption.text: "%unknown% %size%"}
"""
    compiler, cells = compiled(tmp_path, training(), text)
    texts = {inputs(compiler, cell, "Prompt")["text"] for cell in cells.pictures}
    assert texts == {"a large box of wood", "a large box of iron", "plain"}
    assert {inputs(compiler, cell, "Sample")["seed"] for cell in cells.pictures} == {12}
    assert {inputs(compiler, cell, "Caption")["text"] for cell in cells.pictures} == {"%unknown% large"}
    assert len(set(keys(cells))) == 3
    file = "axes: {photo: {into: '%photo%', files: '*.png'}}\nset: {Prompt.text: 'of %photo%'}\n"
    compiler, cells = compiled(tmp_path, training(), file)
    assert inputs(compiler, cells.pictures[0], "Prompt")["text"] == "of photo.png"


def test_a_placeholder_that_stands_in_another_is_an_axis_of_the_node(tmp_path: Path) -> None:
    text = """
axes:
  prompt: {into: Prompt.text, values: ["a %thing%"]}
  thing: ["%size% box", "a %flag% box"]
  size: [small, large]
  flag: [true, false]
"""
    compiler, cells = compiled(tmp_path, training(), text)
    texts = [inputs(compiler, cell, "Prompt")["text"] for cell in cells.pictures]
    assert set(texts) == {"a small box", "a large box", "a a true box", "a a false box"}
    assert len(set(keys(cells))) == 4
    assert len(set(zip(texts, keys(cells)))) == 4  # a key for each text, and no more


def test_a_placeholder_that_stands_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the placeholder %thng% stands in no text of the workflow; near: %thing%"):
        compiled(
            tmp_path,
            training() | {"7": node("CLIPTextEncode", "Prompt", text="%thing%", clip=["2", 0])},
            "axes: {thng: [1]}\n",
        )
    # It may stand in what an axis sets, and where another axis mutes it.
    compiled(tmp_path, training(), "axes: {p: {into: Prompt.text, values: [a, 'a %t%']}, t: [x, y]}\n")
    text = "axes: {m: {values: {on: {}, off: {mute: Apply}}}, t: [x, y]}\nset: {Caption.text: '%t%'}\n"
    workflow = training()
    workflow["8"]["inputs"]["model"] = ["1", 0]
    compiled(tmp_path, workflow, text)


def test_an_axis_comes_after_what_is_set_for_all(tmp_path: Path) -> None:
    text = "axes: {c: {into: Paint.color, values: [1]}, w: {into: Paint.width, values: ['33', '34']}}\n"
    compiler, cells = compiled(tmp_path, TRIVIAL, text + "set: {Paint.color: 9, Paint.height: 7}\n")
    assert [inputs(compiler, cell, "Paint") for cell in cells.pictures] == [
        {"width": width, "height": 7, "color": 1} for width in (33, 34)
    ]


def test_another_option_of_a_dynamic_combo(tmp_path: Path) -> None:
    """What the old option has alone goes, what the new one needs comes with its default, the common stays."""
    text = "axes: {method: {into: Train.method, values: [deft, lora, svdiff]}}\nset: {Train.method.rank: 7}\n"
    compiler, cells = compiled(tmp_path, training(), text)
    below = [
        {name: value for name, value in inputs(compiler, cell, "Train").items() if name.startswith("method")}
        for cell in cells.pictures
    ]
    assert below == [
        {"method": "deft", "method.rank": 7, "method.projector": "qr"},
        {"method": "lora", "method.rank": 7, "method.alpha": 0.0},
        {"method": "svdiff"},
    ]
    assert {"model", "positive", "steps", "seed"} <= set(inputs(compiler, cells.pictures[2], "Train"))


def test_files_of_this_machine(tmp_path: Path) -> None:
    """Named by their content; each cell says which of them it needs."""
    for name, content in (("a", b"one"), ("b", b"two")):
        (tmp_path / f"{name}.png").write_bytes(content)
    workflow = {"1": node("LoadImage", "Load", image="x.png"), "2": node("PreviewImage", "Show", images=["1", 0])}
    compiler, cells = compiled(tmp_path, workflow, "axes: {photo: {into: Load.image, files: '*.png'}}\n")
    names = [inputs(compiler, cell, "Load")["image"] for cell in cells.pictures]
    assert len(set(names)) == len(set(keys(cells))) == 2
    assert all(name.startswith("deft_sweeps/") for name in names)
    assert [compiler.uploads(cell.choice) for cell in cells.pictures] == [
        {names[0]: tmp_path / "a.png"},
        {names[1]: tmp_path / "b.png"},
    ]
    (tmp_path / "a.png").write_bytes(b"three")
    again, cells = compiled(tmp_path, workflow, "axes: {photo: {into: Load.image, files: '*.png'}}\n")
    assert inputs(again, cells.pictures[0], "Load")["image"] not in names


REFUSED = {
    "axes: {a: {into: Pant.color, values: [1]}}\n": "'Pant.color' names no node of the workflow; near: Paint",
    "axes: {a: {into: Paint.colour, values: [1]}}\n": "(EmptyImage) has no input 'colour'; near: color",
    "axes: {a: {into: 9.color, values: [1]}}\n": "'9.color' names no node",
    "axes: {a: {into: '%thing%', values: [1]}}\n": "the placeholder %thing% stands in no text of the workflow",
    "axes: {a: {into: Paint.width, values: [64, 99999]}}\n": "Paint (1): `width` is 99999, but the maximum is 16384",
    "axes: {a: {into: Paint.width, values: [0]}}\n": "`width` is 0, but the minimum is 1",
    "axes: {a: {into: Paint.width, values: [wide]}}\n": "`width` takes a whole number, not 'wide'",
    "axes: {a: {into: Paint.width, values: [1.5]}}\n": "`width` takes a whole number, not 1.5",
    "set: {Paint.width: true}\n": "`width` takes a whole number, not True",
    "axes: {a: {into: Save picture.images, values: [1]}}\n": "a socket of type IMAGE takes a connection only",
    "axes: {a: {values: {x: {mute: Nothing}}}}\n": "the workflow has no node 'Nothing'",
    "axes: {a: {values: {x: {mute: Save picture}}}}\n": "no output node left to run",
    "outputs: {only: [Paint]}\n": "`outputs` names 'Paint', a node (EmptyImage) that is no output node; "
    "there are: Save picture",
    "outputs: {numbers: {n: {node: Paint}}}\n": "`outputs` names 'Paint'",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: REFUSED[text][:40])
def test_what_cannot_run_is_refused_before_anything_runs(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError) as caught:
        compiled(tmp_path, TRIVIAL, text)
    assert REFUSED[text] in str(caught.value)


def test_the_limits_themselves_are_taken(tmp_path: Path) -> None:
    compiler, cells = compiled(tmp_path, TRIVIAL, "axes: {a: {into: Paint.width, values: [1, 16384]}}\n")
    assert [inputs(compiler, cell, "Paint")["width"] for cell in cells.pictures] == [1, 16384]


def test_a_choice_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Sample \(8\): `sampler_name` is 'eular', which is not a choice; near"):
        compiled(tmp_path, training(), "axes: {s: {into: Sample.sampler_name, values: [euler, eular]}}\n")
    with pytest.raises(ValueError, match="`method` is 'loraa', which is not a choice; near: lora"):
        compiled(tmp_path, training(), "axes: {m: {into: Train.method, values: [loraa]}}\n")


def test_two_nodes_of_one_title(tmp_path: Path) -> None:
    workflow = TRIVIAL | {"3": TRIVIAL["1"], "4": node("PreviewImage", "Also", images=["3", 0])}
    with pytest.raises(ValueError, match=r"2 nodes are called 'Paint': write an id instead \(1, 3\)"):
        compiled(tmp_path, workflow, COLORS)
    compiler, cells = compiled(tmp_path, workflow, COLORS.replace("Paint", "3"))
    assert {cell["inputs"]["color"] for cell in [compiler.whole(cells.pictures[2].choice)["1"]]} == {0}
    assert compiler.whole(cells.pictures[2].choice)["3"]["inputs"]["color"] == 3
    # Of nodes that are muted there may be several.
    muted = "axes: {m: {values: {one: {mute: Paint}}}}\n"
    with pytest.raises(ValueError, match="no output node left to run"):
        compiled(tmp_path, workflow, muted)


def test_a_title_may_hold_dots(tmp_path: Path) -> None:
    workflow = copy.deepcopy(TRIVIAL)
    workflow["1"]["_meta"]["title"] = "v1.5 Paint"
    compiler, cells = compiled(tmp_path, workflow, COLORS.replace("Paint", "v1.5 Paint"))
    assert [inputs(compiler, cell, "v1.5 Paint")["color"] for cell in cells.pictures] == [1, 2, 3]


def test_inputs_that_grow(tmp_path: Path) -> None:
    """Every name below an input that takes any number of connections is one, and below others none."""
    workflow = training() | {"15": node("DEFTSaveScores", "Scores", **{"scores.scores0": ["10", 1]})}
    with pytest.raises(ValueError, match="has no input 'scors.scores1'"):
        compiled(tmp_path, workflow, "set: {Scores.scors.scores1: x}\n")
    compiler, cells = compiled(tmp_path, workflow, "set: {Scores.scores.scores1: x}\n")
    assert inputs(compiler, cells.pictures[0], "Scores")["scores.scores1"] == "x"


# ------------------------------------------------------------------------------------------------- outputs and switches


def test_only_the_outputs_that_the_plan_names(tmp_path: Path) -> None:
    """Outputs are named by title or id; what they do not need is not in the prompt, nor in the key."""
    both = TRIVIAL | {"3": node("EmptyImage", "Other", color=1), "4": node("PreviewImage", "Look", images=["3", 0])}
    compiler, cells = compiled(tmp_path, both, "outputs: {only: Save picture}\n")
    assert set(compiler.prompt_of(cells.pictures[0])) == {"1", "2"}
    assert keys(cells) == keys(compiled(tmp_path, TRIVIAL)[1])
    compiler, cells = compiled(tmp_path, both, "outputs: {only: [2, '4']}\n")
    assert set(compiler.prompt_of(cells.pictures[0])) == {"1", "2", "3", "4"}


def test_what_is_muted_takes_away_what_needs_it(tmp_path: Path) -> None:
    workflow = training()
    del workflow["10"]
    text = "axes: {m: {values: {with: {}, without: {mute: Train, bypass: Apply}}}}\n"
    compiler, cells = compiled(tmp_path, workflow, text)
    plain = compiler.prompt_of(cells.pictures[1])
    assert {each["class_type"] for each in plain.values()} == {
        "UNETLoader",
        "CLIPLoader",
        "CLIPTextEncode",
        "KSampler",
        "SaveImage",
    }
    assert plain["8"]["inputs"]["model"] == ["1", 0]
    assert cells.pictures[1].needs == ()
    assert len(cells.pictures[0].needs) == 1
    assert cells.remarks == ["Loss is not run where Train is muted, which it needs."]


# -------------------------------------------------------------------------------------------------------------- cutting


def test_training_is_cut_out(tmp_path: Path) -> None:
    """A training cell saves the adapter and shows the loss; the picture cells load its file."""
    compiler, cells = compiled(tmp_path, training(), "axes: {seed: {into: Sample.seed, seeds: 2}}\n")
    (made,), (picture, other) = cells.trainings.values(), cells.pictures
    assert picture.needs == other.needs == (made.key,)
    assert picture.key != other.key
    prompt = compiler.prompt_of(made)
    assert kinds(prompt) == [
        "CLIPLoader",
        "CLIPTextEncode",
        "DEFTSaveAdapter",
        "DEFTTrainAdapter",
        "PreviewImage",
        "UNETLoader",
    ]
    saver = next(each["inputs"] for each in prompt.values() if each["class_type"] == "DEFTSaveAdapter")
    assert saver["adapter"] == ["4", 0]
    assert saver["place"] == "output"
    assert saver["precision"] == "float32"  # the default of what is required
    assert "note" not in saver
    folder, own, key = saver["filename_prefix"].split("/")
    assert (folder, key) == ("deft_sweeps", made.key)
    again = compiler.prompt_of(made)
    assert own not in json.dumps(again)  # a folder of its own for every run
    prompt = compiler.prompt_of(picture)
    assert "DEFTTrainAdapter" not in kinds(prompt)
    assert "PreviewImage" not in kinds(prompt)
    (loader,) = [key for key, each in prompt.items() if each["class_type"] == "DEFTLoadAdapterFile"]
    assert prompt[loader]["inputs"] == {"file": f"deft_sweeps/{made.key}.safetensors"}
    assert adapter_name(made.key) == prompt[loader]["inputs"]["file"]
    assert prompt["6"]["inputs"]["adapter"] == [loader, 0]
    titles = compiler.titles(prompt)
    assert titles.keys() == prompt.keys()
    assert (titles["6"], titles[loader]) == ("Apply", "DEFTLoadAdapterFile")
    assert compiler.labels_of(made) == {}
    assert compiler.labels_of(picture) == {"seed": "0"}
    assert (compiler.kind_of(made), compiler.kind_of(picture)) == ("training", "picture")
    assert not compiler.is_embedding(made)


def test_scores_that_nothing_writes_are_written(tmp_path: Path) -> None:
    """Scores that an output needs are written by a node behind theirs, unless the workflow writes them."""
    workflow = training() | {"15": node("PreviewAny", "Show", source=["10", 0])}
    compiler, cells = compiled(tmp_path, workflow)
    savers = [each for each in compiler.prompt_of(cells.pictures[0]).values() if each["class_type"] == "DEFTSaveScores"]
    assert [each["inputs"]["scores.scores0"] for each in savers] == [["10", 1]]
    workflow["16"] = node("DEFTSaveScores", "Mine", **{"scores.scores0": ["10", 1]})
    compiler, cells = compiled(tmp_path, workflow)
    assert kinds(compiler.prompt_of(cells.pictures[0])).count("DEFTSaveScores") == 1


def test_training_stays_where_more_of_it_is_needed(tmp_path: Path) -> None:
    """A text from the trainer's report and a picture from its adapter in one output: both in one cell."""
    workflow = training()
    workflow["10"]["inputs"]["text"] = ["4", 2]
    workflow["15"] = node("PreviewAny", "Show", source=["10", 0])
    compiler, cells = compiled(tmp_path, workflow)
    assert cells.trainings == {}
    assert cells.remarks == ["Train trains in every cell that needs it: Show needs more of it than the adapter."]
    assert "DEFTTrainAdapter" in kinds(compiler.prompt_of(cells.pictures[0]))


def test_a_training_whose_adapter_nothing_uses_is_no_cell_of_its_own(tmp_path: Path) -> None:
    workflow = training()
    workflow["8"]["inputs"]["model"] = ["1", 0]
    del workflow["6"]
    compiler, cells = compiled(tmp_path, workflow)
    assert cells.trainings == {}
    assert {"SaveImage", "PreviewImage", "DEFTTrainAdapter"} <= set(kinds(compiler.prompt_of(cells.pictures[0])))


def test_only_a_loss_is_asked_for(tmp_path: Path) -> None:
    """There is nothing to cut without a picture: the training is the cell."""
    compiler, cells = compiled(tmp_path, training(), "outputs: {only: Loss}\n")
    assert cells.trainings == {}
    assert "DEFTTrainAdapter" in kinds(compiler.prompt_of(cells.pictures[0]))


def test_a_training_on_top_of_another(tmp_path: Path) -> None:
    text = "axes: {first: {into: Train.seed, seeds: 2}, second: {into: Train more.seed, seeds: 2}}\n"
    compiler, cells = compiled(tmp_path, twice_trained(), text)
    trainings = list(cells.trainings.values())
    by_node = {name: [each for each in trainings if each.node == name] for name in ("4", "11")}
    assert (len(by_node["4"]), len(by_node["11"])) == (2, 4)
    assert [each.needs for each in by_node["4"]] == [(), ()]
    assert {each.needs for each in by_node["11"]} == {(each.key,) for each in by_node["4"]}
    assert [compiler.labels_of(each) for each in by_node["4"]] == [{"first": "0"}, {"first": "1"}]
    assert all(set(compiler.labels_of(each)) == {"first", "second"} for each in by_node["11"])
    for cell in cells.pictures:
        first, second = (cells.trainings[key] for key in cell.needs)
        assert (first.node, second.node) == ("4", "11")
        assert second.needs == (first.key,)
    prompt = compiler.prompt_of(by_node["11"][0])
    titles = [each["_meta"]["title"] for each in prompt.values() if each["class_type"] == "DEFTTrainAdapter"]
    assert titles == ["Train more"]
    (loader,) = [key for key, each in prompt.items() if each["class_type"] == "DEFTLoadAdapterFile"]
    assert prompt["6"]["inputs"]["adapter"] == [loader, 0]
    assert prompt[loader]["inputs"]["file"] == adapter_name(by_node["11"][0].needs[0])
    assert kinds(compiler.prompt_of(cells.pictures[0])).count("DEFTLoadAdapterFile") == 2


def beside_another() -> Workflow:
    """Pictures by Train, and a report of Train beside the score of pictures by Other, which nothing else needs."""
    workflow = training()
    workflow["11"] = node("DEFTTrainAdapter", "Other", **(workflow["4"]["inputs"] | {"seed": 2}))
    workflow["12"] = node("DEFTApplyAdapter", "Apply other", model=["1", 0], adapter=["11", 0], strength_model=1.0)
    workflow["14"] = node("KSampler", "Sample other", **(workflow["8"]["inputs"] | {"model": ["12", 0]}))
    workflow["15"] = node("DEFTScoreImages", "Score other", images=["14", 0], text=["4", 2])
    workflow["16"] = node("PreviewAny", "Show", source=["15", 0])
    return workflow


@pytest.mark.parametrize("first", ["4", "11"])
def test_a_training_that_no_picture_needs(tmp_path: Path, first: str) -> None:
    """The adapter is used beside another trainer's report alone, so in that training cell, and is run before."""
    workflow = beside_another()
    compiler, cells = compiled(tmp_path, {first: workflow[first], **workflow})
    by_node = {each.node: each for each in cells.trainings.values()}
    assert cells.pictures[0].needs == (by_node["4"].key,)
    assert by_node["4"].needs == (by_node["11"].key,)
    assert [each.key for each in Schedule(cells, set()).trainings] == [by_node["11"].key, by_node["4"].key]
    prompt = compiler.prompt_of(by_node["4"])
    assert kinds(prompt).count("DEFTTrainAdapter") == 1
    (loader,) = [key for key, each in prompt.items() if each["class_type"] == "DEFTLoadAdapterFile"]
    assert prompt["12"]["inputs"]["adapter"] == [loader, 0]
    assert prompt[loader]["inputs"]["file"] == adapter_name(by_node["11"].key)
    assert "16" in prompt


def test_trainings_that_need_one_another_in_a_circle(tmp_path: Path) -> None:
    """Each one's report is shown beside the other's pictures: one of them cannot be cut out."""
    workflow = beside_another()
    workflow["17"] = node("DEFTScoreImages", "Score first", images=["8", 0], text=["11", 2])
    workflow["18"] = node("PreviewAny", "Show first", source=["17", 0])
    compiler, cells = compiled(tmp_path, workflow)
    assert len(cells.remarks) == 1
    assert "trains in every cell that needs it: Show" in cells.remarks[0]
    (made,) = cells.trainings.values()
    kept = {"4": "11", "11": "4"}[made.node]
    assert kept in compiler.prompt_of(cells.pictures[0])
    assert [each.key for each in Schedule(cells, set()).trainings] == [made.key]


def test_an_output_of_two_trainings_keeps_both_where_they_are(tmp_path: Path) -> None:
    workflow = twice_trained()
    workflow["11"]["inputs"]["model"] = ["1", 0]  # beside the first, not on top of it
    workflow["15"] = node("StringConcatenate", "Both", string_a=["4", 2], string_b=["11", 2])
    workflow["16"] = node("PreviewAny", "Reports", source=["15", 0])
    _, cells = compiled(tmp_path, workflow)
    assert cells.trainings == {}
    assert "Train more trains in every cell that needs it: Reports needs more of it than the adapter." in cells.remarks


def test_a_token_is_cut_out_on_servers_of_our_own(tmp_path: Path) -> None:
    compiler, cells = compiled(tmp_path, token_trained(), embeddings=True)
    (made,) = cells.trainings.values()
    assert compiler.is_embedding(made)
    saver = next(
        each["inputs"] for each in compiler.prompt_of(made).values() if each["class_type"] == "DEFTSaveAdapter"
    )
    assert saver["adapter"] == ["4", 4]  # the tensors, not the text
    prompt = compiler.prompt_of(cells.pictures[0])
    assert prompt["13"]["inputs"]["string_b"] == f"embedding:deft_sweeps/{made.key}"
    assert "DEFTLoadAdapterFile" not in kinds(prompt)
    compiler, cells = compiled(tmp_path, token_trained())
    assert cells.trainings == {}
    (remark,) = cells.remarks
    assert "Train token trains in every cell that needs it: only a server with a folder of embeddings" in remark
    assert "DEFTTrainTextualInversion" in kinds(compiler.prompt_of(cells.pictures[0]))


@pytest.mark.parametrize("lacking", ["DEFTLoadAdapterFile", "DEFTSaveAdapter"])
def test_a_server_without_the_pack_trains_in_every_cell(tmp_path: Path, lacking: str) -> None:
    info = {name: each for name, each in INFO.items() if name != lacking}
    _, cells = compiled(tmp_path / "training", training(), "", info)
    assert cells.trainings == {}
    assert "has no Save Adapter and no Load Adapter File" in cells.remarks[0]
    assert compiled(tmp_path / "trivial", TRIVIAL, "", info)[1].remarks == []  # nothing is trained there
    only = {name: each for name, each in INFO.items() if name in ("EmptyImage", "SaveImage")}
    assert compiled(tmp_path / "core", TRIVIAL, "", only)[1].remarks == []


def test_more_cells_than_a_plan_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a most, and a plan of a few lines may ask for more: here it is three."""
    monkeypatch.setattr(compiling, "MOST_CELLS", 3)
    assert len(keys(compiled(tmp_path / "three", TRIVIAL, COLORS)[1])) == 3
    with pytest.raises(ValueError, match="the plan has more than 3 cells: give its axes fewer values"):
        compiled(tmp_path / "four", TRIVIAL, COLORS.replace("3]", "3, 4]"))
