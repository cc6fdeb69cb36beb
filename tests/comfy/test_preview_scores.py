"""Previews that are scored: the values, what a resume keeps of them, when a training stops, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ..tools import same
from .pack import Pack
from .test_adapter_nodes import Prompt, applied, node, sampler, settings, training_prompt
from .test_training_nodes import previews
from .test_training_runs import Vae, as_loaded, models, shown, train

TEXT = "a sks teddy bear on a red background"


def scored_prompt(run_name: str = "tests/scored", every: int = 2, **changed: Any) -> Prompt:
    """A training of the demo whose previews are scored, and which keeps checkpoints."""
    more = {name: changed.pop(name) for name in ("text", "token", "stop_after", "positive") if name in changed}
    prompt = training_prompt(**{"steps": 4, "seed": 41, "previews": ["previews", 0]} | changed)
    prompt["settings"] = settings(run_name=run_name, checkpoint_every=50, keep=1, resume=True)
    return prompt | {
        "prompt": node("CLIPTextEncode", text=TEXT, clip=["clip", 0]),
        "empty": node("EmptySD3LatentImage", width=64, height=64, batch_size=1),
        "scorer": node("DEFTLoadScorer", protocol="demo"),
        "previews": previews(every=every, scorer=["scorer", 0], references=["subject", 0], **({"text": TEXT} | more)),
    }


def log_of(comfyui: Any, run_name: str) -> tuple[Path, list[dict[str, Any]]]:
    """The one run of this name, and the lines of its log on previews."""
    place = comfyui.base / "output" / run_name
    (folder,) = place.parent.glob(f"{place.name}_*")
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return folder, [line for line in lines if "preview" in line]


def test_scores_are_those_of_score_images_and_change_nothing(comfyui: Any, pack: Pack) -> None:
    """Compared with ComfyUI's own sampling with the finished adapter; with and without them the adapter is the same."""
    prompt = scored_prompt("tests/scored_once")
    run = comfyui.run(prompt, want=["train"])
    plain = training_prompt(steps=4, seed=41)
    alone = comfyui.run(plain, want=["train"])
    assert same(run.output("train"), alone.output("train"))
    assert run.output("train", 1) == alone.output("train", 1)

    folder, lines = log_of(comfyui, "tests/scored_once")
    assert [line["preview"] for line in lines] == [0, 2, 4]
    assert all(list(line["scores"]) == ["DINO", "CLIP-T"] for line in lines)
    again = prompt | {
        "final": applied(["train", 0]),
        "sample": sampler(["final", 0]),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["vae", 0]),
        "score": node(
            "DEFTScoreImages", scorer=["scorer", 0], images=["decode", 0], references=["subject", 0], text=TEXT
        ),
    }
    scores = comfyui.run(again, want=["score"])
    clip_t, dino = scores.output("score", 2), scores.output("score", 3)
    assert lines[-1]["scores"] == pytest.approx({"DINO": dino, "CLIP-T": clip_t}, abs=2e-3)
    assert lines[0]["scores"] != lines[-1]["scores"]
    report = run.text("train")
    assert f"DINO of the previews: {lines[0]['scores']['DINO']:.3f} at step 0, best " in report
    assert f"last {lines[-1]['scores']['CLIP-T']:.3f} at step 4" in report
    history = pack.trainers.run.history
    record = history.detail(folder.parent, folder)
    assert record["preview_scores"] == [[line["preview"], line["scores"]] for line in lines]
    assert record["problems"] == []
    assert len(record["curve"]["step"]) == 4

    # Finished: taken from its folder, with the scores.
    comfyui.reset()
    before = comfyui.run(scored_prompt("tests/scored_once"), want=["train"]).text("train")
    assert "finished before, not trained again" in before
    assert [line for line in before.splitlines() if "of the previews" in line] == [
        line for line in report.splitlines() if "of the previews" in line
    ]


def test_a_run_that_goes_on_has_the_scores_of_one_that_was_not_stopped(comfyui: Any, pack: Pack) -> None:
    straight = comfyui.run(scored_prompt("tests/scored_straight", steps=6, seed=42), want=["train"])
    comfyui.run(scored_prompt("tests/scored_resumed", steps=4, seed=42), want=["train"])
    resumed = comfyui.run(scored_prompt("tests/scored_resumed", steps=6, seed=42), want=["train"])
    assert "resumed at step 4" in resumed.text("train")
    assert same(resumed.output("train"), straight.output("train"))
    assert log_of(comfyui, "tests/scored_resumed")[1] == log_of(comfyui, "tests/scored_straight")[1]
    # Without texts it is another measurement: the scores of before are not compared with the new ones.
    other = comfyui.run(scored_prompt("tests/scored_resumed", steps=8, seed=42, text=""), want=["train"])
    assert "the scores of the previews up to step 6 were made of another scorer" in other.text("train")
    folder, lines = log_of(comfyui, "tests/scored_resumed")
    assert [line["preview"] for line in lines] == [0, 2, 4, 6, 6, 8]  # that of the last step was made anew
    assert list(lines[-1]["scores"]) == ["DINO"]
    scores = pack.trainers.run.history.preview_scores(folder)
    assert [step for step, _ in scores] == [6, 8]


