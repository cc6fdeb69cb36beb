"""A training on a real server, interrupted as a person does it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
WORKFLOW = ROOT / "example_workflows" / "api" / "compare_methods.json"


def test_an_interrupted_training_does_not_go_to_its_end_and_the_queue_goes_on(server: Any) -> None:
    prompt = json.loads(WORKFLOW.read_text())
    trainers = {key for key, node in prompt.items() if node["class_type"] == "DEFTTrainAdapter"}
    for key in trainers:
        # A seed of its own: not in the cache of another test. ComfyUI tells of every half per cent of the steps.
        prompt[key]["inputs"] |= {"steps": 2000, "seed": 4321}
    steps: list[int] = []

    def interrupt_at_the_third_report(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["node"] in trainers:
            steps.append(data["value"])
            if len(steps) == 3:
                server.post("/interrupt", {})

    with pytest.raises(sys.modules["comfy_server"].PromptError, match="Train.*: cancelled on the server"):
        server.run(prompt, interrupt_at_the_third_report)
    assert steps[-1] < 2000  # within a step: tests/comfy/test_training.py

    after = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    assert server.run(after).outputs["2"]["images"]
