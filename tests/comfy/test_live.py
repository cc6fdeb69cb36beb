"""What the page is told of a training: the text at the node, and the messages for its curve."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from .test_adapter_nodes import sampling, training_prompt
from .test_training_nodes import previews


class Server:
    """Keeps what it is to send."""

    def __init__(self, client: str | None) -> None:
        self.client_id = client
        self.sent: list[tuple[str, Any, str | None]] = []

    def send_sync(self, event: str, data: Any, sid: str | None = None) -> None:
        self.sent.append((event, json.loads(json.dumps(data, allow_nan=False)), sid))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (125, "2 min"), (3599, "1 h 0 min"), (12_000, "3 h 20 min")],
)
def test_durations(pack: Any, seconds: float, text: str) -> None:
    assert pack.nodes.live.duration(seconds) == text


def progress(pack: Any, step: int, steps: int = 10, folder: Any = None, pictures: Any = None, scored: Any = ()) -> Any:
    return pack.trainers.run.training_run.StepProgress(step, steps, 1 / step, 1.0, 0.5, 1e-4, pictures, folder, scored)


def test_time_left(pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    live, clock = pack.nodes.live, SimpleNamespace(now=100.0)
    monkeypatch.setattr(live.time, "monotonic", lambda: clock.now)
    run = live.LiveRun()
    assert run.left(progress(pack, 3)) == 0.5 * 7  # a run that goes on from step 2
    clock.now = 104.0
    assert run.left(progress(pack, 5)) == 2.0 * 5
    clock.now = 120.0
    assert run.left(progress(pack, 10)) == 0.0


def test_messages_name_the_previews_that_lie_there(pack: Any, comfyui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Previews come with the first message, and with each that has a new one; also those of before this run went on."""
    from comfy_execution.utils import CurrentNodeContext

    live, server = pack.nodes.live, Server("a browser")
    monkeypatch.setattr(live.PromptServer, "instance", server, raising=False)
    monkeypatch.setattr(live, "BETWEEN", 0.0)
    folder = live.output_folder() / "training" / "drake_0123456789"
    folder.mkdir(parents=True)
    run = live.LiveRun()
    with CurrentNodeContext("job", "3", 0):
        (folder / "preview_00000000.jpg").touch()
        run.step(progress(pack, 3, folder=folder), 1.0)
        run.step(progress(pack, 4, folder=folder), 1.0)
        (folder / "preview_00000005.jpg").touch()
        scored = [(0, {"DINO": 0.5}), (5, {"DINO": 0.75})]
        run.step(progress(pack, 5, folder=folder, pictures="some", scored=scored), 1.0)
        run.step(progress(pack, 6, folder=folder, pictures="some"), 1.0)  # the disk is full
    assert [data["previews"] for _, data, _ in server.sent] == [[0], None, [0, 5], [0, 5]]
    assert [data["scores"] for _, data, _ in server.sent] == [[], None, [[0, {"DINO": 0.5}], [5, {"DINO": 0.75}]], []]
    assert pack.nodes.training.newest_scores(scored) == "; preview of step 5: DINO 0.750"
    assert pack.nodes.training.newest_scores([]) == ""


def test_messages_are_few_and_lose_nothing(pack: Any, comfyui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy_execution.utils import CurrentNodeContext

    live, clock, server = pack.nodes.live, SimpleNamespace(now=100.0), Server("a browser")
    monkeypatch.setattr(live.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(live.PromptServer, "instance", server, raising=False)
    folder = live.output_folder() / "training" / "duck_0123456789"
    run = live.LiveRun()
    with CurrentNodeContext("job", "10:3", 0):
        for step in range(1, 11):
            clock.now += 0.1
            run.step(progress(pack, step, folder=folder, pictures="some" if step == 5 else None), 2.5)
    messages = [data for _, data, _ in server.sent]
    assert {(event, sid) for event, _, sid in server.sent} == {("deft.training", "a browser")}
    assert [[step for step, _ in data["points"]] for data in messages] == [[1], [2, 3, 4], [5], [6, 7, 8], [9, 10]]
    assert [data["previews"] for data in messages] == [[], None, [], None, None]
    assert messages[-1] == {
        "node": "10:3",
        "prompt_id": "job",
        "run": pack.trainers.run.history.run_id(live.output_folder(), folder),
        "steps": 10,
        "points": [[9, 1 / 9], [10, 0.1]],
        "seconds": 0.5,
        "left": 2.5,
        "previews": None,
        "scores": None,
    }


@pytest.mark.parametrize("client", [None, "a browser"])
def test_nobody_is_told_what_nobody_asked_for(pack: Any, monkeypatch: pytest.MonkeyPatch, client: str | None) -> None:
    """Nothing is sent without a browser, or outside of a node; what waits does not grow without end."""
    server = Server(client)
    monkeypatch.setattr(pack.nodes.live.PromptServer, "instance", server, raising=False)
    run = pack.nodes.live.LiveRun()
    folder = pack.nodes.live.output_folder() / "run_0123456789"
    for step in range(1, 2000):
        run.step(progress(pack, step, steps=5000, folder=folder), 1.0)
    assert server.sent == []
    assert [step for step, _ in run.points] == list(range(1500, 2000))


def test_the_node_names_its_run(pack: Any, comfyui: Any) -> None:
    """The name is the id that the routes have for it; its previews lie in the run's folder."""
    prompt = training_prompt(steps=2, seed=77) | sampling(["model", 0], "sample") | {"previews": previews()}
    prompt["train"]["inputs"]["previews"] = ["previews", 0]
    del prompt["sample"]
    finished = comfyui.run(prompt, want=["train"])
    (name,) = finished.ui["train"]["deft_run"]
    routes = pack.nodes.routes
    record = routes.one_run(routes.output_folder(), name)
    assert record["curve"]["loss"] == finished.output("train", 1)["loss"]
    assert (record["state"], record["step"], record["previews"]) == ("finished", 2, [0, 2])
    assert routes.preview(routes.output_folder(), name, 2).startswith(b"\xff\xd8\xff")
    assert name in {run["id"] for run in routes.run_list(routes.output_folder())["runs"]}