def test_a_training_that_gets_worse_stops(comfyui: Any, pack: Pack) -> None:
    """The demo at a rate that destroys the model: the best checkpoint stays, and running it again changes nothing."""
    options = {"steps": 40, "seed": 43, "learning_rate": 0.05, "stop_after": 2}
    run = comfyui.run(scored_prompt("tests/scored_stop", **options), want=["train"])
    folder, lines = log_of(comfyui, "tests/scored_stop")
    likeness = {line["preview"]: line["scores"]["DINO"] for line in lines if line["preview"]}
    end = max(likeness)
    best = max(likeness, key=lambda step: (likeness[step], -step))
    assert end == best + 4 < 40  # two previews, every two steps
    report = run.text("train")
    assert report.splitlines()[0] == (
        f"stopped at step {end} of 40: DINO was best at step {best} ({likeness[best]:.3f}) and worse in the 2 previews "
        f"since ({likeness[best + 2]:.3f}, {likeness[end]:.3f}); its adapter is {folder}/adapter_{best:08}.safetensors"
    )
    assert sorted(file.name for file in folder.glob("adapter_*")) == [
        f"adapter_{step:08}.safetensors" for step in (best, end)
    ]
    straight = comfyui.run(training_prompt(steps=end, seed=43, learning_rate=0.05), want=["train"])
    assert same(run.output("train"), straight.output("train"))
    record = pack.trainers.run.history.detail(folder.parent, folder)
    assert (record["state"], record["step"]) == ("finished", end)
    assert record["early_stop"] == report.splitlines()[0]

    comfyui.reset()
    again = comfyui.run(scored_prompt("tests/scored_stop", **options), want=["train"])
    assert again.text("train").splitlines()[0] == report.splitlines()[0]
    assert "not trained again" in again.text("train")
    assert same(again.output("train"), run.output("train"))
    assert log_of(comfyui, "tests/scored_stop")[1] == lines
    # With more patience it goes on from where it stopped.
    further = comfyui.run(scored_prompt("tests/scored_stop", **(options | {"stop_after": 3})), want=["train"])
    assert f"resumed at step {end}" in further.text("train")
    assert max(line["preview"] for line in log_of(comfyui, "tests/scored_stop")[1]) > end


def test_the_best_checkpoint_is_kept_beside_the_newest(pack: Any, tmp_path: Path) -> None:
    """Whatever `keep` says; the mean of the pictures stands for a likeness that is best at step 3."""
    model, module = as_loaded(models.sd3), pack.trainers.run.preview_scores
    plain = train(pack, model, steps=8)
    seen: list[float] = []

    def score(pictures: torch.Tensor) -> tuple[dict[str, float], list[str]]:
        seen.append(float(pictures.mean()))
        return {"likeness": -abs(len(seen) - 4.0)}, ["a remark"]  # of steps 0, 1, 2, 3: the fourth is the best

    from dataclasses import replace

    vae = Vae()
    vae.get_sd = dict  # type: ignore[attr-defined]
    vae.vae_dtype = torch.float32  # type: ignore[attr-defined]
    watched = replace(shown(pack, model, vae, every=1), judge=module.Judge(score, "a test", stop_after=9))
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 2, keep=1)
    result = train(pack, model, steps=8, folder=folder, shown=watched)
    assert same(result.adapter, plain.adapter)
    assert len(set(seen)) == 9
    (place,) = tmp_path.glob("run_*")
    assert [step for step, _ in pack.trainers.run.history.numbered(place, pack.trainers.run.history.ADAPTER_NAME)] == [
        3,
        8,
    ]
    assert result.report.count("a remark") == 1
    assert result.early == ""


@pytest.mark.parametrize(
    ("values", "best", "since"),
    [
        ([], 0, []),
        ([9.0], 0, []),  # before the training: no checkpoint
        ([9.0, 1.0], 1, []),
        ([9.0, 1.0, 3.0, 2.0, 2.5], 2, [2.0, 2.5]),
        ([0.0, 3.0, 1.0, 3.0, 2.0], 1, [2.0]),  # as good again: not worse, and the earlier one is taken
    ],
)
def test_the_best_and_what_came_since(pack: Any, values: list[float], best: int, since: list[float]) -> None:
    module = pack.trainers.run.preview_scores
    assert module.best_and_since([(step, {"DINO": value, "CLIP-T": -value}) for step, value in enumerate(values)]) == (
        best,
        since,
    )


