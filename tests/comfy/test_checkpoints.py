"""Compare Checkpoints on the demo: a training that goes too far on purpose, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from .pack import Pack
from .test_adapter_nodes import Prompt, applied, node, sampler, settings, training_prompt

COLOURS = ("red", "blue", "green", "yellow", "white", "black")
PROMPTS = [f"a sks teddy bear on a {colour} background" for colour in COLOURS]
EVERY, STEPS = 30, 90


def training() -> Prompt:
    """All weights on one photo with one caption: it is learnt by heart, with its background."""
    prompt = training_prompt("dreambooth", steps=STEPS, learning_rate=1.5e-5, layers="everything", batch_size=4)
    prompt["settings"] = settings(run_name="tests/checkpoints/run", checkpoint_every=EVERY, keep=9)
    prompt["one"] = node("ImageFromBatch", image=["subject", 0], batch_index=0, length=1)
    prompt["latents"] = node("VAEEncode", pixels=["one", 0], vae=["vae", 0])
    prompt["captions"] = node("CLIPTextEncode", text="a sks teddy bear", clip=["clip", 0])
    return prompt


def comparison(checkpoints: str, **changed: Any) -> Prompt:
    """The demo's model and scorers, the photos of the training, and the node "it"."""
    loaders = {name: value for name, value in training_prompt().items() if name in ("model", "clip", "vae", "subject")}
    inputs = {
        "model": ["model", 0],
        "clip": ["clip", 0],
        "vae": ["vae", 0],
        "latent": ["latent", 0],
        "scorer": ["scorer", 0],
        "references": ["subject", 0],
        "checkpoints": checkpoints,
        "prompts": "\n".join(PROMPTS),
        "negative": "",
        "strengths": "1",
        "seeds": 2,
        "first_seed": 3,
        "steps": 6,
        "cfg": 2.0,
        "sampler": "euler",
        "scheduler": "simple",
    }
    return {
        **loaders,
        "latent": node("EmptySD3LatentImage", width=64, height=64, batch_size=1),
        "scorer": node("DEFTLoadScorer", protocol="demo"),
        "it": node("DEFTCompareCheckpoints", **(inputs | changed)),
    }


def pictures_of(folder: Path) -> dict[tuple[Any, ...], Path]:
    """The kept pictures by what they are made of."""
    result = {}
    for file in folder.glob("*.png"):
        with Image.open(file) as picture:
            about = json.loads(picture.info["made_of"])
        result[about["adapter"], about["strength"], about["prompt"], about["seed"]] = file
    return result


