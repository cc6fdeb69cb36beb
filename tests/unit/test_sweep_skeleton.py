"""The plan's text that the page writes (web/deft/skeleton.mjs), read as `python -m sweeps` reads any plan."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import deft_pack
from deft_pack.sweeps.axes import Axis
from deft_pack.sweeps.plan import Plan, read_plan
from deft_pack.sweeps.template import Finder

from .sweep_nodes import INFO, node, training

MODULE = Path(__file__).resolve().parents[2] / deft_pack.WEB_DIRECTORY / "deft" / "skeleton.mjs"
HOSTILE = [
    'a: "b" # c\n- d',
    "红色的熊：雪地\r\n\t第二行",
    "line\u2028paragraph\u2029next\x85bom\ufeff del\x7f bell\x07",
    "\\n {x|y} %prompt% \U0001f43b",
    "- yes",
    "1e5",
    "",
]


def call(expression: str, *values: Any) -> Any:
    """What an expression gives in Node.js, with the module's functions as `m` and the values as `v`."""
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    script = f"""
      const m = await import({json.dumps(MODULE.as_uri())})
      let text = ''
      for await (const part of process.stdin) text += part
      const v = JSON.parse(text)
      console.log(JSON.stringify({expression}))"""
    command = ["node", "--input-type=module", "-e", script]
    done = subprocess.run(
        command, input=json.dumps(values), capture_output=True, text=True, encoding="utf-8", timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def write(folder: Path, prompt: Any, chosen: Any, chinese: bool = False) -> tuple[Plan, str]:
    """The plan of a skeleton, and its text."""
    text = call("m.skeleton(...v)", prompt, chosen, "demo", chinese)
    (folder / "demo.yaml").write_text(text, encoding="utf-8")
    return read_plan(folder / "demo.yaml"), text


def target(axis: Axis) -> tuple[str, Any]:
    """What the only value of an axis sets."""
    ((only,),) = [value.targets for value in axis.values]
    return only


def hostile() -> dict[str, Any]:
    """Titles that cannot name a node, or could end a remark, and the texts above."""
    prompt = training()
    titles = ["Prompt", "7", "v1.5 text", "x\ny: [", "提示词：雪", "", "# %a%"]
    for number, (title, text) in enumerate(zip(titles, HOSTILE, strict=True)):
        prompt[f"12:{number}"] = node("CLIPTextEncode", title, text=text, clip=["2", 0])
    prompt["13"] = node(
        "KSampler", "Small", model=["1", 0], positive=["7", 0], seed=2**53 - 1, cfg=1e-7, sampler_name="heun"
    )
    prompt["4"]["inputs"]["tiled"] = True
    prompt["14"] = node("DEFTSaveScores", "Save", filename_prefix="a")
    prompt["15"] = node("CLIPTextEncode", "Save.scores", text="an input of 14, too", clip=["2", 0])
    return prompt


@pytest.mark.parametrize("chinese", [False, True])
def test_every_value_comes_back(tmp_path: Path, chinese: bool) -> None:
    """Each input of each node as an axis: it has the workflow's value, and sets that input and no other."""
    prompt = hostile()
    chosen = [(each["id"], name) for each in call("m.choices(v[0])", prompt) for name, _ in each["inputs"]]
    plain = [
        (node_id, name)
        for node_id, each in prompt.items()
        for name, value in each["inputs"].items()
        if not isinstance(value, list)
    ]
    assert sorted(chosen) == sorted(plain)
    plan, _ = write(tmp_path, prompt, chosen, chinese)
    assert (plan.name, plan.workflow) == ("demo", tmp_path / "demo.json")
    assert len(plan.axes) == len(chosen)
    finder = Finder(prompt, INFO)
    for axis, (node_id, name) in zip(plan.axes, chosen, strict=True):
        where, value = target(axis)
        assert finder.inputs(where) == [(node_id, name)]
        assert value == prompt[node_id]["inputs"][name]
        assert isinstance(value, bool) == isinstance(prompt[node_id]["inputs"][name], bool)


def test_titles_and_short_names_where_they_are_clear(tmp_path: Path) -> None:
    prompt = training()
    prompt["6"]["_meta"]["title"] = "Strength 0.5"
    chosen = [("4", "method.rank"), ("8", "seed"), ("7", "text"), ("6", "strength_model")]
    plan, _ = write(tmp_path, prompt, chosen)
    assert [(axis.name, *target(axis)) for axis in plan.axes] == [
        ("rank", "Train.method.rank", 4),
        ("seed", "Sample.seed", 7),
        ("text", "Prompt.text", "a sks bear in the snow"),
        ("strength_model", "Strength 0.5.strength_model", 1),
    ]


def test_what_is_proposed_where_nothing_is_chosen(tmp_path: Path) -> None:
    """The sampler's seed, not the training's that comes first, and an example. Without their # they are a plan."""
    plan, text = write(tmp_path, training(), [])
    assert plan.axes == ()
    used_text = re.sub(r"(?m)^(  )?# (?=\s*(?:\w+:(?: |$)|- |# - ))", r"\1", text).replace("# - ", "- ")
    (tmp_path / "used.yaml").write_text(used_text, encoding="utf-8")
    used = read_plan(tmp_path / "used.yaml")
    assert used.outputs.only == ("Save picture",)
    assert [(axis.name, [value.targets for value in axis.values]) for axis in used.axes] == [
        ("cfg", [(("Sample.cfg", cfg),) for cfg in (3.0, 6.0)]),
        ("seed", [(("Sample.seed", seed),) for seed in (7, 8, 9, 10)]),
    ]


def test_a_chosen_seed_is_not_proposed_again(tmp_path: Path) -> None:
    _, text = write(tmp_path, training(), [("8", "seed")])
    assert text.count("Sample.seed") == 1
    _, text = write(tmp_path, training(), [("4", "steps")])
    assert text.count("Sample.seed") == 1


@pytest.mark.parametrize(
    "name, made",
    [
        ("sweep_demo", "sweep_demo"),
        ("1 Train my subject (demo)", "1_Train_my_subject_demo"),
        ("../熊", "sweep"),
        ("", "sweep"),
    ],
)
def test_names_of_files(name: str, made: str) -> None:
    assert call("m.planName(v[0])", name) == made
    assert call("m.planName(v[0])", "x" * 90) == "x" * 60
