"""The modes of gradient checkpointing: the same bits, and the bytes that each keeps."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from . import models
from .bases import BASES
from .late_streams import LateCuda
from .live_bytes import LiveBytes
from .pack import Pack
from .test_training import as_loaded, settings

MODES = ("off", "every second block", "every block", "offloaded")


def base(title: str, **config: Any) -> tuple[Callable[[], Any], Callable[[Any], Any], Callable[[], Any]]:
    """A base of the list, of another depth: model, latents of a model, captions."""
    listed = next(item for item in BASES if item.title == title)
    changed = dataclasses.replace(listed, config=listed.config | config)
    return changed.model, lambda model: changed.latents(), lambda: changed.conditioning(5)


OWN = lambda model: models.latents(model, 2), models.conditioning  # noqa: E731
NETWORKS = {
    "sdxl": (lambda: models.unet("sdxl"), *OWN),
    "sd3": (lambda: models.sd3(depth=3), *OWN),
    "flux": base("Flux", depth=3, depth_single_blocks=3),
}


def train(pack: Pack, kind: str, folder: Any = None, **chosen: Any) -> Any:
    """Two steps of the real loop."""
    make, latents, captions = NETWORKS[kind]
    model = as_loaded(make)
    with torch.inference_mode():
        material = pack.material.Material([latents(model)], [captions()])
        chosen = {"layers": "attention", "batch_size": 2, "steps": 2} | chosen
        return pack.loop.train(model, material, settings(pack, **chosen), lambda progress: None, folder=folder)


@pytest.mark.parametrize("kind", NETWORKS)
def test_all_modes_give_the_same_bits(pack: Pack, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []
    own = pack.host.PlainCopies.away
    monkeypatch.setattr(
        pack.host.PlainCopies, "away", lambda copies, value: copied.append(value.numel()) or own(copies, value)
    )
    switched = train(pack, kind, gradient_checkpointing=True)
    for mode in MODES:
        result = train(pack, kind, checkpointing=mode)
        assert result.losses == switched.losses
        assert result.adapter.keys() == switched.adapter.keys()
        assert all(torch.equal(result.adapter[key], value) for key, value in switched.adapter.items()), mode
        assert bool(copied) == (mode == "offloaded")


def test_every_second_block_of_each_list(pack: Pack) -> None:
    chosen = list(pack.network.checkpointed_blocks(NETWORKS["flux"][0]().model.diffusion_model, "every second block"))
    assert chosen == ["double_blocks.0", "double_blocks.2", "single_blocks.0", "single_blocks.2"]
    unet = models.unet().model.diffusion_model
    every, second = (pack.network.checkpointed_blocks(unet, mode) for mode in ("every block", "every second block"))
    places = {name.split(".")[1] for name in second if name.startswith("output_blocks.")}
    assert places == {"0", "2"}  # whole places: what stands beside each other in one of them stays together
    assert set(second) < set(every)
    assert not pack.network.checkpointed_blocks(unet, "off")


def test_a_run_goes_on_in_another_mode(pack: Pack, tmp_path: Path) -> None:
    """One that ran out of memory keeps its steps."""
    whole = train(pack, "sd3")
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 1)
    train(pack, "sd3", steps=1, folder=folder, checkpointing="every second block")
    rest = train(pack, "sd3", folder=folder, checkpointing="offloaded")
    assert "resumed at step 1" in rest.report
    assert rest.losses == whole.losses
    assert all(torch.equal(rest.adapter[key], value) for key, value in whole.adapter.items())


# ------------------------------------------------------------------------------------------------------- side streams


def late(pack: Pack, patch: pytest.MonkeyPatch) -> LateCuda:
    """Trainings offload as on CUDA, by streams that copy as late as they may."""
    cuda = LateCuda()
    patch.setattr(torch.Tensor, "record_stream", lambda value, stream: None)  # which a CPU does not have
    patch.setattr(
        pack.trainer, "host_of", lambda device: pack.host.Host(pack.host.StreamCopies(cuda, torch.device("cpu")))
    )
    return cuda


@pytest.mark.parametrize("kind", NETWORKS)
def test_copies_in_a_stream_of_their_own(pack: Pack, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However late they are, the bits are the same; each is asked for before the block behind it is computed again."""
    plain = train(pack, kind, checkpointing="off")
    cuda = late(pack, monkeypatch)
    result = train(pack, kind, checkpointing="offloaded")
    assert result.losses == plain.losses
    assert all(torch.equal(result.adapter[key], value) for key, value in plain.adapter.items())
    under_way = [0]
    for event in cuda.log:
        under_way.append(under_way[-1] + {"away": 0, "back": 1, "wait": -1}[event.split()[0]])
    # What the two streams of a transformer get, or the one of a UNet; for two blocks at a time.
    assert max(under_way) == 2 * (1 if kind == "sdxl" else 2)
    assert under_way[-1] == 0