def test_a_training_that_goes_too_far(comfyui: Any, pack: Pack) -> None:
    """The one before the end is recommended: as like the subject, and it follows the prompt better."""
    comfyui.run(training(), want=["train"])
    (folder,) = (comfyui.base / "output" / "tests" / "checkpoints").iterdir()
    name = f"output/tests/checkpoints/{folder.name}"
    run = comfyui.run(comparison(name), want=["it"])
    report = run.output("it", 6)
    chosen = re.match(
        r"Recommended: step (\d+)\. DINO not distinguishable from step (\d+) \(\d\.\d{3}, \d\.\d{3}\), CLIP-T better, "
        r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]\.",
        report,
    )
    assert chosen, report
    assert EVERY <= int(chosen[1]) < int(chosen[2]) <= STEPS
    file = folder / f"adapter_{int(chosen[1]):08}.safetensors"
    assert f"The file: {name}/{file.name}, strength 1." in report
    # It follows the prompt less than an earlier one, which is said.
    lost = re.search(
        r"^step (\d+) has lost prompt following: against step (\d+) CLIP-T down \(0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]\)\. "
        r"For more of it take step (\d+) \(DINO 0\.\d{3}, CLIP-T 0\.\d{3}\), a lower strength, or train for fewer "
        r"steps\.$",
        report,
        re.MULTILINE,
    )
    assert lost, report
    assert lost[1] == chosen[1]
    assert max(int(lost[2]), int(lost[3])) < int(chosen[1])
    assert "48 pictures sampled, 0 kept from before" in report
    adapter, tensors = run.output("it", 2), load_file(file)
    assert adapter.keys() == tensors.keys()
    assert all(torch.equal(adapter[key], tensors[key]) for key in tensors)
    assert (
        run.outputs["it"][0][0].patches.keys()
        == pack.apply(adapter, comfyui.run(comparison(name), want=["model"]).output("model"))[0].patches.keys()
    )
    table = run.output("it", 5)
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:6]] == ["base", "step 30", "step 60", "step 90"]
    assert "| s a step | peak MiB |" in table.splitlines()[0]
    scores = run.output("it", 7)
    assert {row.metric for row in scores.rows} == {"CLIP-I", "CLIP-T", "DINO", "diversity"}
    assert {row.provenance["seeds"] for row in map(seeds_of, scores.rows)} == {(3, 4) * len(PROMPTS)}

    # Another layout samples nothing; what is asked for anew is all that is sampled.
    comfyui.reset()
    again = comfyui.run(comparison(name, layout="first seed only"), want=["it"])
    assert "0 pictures sampled, 48 kept from before" in again.output("it", 6)
    assert again.output("it", 6).splitlines()[0] == report.splitlines()[0]
    assert again.output("it", 3).shape[2] < run.output("it", 3).shape[2]  # half of the columns
    kept = comfyui.base / "output" / "compared" / name.replace("/", "_")
    pictures = pictures_of(kept)
    assert len(pictures) == 48
    contents = {adapter for adapter, *_ in pictures}
    assert len(contents) == 4  # the base is one
    broken = pictures["", 0.0, PROMPTS[0], 3]
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    more = comfyui.run(comparison(name, drift_prompts="a blue car", seeds=1), want=["it"])
    assert "5 pictures sampled, 23 kept from before" in more.output("it", 6)  # one damaged, four for the drift
    assert broken.read_bytes() == whole
    drift = [row.value for row in more.output("it", 7).rows if row.metric == "drift"]
    assert len(drift) == 3
    assert drift[0] < drift[-1]  # it drifts further away

    # In one workflow with the training, which says where its checkpoints are: the same pictures and the same choice.
    comfyui.reset()
    whole_way = comfyui.run(
        training() | comparison("none") | {"it": comparison("none", adapter=["train", 0])["it"]}, want=["it"]
    )
    assert "0 pictures sampled, 48 kept from before" in whole_way.output("it", 6)
    assert whole_way.output("it", 6).splitlines()[0] == report.splitlines()[0]

    # ComfyUI's own sampler makes the same picture of the same file.
    content = pack.trainers.run.kept_pictures.content_of(file)
    prompt = comparison(name) | {
        "file": node("DEFTLoadAdapterFile", file=f"{name}/{file.name}", projector="auto"),
        "apply": applied(["file", 0]),
        "text": node("CLIPTextEncode", text=PROMPTS[1], clip=["clip", 0]),
        "none": node("CLIPTextEncode", text="", clip=["clip", 0]),
        "sample": sampler(
            ["apply", 0],
            seed=4,
            steps=6,
            cfg=2.0,
            positive=["text", 0],
            negative=["none", 0],
            latent_image=["latent", 0],
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["vae", 0]),
    }
    own = comfyui.run(prompt, want=["decode"]).output("decode")[0].numpy() * 255
    with Image.open(pictures[content, 1.0, PROMPTS[1], 4]) as picture:
        assert np.abs(np.asarray(picture, dtype=np.float32) - own).max() <= 1.01  # 8 bits


