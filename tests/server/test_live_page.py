"""The loss curve and the previews at a training node in ComfyUI's own front end, while it trains and afterwards."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .example_files import WORKFLOWS
from .test_front_end import MODES, SEED

STEPS, EVERY = 40, 10
SET = {
    "DEFTTrainAdapter": {"steps": STEPS},
    "DEFTTrainingPreviews": {"every": EVERY, "steps": 2},
    "KSampler": {"steps": 2},
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", MODES)
def test_the_curve_grows_and_nothing_is_saved_of_it(drive_browser: Any, mode: str) -> None:
    path = WORKFLOWS / "train_with_previews.json"
    options = {"vue": MODES[mode], "set": SET, "seed": SEED + 20 + MODES[mode]}
    seen = drive_browser("live", json.dumps(options), path)
    assert seen["errors"] == []
    first, again = seen["first"], seen["again"]
    assert first["end"]["kind"] == again["end"]["kind"] == "execution_success"
    ((node_id, curve),) = first["curves"].items()
    noted = curve["noted"]
    assert noted == sorted(noted)
    assert noted[-1] == STEPS
    assert len(noted) >= 5
    assert curve["inPage"]
    assert min(curve["box"]) > 50
    assert curve["drawn"] > 500  # pixels
    assert [title for title, _ in curve["previews"]] == [f"step {step}" for step in range(EVERY, STEPS + 1, EVERY)]
    assert all(width > 0 for _, width in curve["previews"])
    texts = first["texts"][node_id]
    assert any("s a step" in text and " left" in text for text in texts)
    assert f"step {STEPS}/{STEPS}" in texts[-1]
    # The node has no more values than before, whatever method is chosen.
    assert first["before"] == first["after"]
    switched = seen["switched"][node_id]
    assert "deft_curve" in switched["before"]["widgets"]
    assert switched["before"] == switched["after"]
    # In a page that was loaded again, where the server has the run in its cache: from the run's folder.
    assert node_id not in again["texts"]
    assert again["curves"][node_id]["points"] == STEPS
    assert again["curves"][node_id]["previews"] == curve["previews"]
    assert again["before"] == again["after"]