@pytest.mark.parametrize("lacking", ["wait_away", "wait_back"])
def test_a_missing_wait_would_be_seen(pack: Pack, lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = train(pack, "flux", checkpointing="off")
    late(pack, monkeypatch)
    monkeypatch.setattr(pack.host.StreamCopies, lacking, lambda copies, *ready: None)
    with pytest.raises(ValueError, match="no longer a number"):
        assert train(pack, "flux", checkpointing="offloaded").losses != plain.losses


# ------------------------------------------------------------------------------------------------------------- memory


class Step:
    """A step of a trainer as the loop has it, in any mode."""

    def __init__(self, pack: Pack, kind: str, mode: str, patch: pytest.MonkeyPatch, **chosen: Any) -> None:
        import comfy.model_management

        patch.setattr(comfy.model_management, "in_training", True)
        make, latents, captions = NETWORKS[kind]
        self.pack, self.model = pack, as_loaded(make)
        chosen_settings = settings(pack, "lora", 2, batch_size=2, checkpointing=mode, **chosen)
        with torch.inference_mode(False), pack.without_inference_features(self.model):
            material = pack.material.Material([latents(self.model)], [captions()])
            dataset = pack.material.Dataset(self.model.model, material, chosen_settings)
            self.trainer = pack.trainer.Trainer(self.model, chosen_settings, dataset)
            self.needs = pack.trainers.run.needs.needs_of(self.trainer)

    def under(self, counter: Any) -> Any:
        """The second step, under a mode that counts: the first shows where copies are needed."""
        trainer, quiet = self.trainer, self.pack.without_inference_features(self.model)
        with torch.inference_mode(False), torch.enable_grad(), quiet, trainer.prepared():
            trainer.refresh()
            trainer.gradients()
            for parameter in trainer.parameters:
                parameter.grad = None
            trainer.refresh()
            with counter:
                trainer.backward()
        return counter


@pytest.mark.parametrize("layers", ["attention", "all linear"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_estimate_is_the_peak_of_a_step(
    pack: Pack, kind: str, layers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with the bytes of all tensors that are there at one time, as PyTorch makes and frees them."""
    peaks = []
    for mode in MODES:
        counted = LiveBytes()

        class Elsewhere(pack.host.PlainCopies):
            def away(self, value: Tensor, counted: LiveBytes = counted) -> Tensor:
                return counted.away(super().away(value))

        copies = pack.host.Host(Elsewhere())
        monkeypatch.setattr(pack.trainer, "host_of", lambda device, copies=copies: copies)
        step = Step(pack, kind, mode, monkeypatch, layers=layers)
        step.under(counted)
        estimate = step.needs.of(mode)
        # Their gradients are in the estimate of the adapter.
        peak = counted.peak - sum(4 * parameter.numel() for parameter in step.trainer.parameters)
        peaks.append(peak)
        assert 0.9 < estimate.activations / peak < 1.5, (mode, estimate, peak)
        if mode == "offloaded":  # one block's inputs may have no gradient, and stay
            assert 0.6 < counted.peak_elsewhere / estimate.host < 1.2, estimate
        else:
            assert counted.peak_elsewhere == estimate.host == 0
    off, second, every, offloaded = peaks
    assert off > second > every >= offloaded
    assert second < 0.8 * off
    assert every < 0.6 * off


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_share_of_operations_that_a_mode_adds(pack: Pack, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared with PyTorch's own count of a step."""
    counts, estimated = {}, {}
    for mode in MODES:
        step = Step(pack, kind, mode, monkeypatch, layers="attention")
        estimated[mode] = step.needs.of(mode).more
        counts[mode] = step.under(FlopCounterMode(display=False)).get_total_flops()
    for mode in MODES[1:]:
        assert counts[mode] / counts["off"] - 1 == pytest.approx(estimated[mode], rel=0.3), mode
    assert counts["offloaded"] == counts["every block"]
    assert estimated["off"] == 0


def test_with_a_trained_text_encoder_all_blocks_keep_something(pack: Pack) -> None:
    """The gradient goes to the text, which all blocks get; without it, the blocks before the first adapter are idle."""
    network = NETWORKS["flux"][0]().model.diffusion_model
    first = network.single_blocks[1].linear1
    x, text = models.random(1, 16, 8, 8, seed=1), models.random(1, 5, network.params.context_in_dim, seed=2)
    others = {"y": models.random(1, network.params.vec_in_dim, seed=3), "guidance": torch.ones(1)}

    def run() -> Tensor:
        return network(x, torch.ones(1), text, transformer_options={}, **others)

    for begun, kept in ((False, [False] * 4 + [True] * 2), (True, [True] * 6)):
        _, shown = pack.activation_bytes.measure(network, run, {first}, begun)
        assert [block.within > 0 for block in shown.blocks] == kept
        assert [block.operations > 0 for block in shown.blocks] == kept


# --------------------------------------------------------------------------------------------------------------- auto

CUDA = torch.device("cuda")


def needs(pack: Pack) -> Any:
    """The needs of four blocks with 1000 bytes inside and 100 that each gets, and of two pictures."""
    blocks = [pack.activation_bytes.BlockBytes(place % 2 == 0, 1000, 100, 10) for place in range(4)]
    return pack.memory.Needs(5000, 10, 2, pack.activation_bytes.ActivationBytes(blocks, 50, 7, 80))


def test_what_a_mode_needs_by_hand(pack: Pack) -> None:
    made = needs(pack)
    by_mode = {mode: made.of(mode) for mode in MODES}
    assert {mode: estimate.activations for mode, estimate in by_mode.items()} == {
        "off": 2 * (50 + 4000),
        # The third block again: of the first and it what they got; the second whole, the fourth is done. The start of
        # the backward pass, with two whole blocks, takes less.
        "every second block": 2 * (50 + 7 + 200 + 2000),
        "every block": 2 * (50 + 7 + 400 + 1000),
        "offloaded": 2 * (50 + 7 + 200 + 1000),
    }
    assert by_mode["offloaded"].host == 2 * 400
    assert [estimate.more for estimate in by_mode.values()] == [0, 0.25, 0.5, 0.5]
    assert by_mode["every block"].text().endswith("; gradient checkpointing: every block, 50% more operations")
    assert "checkpointing" not in by_mode["off"].text()


@pytest.mark.parametrize(
    ("free", "free_host", "device", "expected"),
    [
        (8110, 800, CUDA, "off"),
        (8109, 800, CUDA, "every second block"),
        (4523, 800, CUDA, "every block"),
        (2900, 800, CUDA, "offloaded"),
        (2900, 799, CUDA, "every block"),
        (0, 800, CUDA, "offloaded"),
        (2900, 800, torch.device("cpu"), "every block"),
    ],
)
def test_auto_takes_what_costs_least_and_fits(
    pack: Pack, free: int, free_host: int, device: torch.device, expected: str
) -> None:
    mode, line = needs(pack).choose(free, free_host, device)
    assert mode == expected
    assert line.startswith(f"auto chose gradient checkpointing {mode!r}: ")
    assert f": off needs {pack.memory.readable(8110)} beside the model, " in line
    assert line.endswith(f" and {pack.memory.readable(free)} are free")


def test_auto_in_a_training(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer asks for the free memory before ComfyUI is asked to make room, trains in the mode, and says so."""
    import comfy.model_management

    order: list[str] = []
    load, checkpointing = comfy.model_management.load_models_gpu, pack.trainer.checkpointing
    free = 0

    def free_for(patchers: Any, device: torch.device) -> int:
        order.append("asked")
        return free

    def loaded(*args: Any, **named: Any) -> Any:
        order.append("loaded")
        return load(*args, **named)

    def entered(root: Any, regions: Any, mode: str, host: Any) -> Any:
        order.append(mode)
        return checkpointing(root, regions, mode, host)

    monkeypatch.setattr(pack.memory, "free_for", free_for)
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", loaded)
    monkeypatch.setattr(pack.trainer, "checkpointing", entered)
    report = train(pack, "sd3", checkpointing="auto").report
    assert order == ["loaded", "asked", "loaded", "every block"]
    assert re.search(
        r"^auto chose gradient checkpointing 'every block': off needs .* and 0.0 MiB are free$", report, re.M
    )
    assert re.search(r"gradient checkpointing: every block, [1-5]\d% more operations$", report, re.M)
    order.clear()
    free = 2**40
    assert "auto chose gradient checkpointing 'off': off needs" in train(pack, "sd3", checkpointing="auto").report
    assert order == ["loaded", "asked", "loaded"]


def test_what_is_free_beside_the_model(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other models count as free, clones of the model do not, nor does what ComfyUI keeps for others."""
    import comfy.model_management as management

    model, other = models.sd3(), models.sd3(seed=2)
    loaded = [management.LoadedModel(patcher) for patcher in (model, other)]
    monkeypatch.setattr(management, "current_loaded_models", loaded)
    monkeypatch.setattr(management, "get_free_memory", lambda *device: 1000)
    monkeypatch.setattr(management, "EXTRA_RESERVED_VRAM", 300)
    monkeypatch.setattr(management.LoadedModel, "model_loaded_memory", lambda self: 50)
    assert pack.memory.free_for([model.clone()], model.load_device) == 750
    assert pack.memory.free_for([model, other], model.load_device) == 700
    assert pack.memory.free_for([model], torch.device("meta")) == 700


def test_what_to_change_in_each_mode(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: CUDA)
    first = {mode: pack.memory.changes(settings(pack, checkpointing=mode, precision="bf16"))[0] for mode in MODES}
    assert first == {
        "off": "switch gradient checkpointing on",
        "every second block": "choose checkpointing 'every block'",
        "every block": "choose checkpointing 'offloaded'",
        "offloaded": "use AdamW 8-bit",
    }
    monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: torch.device("cpu"))
    assert "offloaded" not in " ".join(pack.memory.changes(settings(pack, gradient_checkpointing=True)))