def test_damaged_lines_of_scores(pack: Any) -> None:
    module = pack.trainers.run.preview_scores
    good = module.line_of(20, {"DINO": 0.5}, "m")
    bad: list[dict[str, Any]] = [
        {"step": 20},
        {**good, "measured": "other"},
        {**good, "preview": "20"},
        {**good, "scores": {"DINO": float("nan")}},
        {**good, "scores": {"DINO": "0.5"}},
        {**good, "scores": {}},
        {**good, "scores": [0.5]},
    ]
    assert module.read([good, *bad], "m") == {20: {"DINO": 0.5}}
    assert module.read(bad, "m") == {}


def test_what_a_run_takes_over_from_before_it_was_killed(pack: Any) -> None:
    """The checkpoint is older than the last scored preview: that one is made again, and nothing is said of it."""
    module = pack.trainers.run.preview_scores
    lines = [module.line_of(step, {"DINO": step / 10}, "m") for step in (0, 2, 4, 6)]
    judge = module.Judge(lambda _: ({}, ()), "m")
    scores = module.PreviewScores(judge, "m")
    scores.go_on(lines, 4)
    assert (scores.scored, scores.remarks) == ([(0, {"DINO": 0.0}), (2, {"DINO": 0.2}), (4, {"DINO": 0.4})], [])
    other = module.PreviewScores(judge, "other")
    other.go_on(lines, 4)
    assert other.scored == []
    assert [remark.partition(" were made of")[0] for remark in other.remarks] == [
        "the scores of the previews up to step 4"
    ]


def test_damaged_scores_are_not_said_to_be_of_another_scorer(pack: Any) -> None:
    module = pack.trainers.run.preview_scores
    lines = [module.line_of(step, {"DINO": step / 10}, "m") for step in (0, 2, 4)]
    lines[1]["scores"] = {"DINO": float("nan")}
    scores = module.PreviewScores(module.Judge(lambda _: ({}, ()), "m"), "m")
    scores.go_on(lines, 4)
    assert (scores.scored, scores.remarks) == ([(0, {"DINO": 0.0}), (4, {"DINO": 0.4})], [])


# ---------------------------------------------------------------------------------------------------------- bad input


def refused(comfyui: Any, change: dict[str, Any], leave_out: tuple[str, ...] = (), **options: Any) -> str:
    """What the node says."""
    prompt = scored_prompt("tests/scored_refused", **options)
    prompt["previews"]["inputs"] |= change
    for name in leave_out:
        del prompt["previews"]["inputs"][name]
    error = comfyui.fail(prompt, want=["train"])
    return f"{error.node_id}: {error.message}"


def test_what_is_refused(comfyui: Any) -> None:
    assert "previews: references: there are none. Connect the photos" in refused(comfyui, {}, ("references",))
    assert "previews: scorer: there is none, and references are" in refused(comfyui, {}, ("scorer",))
    both = ("scorer", "references")
    assert "previews: stop_after: previews are not scored" in refused(comfyui, {"stop_after": 1}, both)
    assert "previews: text: 2 lines for 1 images" in refused(comfyui, {"text": "one\ntwo"})
    message = refused(comfyui, {"every": 9})
    assert "train: Training Previews is to score previews, and with one every 9 steps the 4 of this training" in message
    assert "lower `every`" in message


def test_photos_and_prompts_come_as_lists(comfyui: Any) -> None:
    """Photos of a folder are a list of pictures, prompts one of captions: each preview has all prompts."""
    prompt = scored_prompt("tests/scored_lists", text="a teddy bear\na blue teddy bear", steps=2, seed=44)
    prompt |= {
        "lines": node("DEFTPrompts", prompts="a sks teddy bear\na blue sks teddy bear", token="sks"),
        "prompt": node("CLIPTextEncode", text=["lines", 0], clip=["clip", 0]),
        "negative": node("CLIPTextEncode", text="", clip=["clip", 0]),
        "one": node("ImageFromBatch", image=["subject", 0], batch_index=0, length=1),
    }
    prompt["previews"]["inputs"]["negative"] = ["negative", 0]
    run = comfyui.run(prompt, want=["previews"])
    made, state = run.output("previews"), torch.get_rng_state()
    assert len(made.positive) == 2
    pictures = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert list(made.judge.score(pictures)[0]) == ["DINO", "CLIP-T"]
    assert torch.equal(torch.get_rng_state(), state)
    comfyui.run(prompt, want=["train"])
    assert list(log_of(comfyui, "tests/scored_lists")[1][-1]["scores"]) == ["DINO", "CLIP-T"]