def test_overfitting_is_named(comfyui: Any) -> None:
    """Two photos with captions that are wrong on purpose, at a high rate: the pictures become those photos, whatever
    the prompt says. The last checkpoint is not recommended, and the report says what it shows.
    """
    every, steps = 15, 90
    prompt = training_prompt("dreambooth", steps=steps, learning_rate=3e-5, layers="everything", batch_size=4)
    prompt |= {
        "settings": settings(run_name="tests/overfitted/run", checkpoint_every=every, keep=9),
        "photos": node("ImageFromBatch", image=["subject", 0], batch_index=1, length=2),
        "encoded": node("VAEEncode", pixels=["photos", 0], vae=["vae", 0]),
        "latents": node("RepeatLatentBatch", samples=["encoded", 0], amount=len(PROMPTS) // 2),
        "lines": node("DEFTPrompts", prompts="\n".join(PROMPTS), token="sks"),
        "captions": node("CLIPTextEncode", text=["lines", 0], clip=["clip", 0]),
    }
    compared = comparison("none", adapter=["train", 0], references=["photos", 0], with_base=False)
    run = comfyui.run(prompt | {name: compared[name] for name in ("latent", "scorer", "it")}, want=["it"])
    report = run.output("it", 6)
    match = re.search(
        rf"^step {steps} is overfitted: against step \d+ DINO .*, CLIP-T down \(.*$", report, re.MULTILINE
    )
    assert match, report + "\n" + run.output("it", 5)
    assert "closer to the nearest training photo" in match[0]
    chosen = re.match(r"Recommended: step (\d+)\.", report)
    assert chosen
    assert int(chosen[1]) < steps


def seeds_of(row: Any) -> Any:
    """A score whose seeds can be compared."""
    row.provenance["seeds"] = tuple(row.provenance["seeds"])
    return row


# ---------------------------------------------------------------------------------------------------------- bad input


def adapter_file(folder: Path, name: str, method: str = "lora", base: str = "", **training: Any) -> None:
    ends = ("lora_up.weight", "lora_down.weight") if method == "lora" else ("deft_Q", "deft_R")
    shapes = ((8, 2), (2, 8)) if method == "lora" else ((8, 2), (2, 8))
    tensors = {f"diffusion_model.a.{end}": torch.eye(*shape) for end, shape in zip(ends, shapes)}
    folder.mkdir(parents=True, exist_ok=True)
    header = {"base_hash": base} if base else {}
    save_file(tensors, folder / f"{name}.safetensors", header | {"training": json.dumps(training)})


@pytest.fixture
def folder(comfyui: Any, request: pytest.FixtureRequest) -> Path:
    return Path(comfyui.base / "models" / "loras" / f"checkpoints_{abs(hash(request.node.name))}")


def base_hash(digit: str) -> str:
    return f"df10{digit * 60}"


def test_checkpoints_of_a_folder(pack: Pack, folder: Path) -> None:
    """The order is that of the steps: of the header, or else the last number of the name; others come last."""
    module = pack.nodes.checkpoint_files
    adapter_file(folder, "dog")
    adapter_file(folder, "dog-000010")
    adapter_file(folder, "dog-000002")
    adapter_file(folder, "other_v2", steps=5)
    checkpoints = module.checkpoints_of(folder.name)
    assert [(item.name, item.path.stem) for item in checkpoints] == [
        ("step 2", "dog-000002"),
        ("step 5", "other_v2"),
        ("step 10", "dog-000010"),
        ("dog", "dog"),
    ]
    assert folder.name in module.checkpoint_folders()
    adapter_file(folder, "b_2")  # two of one step have their files' names
    assert [item.name for item in module.checkpoints_of(folder.name)][:2] == ["b_2", "dog-000002"]


def test_folders_that_cannot_be_compared(pack: Pack, folder: Path) -> None:
    checkpoints_of = pack.nodes.checkpoint_files.checkpoints_of
    for nothing in (folder.name, "..", "", None, 3):
        with pytest.raises(
            ValueError, match="checkpoints: there are no adapter files in .*Train with checkpoint_every"
        ):
            checkpoints_of(nothing)
    adapter_file(folder, "a_1", base=base_hash("0"))
    with pytest.raises(ValueError, match=r"has only a_1\.safetensors, and nothing to compare it with"):
        checkpoints_of(folder.name)
    adapter_file(folder, "a_2", base=base_hash("8"))
    with pytest.raises(ValueError, match="a_1.* and a_2.* were trained on different base models"):
        checkpoints_of(folder.name)
    adapter_file(folder, "a_2", "deft", base=base_hash("0"))
    with pytest.raises(ValueError, match="a_1.* is of the method lora, a_2.* of deft"):
        checkpoints_of(folder.name)
    (folder / "a_2.safetensors").write_bytes(b"no file")
    with pytest.raises(ValueError, match=r"a_2\.safetensors"):
        checkpoints_of(folder.name)


@pytest.mark.parametrize("text", ["", "one", "1, nan", "0", "30", "inf"])
def test_strengths_that_are_none(pack: Pack, text: str) -> None:
    with pytest.raises(ValueError, match="strengths: .* is no list of numbers"):
        pack.nodes.checkpoints.strengths_of(text)


def test_strengths(pack: Pack) -> None:
    assert pack.nodes.checkpoints.strengths_of(" 0.7,1 1,-2") == [0.7, 1.0, -2.0]


def test_what_the_node_refuses(comfyui: Any, folder: Path) -> None:
    adapter_file(folder, "a_1")
    adapter_file(folder, "a_2")
    assert "prompts: there are none" in comfyui.fail(comparison(folder.name, prompts=" \n"), want=["it"]).message
    prompt = comparison(folder.name)
    assert "no layer" in comfyui.fail(prompt, want=["it"]).message.lower()  # of another model


def test_an_adapter_that_was_not_trained_here(comfyui: Any, pack: Pack, folder: Path) -> None:
    """A file knows no run; one whose folder is gone has no checkpoints."""
    module = pack.nodes.checkpoint_files
    adapter_file(folder, "a_1")
    adapter = pack.files.read(folder / "a_1.safetensors")
    with pytest.raises(ValueError, match="adapter: it does not come from Train Adapter.*choose the run in"):
        module.run_of(adapter)
    adapter.run = comfyui.base / "elsewhere"
    with pytest.raises(ValueError, match="adapter: it does not come from Train Adapter"):
        module.run_of(adapter)
    adapter.run = (comfyui.base / "output" / "gone_0123456789").resolve()
    name, run = module.run_of(adapter)
    assert name == "output/gone_0123456789"
    with pytest.raises(ValueError, match="there are no adapter files in 'output/gone_0123456789'"):
        module.checkpoints_of(name, run)


def test_a_protocol_that_cannot_choose(pack: Pack) -> None:
    scoring = pack.scoring.scorer
    protocol = pack.scoring.protocols.get_protocol("demo")
    dino = [measure for measure in protocol.measures if measure.metric == "DINO"]
    scorer = scoring.Scorer(pack.scoring.protocols.Protocol("own", "", tuple(dino)), {"dino": None})
    with pytest.raises(ValueError, match="scorer: the protocol own does not measure both likeness") as error:
        pack.scoring.deciding.deciding(scorer)
    named = re.fullmatch(r".*; choose (.*) or custom\.", str(error.value))
    assert named
    assert {"dreambooth", "2026", "demo"} <= set(named[1].split(", "))
    # No likeness, no following, or photos and pictures in pairs.
    assert not {"clip-image", "peft", "dreambench++"} & set(named[1].split(", "))


@pytest.mark.parametrize(
    ("protocol", "chosen"),
    [("demo", ("DINO", "CLIP-T")), ("2026", ("DINOv3", "SigLIP2-T")), ("dreambooth", ("DINO", "CLIP-T"))],
)
def test_the_metrics_that_decide(pack: Pack, protocol: str, chosen: tuple[str, str]) -> None:
    own = pack.scoring.protocols.get_protocol(protocol)
    scorer = pack.scoring.scorer.Scorer(own, dict.fromkeys(own.backbones))
    assert pack.scoring.deciding.deciding(scorer) == chosen


def test_how_near_photos_are_to_each_other(pack: Pack) -> None:
    among = pack.scoring.nearest.among
    photos = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.1, 1.0]]), dim=1)
    nearest = [max(float(a @ b) for at, b in enumerate(photos) if at != place) for place, a in enumerate(photos)]
    assert among(photos.double()) == pytest.approx(nearest)
    assert among(photos[:1]) == []


