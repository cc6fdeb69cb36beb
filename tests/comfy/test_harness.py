"""The in-process ComfyUI itself: core nodes run, and failures are seen where they happen."""

from __future__ import annotations

from typing import Any


def latent_prompt() -> dict[str, Any]:
    return {
        "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 32, "batch_size": 2}},
        "2": {
            "class_type": "LatentUpscale",
            "inputs": {
                "samples": ["1", 0],
                "upscale_method": "nearest-exact",
                "width": 128,
                "height": 64,
                "crop": "disabled",
            },
        },
        "3": {"class_type": "PreviewAny", "inputs": {"source": "seen"}},
    }


def test_core_nodes_run_and_outputs_are_kept(comfyui: Any) -> None:
    run = comfyui.run(latent_prompt(), want=["1", "2"])
    assert tuple(run.output("1")["samples"].shape) == (2, 4, 4, 8)
    assert tuple(run.output("2")["samples"].shape) == (2, 4, 8, 16)
    assert run.text("3") == "seen"
    assert any(event == "executing" for event, _ in run.messages)


def test_second_run_comes_from_the_cache(comfyui: Any) -> None:
    first = comfyui.run(latent_prompt(), want=["2"])
    again = comfyui.run(latent_prompt(), want=["2"])
    assert again.output("2")["samples"] is first.output("2")["samples"]
    comfyui.reset()
    assert comfyui.run(latent_prompt(), want=["2"]).output("2")["samples"] is not first.output("2")["samples"]


def test_a_bad_value_fails_in_validation(comfyui: Any) -> None:
    prompt = latent_prompt()
    prompt["1"]["inputs"]["width"] = -8
    failed = comfyui.fail(prompt, want=["2"])
    assert (failed.stage, failed.node_id, failed.node_type) == ("validation", "1", "EmptyLatentImage")
    assert "-8" in failed.message


def test_an_unknown_node_fails_in_validation(comfyui: Any) -> None:
    prompt = latent_prompt()
    prompt["2"]["class_type"] = "NoSuchNode"
    failed = comfyui.fail(prompt, want=["2"])
    assert (failed.stage, failed.node_type) == ("validation", "NoSuchNode")


def test_an_exception_names_its_node(comfyui: Any) -> None:
    (comfyui.base / "input" / "broken.png").write_bytes(b"no picture")
    failed = comfyui.fail({"7": {"class_type": "LoadImage", "inputs": {"image": "broken.png"}}}, want=["7"])
    assert (failed.stage, failed.node_id, failed.node_type) == ("execution", "7", "LoadImage")
    assert "UnidentifiedImageError" in failed.kind
    assert "broken.png" in failed.message
    assert comfyui.run(latent_prompt(), want=["2"]).output("2")["samples"].shape[0] == 2  # the next prompt runs


def test_versions(comfyui: Any) -> None:
    assert tuple(int(part) for part in comfyui.version.split(".")) >= (0, 24, 0)