def test_what_a_training_cost_is_no_part_of_a_files_content(pack: Pack, tmp_path: Path) -> None:
    content_of = pack.trainers.run.kept_pictures.content_of
    tensors = {"a.lora_up.weight": torch.ones(2, 2)}
    for name, header in {"one": {}, "two": {"training_cost": "{}"}, "three": {"training": "x"}}.items():
        save_file(tensors, tmp_path / f"{name}.safetensors", {"method": "lora", **header})
    save_file({"a.lora_up.weight": torch.zeros(2, 2)}, tmp_path / "four.safetensors", {"method": "lora"})
    one, two, three, four = (content_of(tmp_path / f"{name}.safetensors") for name in ("one", "two", "three", "four"))
    assert one == two
    assert len({one, three, four}) == 3


def test_nodes_behind_an_input(pack: Pack) -> None:
    """The ids of nodes do not count; their values and how they are connected do."""
    graph_of = pack.nodes.provenance.graph_of
    prompt = comparison("x") | {
        "lora": node("LoraLoaderModelOnly", model=["model", 0], lora_name="a", strength_model=1)
    }
    prompt["it"]["inputs"]["model"] = ["lora", 0]
    renamed = json.loads(json.dumps(prompt).replace('"model", 0', '"m7", 0'))
    renamed["m7"] = renamed.pop("model")
    names = ("model", "clip", "vae")
    assert graph_of(prompt, "it", names) == graph_of(renamed, "it", names)
    renamed["lora"]["inputs"]["strength_model"] = 0.5
    assert graph_of(prompt, "it", names) != graph_of(renamed, "it", names)
    prompt["it"]["inputs"]["layout"] = "first seed only"
    assert graph_of(prompt, "it", names) == graph_of(prompt | {"x": node("Other")}, "it", names)
    assert graph_of(None, "it", names) == graph_of({}, "it", names) == {}
