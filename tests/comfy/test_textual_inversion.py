"""Textual Inversion: the vectors go where ComfyUI's own embeddings go, their gradient, the file, what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import models
from .architectures import text_model
from .test_adapter_nodes import node, training_prompt
from .test_training import backward
from .test_training_runs import as_loaded


def clip_of(kind: str, folder: Path) -> Any:
    """A small CLIP of ComfyUI's own class with its real tokenizer, which looks for embeddings in `folder`."""
    import comfy.sd1_clip
    import comfy.sdxl_clip

    if kind == "sdxl":
        clip = text_model("comfy.sdxl_clip", "SDXLClipModel")
        clip.tokenizer = comfy.sdxl_clip.SDXLTokenizer(embedding_directory=str(folder))
    else:
        clip = text_model("comfy.sd1_clip", "SD1ClipModel")
        clip.tokenizer = comfy.sd1_clip.SD1Tokenizer(embedding_directory=str(folder))
    models.fill(clip.cond_stage_model, seed=5)
    return clip


@pytest.mark.parametrize(("kind", "encoders"), [("sd15", ["clip_l"]), ("sdxl", ["clip_g", "clip_l"])])
def test_the_vectors_do_what_comfyui_does_with_the_file(pack: Any, tmp_path: Path, kind: str, encoders: list) -> None:
    """The same captions, with weights and in several chunks, encoded from the saved file and from the vectors."""
    clip = clip_of(kind, tmp_path)
    token = pack.token.Token(clip, "sks-1", 3, "old dog", torch.device("cpu"))
    assert sorted(token.vectors) == encoders
    for key, vectors in token.vectors.items():
        table = pack.token.table_of(clip, key)
        ids = pack.token.ids_of(pack.token.tokenizers(clip)[key], "old dog")
        assert torch.equal(vectors, table[[*ids, ids[0]]])  # as the words, from the first again
        assert len(ids) == 2
        with torch.no_grad():
            vectors += models.random(*vectors.shape, seed=len(key))
    captions = ["a photo of {}", "{}, (on {} grass:1.3) and more", "word " * 90 + "{} end", "none"]
    tokens = token.tokenize(captions)
    assert all(part.embedding_directory == str(tmp_path) for part in pack.token.tokenizers(clip).values())
    save_file({key: value.detach().clone() for key, value in token.vectors.items()}, tmp_path / "sks-1.safetensors")
    for caption, marked in zip(captions, tokens, strict=True):
        with torch.no_grad():
            own = clip.cond_stage_model.encode_token_weights(token.placed(marked))
            from_file = clip.tokenize(caption.replace("{}", "embedding:sks-1 "))
            theirs = clip.encode_from_tokens(from_file, return_pooled=True)
        assert torch.equal(own[0], theirs[0])
        assert torch.equal(own[1], theirs[1])
    assert clip.tokenize("none") == tokens[3]


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_every_encoder_gets_its_gradient(pack: Any, tmp_path: Path, kind: str) -> None:
    """The gradient through the frozen encoders is compared with finite differences, each encoder by itself."""
    clip = clip_of(kind, tmp_path)
    stage = clip.cond_stage_model
    token = pack.token.Token(clip, "sks-1", 2, "dog", torch.device("cpu"))
    (tokens,) = token.tokenize(["a photo of (a {}:1.2) here"])
    with pack.network.frozen(stage, {}):

        def value() -> Tensor:
            cond, pooled, *_ = stage.encode_token_weights(token.placed(tokens))
            weights = models.random(*cond.shape, seed=3), models.random(*pooled.shape, seed=4)
            return (cond * weights[0]).sum() + (pooled * weights[1]).sum()

        backward(pack.repairs.Repairs("CLIP"), value, list(token.vectors.values()))
        for vectors in token.vectors.values():
            gradient = vectors.grad.clone()
            step = 1e-2 / float(gradient.norm())
            with torch.no_grad():
                vectors.add_(step * gradient)
                up = value()
                vectors.sub_(2 * step * gradient)
                down = value()
                vectors.add_(step * gradient)
            assert gradient[0].any()
            assert gradient[1].any()
            assert float((up - down) / (2 * step)) == pytest.approx(float(gradient.square().sum()), rel=0.05)


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_another_embedding_in_a_caption_fits_or_is_refused(pack: Any, tmp_path: Path, kind: str) -> None:
    clip = clip_of(kind, tmp_path)
    token = pack.token.Token(clip, "sks-1", 1, "dog", torch.device("cpu"))
    fitting = {key: torch.ones(2, value.shape[1]) for key, value in token.vectors.items()}
    save_file(fitting, tmp_path / "grass.safetensors")
    token.tokenize(["{} on embedding:grass"])
    save_file(fitting | {"clip_l": torch.ones(2, 7)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="embedding:other' has 7 values per vector, but clip_l needs 32"):
        token.tokenize(["{} on embedding:grass", "{} on embedding:other"])


def material(pack: Any, model: Any, clip: Any, captions: list[str]) -> Any:
    with torch.inference_mode():
        return pack.token.material_of(clip, [models.latents(model, 2)], captions, False, "dog")


def settings(pack: Any, **others: Any) -> Any:
    return pack.settings.Settings(
        **(
            {
                "method": "textual_inversion",
                "rank": 1,
                "steps": 4,
                "learning_rate": 1e-2,
                "options": {"token": "sks-1", "vectors": 2, "words": "dog"},
            }
            | others
        )
    )


@pytest.fixture
def projected(comfyui_session: Any) -> Any:
    """The demo's CLIP, its output brought to the width that the small SD3 takes."""
    with torch.inference_mode():
        clip = comfyui_session.pack_nodes["DEFTDemoTextEncoder"].execute().result[0]
        width = clip.encode_from_tokens(clip.tokenize("a")).shape[-1]
    project = models.random(width, models.TOKEN_WIDTH, seed=3) / math.sqrt(width)
    stage, own = clip.cond_stage_model, clip.cond_stage_model.encode_token_weights

    def encode(tokens: Any) -> tuple:
        cond, *_ = own(tokens)
        return cond @ project, (cond @ project)[:, 0, : models.POOLED_WIDTH]

    stage.encode_token_weights = encode
    yield clip
    del stage.encode_token_weights


def test_gradient_of_the_vectors(pack: Any, projected: Any) -> None:
    """Compared with finite differences of the loss along the gradient."""
    model = as_loaded(models.sd3)
    data = material(pack, model, projected, ["a photo of {}", "{} on a hill"])
    with torch.inference_mode(False), torch.enable_grad():
        chosen = settings(pack, seed=3, batch_size=4)
        trainer = pack.token.TokenTrainer(model, chosen, pack.material.Dataset(model.model, data, chosen))

        def loss() -> float:
            trainer.generator.manual_seed(11)
            trainer.order.waiting = []
            return trainer.gradients()

        with trainer.prepared():
            loss()
            (vectors,) = trainer.parameters
            gradient = vectors.grad.clone()
            step = 2e-2 / float(gradient.norm())
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    vectors.add_(sign * step * gradient)
                values.append(loss())
                with torch.no_grad():
                    vectors.sub_(sign * step * gradient)
    assert gradient.norm() > 1e-4
    assert gradient[0].any()
    assert gradient[1].any()
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(gradient.square().sum()), rel=0.02)


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(pack: Any, projected: Any, tmp_path: Path) -> None:
    model = as_loaded(models.sd3)
    before = models.weights(model)
    table = projected.cond_stage_model.state_dict()
    table = {key: value.clone() for key, value in table.items()}
    data = material(pack, model, projected, ["a photo of {}", "{} on a hill"])
    folder = pack.checkpoints.RunFolder(tmp_path / "run", 2)

    def run(steps: int, folder: Any = None) -> Any:
        with torch.inference_mode():
            chosen = settings(pack, steps=steps, ema=0.5)
            return pack.loop.train(model, data, chosen, lambda progress: None, folder=folder)

    whole = run(8).adapter
    first, resumed = run(4, folder).adapter, run(8, folder)
    assert "resumed at step 4" in resumed.report
    assert resumed.report.count("textual_inversion: sks-1, 2 vectors") == 1
    assert whole.keys() == {"clip_l"} == first.keys()
    assert whole["clip_l"].shape == (2, 192)
    assert torch.equal(whole["clip_l"], resumed.adapter["clip_l"])
    assert not torch.equal(whole["clip_l"], first["clip_l"])
    assert whole.metadata["method"] == "textual_inversion"
    assert '"token": "sks-1"' in whole.metadata["training"]
    assert all(torch.equal(value, before[key]) for key, value in models.weights(model).items())
    assert all(torch.equal(value, table[key]) for key, value in projected.cond_stage_model.state_dict().items())


# ------------------------------------------------------------------------------------------------------------ the node


def inversion(**changed: Any) -> dict[str, Any]:
    inputs: dict[str, Any] = {
        "model": ["model", 0],
        "clip": ["clip", 0],
        "latents": ["latents", 0],
        "token": "deft-test",
        "vectors": 2,
        "start": "bear",
        "template": "object",
        "steps": 60,
        "learning_rate": 1e-2,
        "batch_size": 2,
        "seed": 1,
        "overwrite": False,
        "precision": "fp32",
        "gradient_checkpointing": False,
        "settings": ["settings", 0],
    }
    return node("DEFTTrainTextualInversion", **(inputs | changed))


def test_the_node_learns_saves_and_is_used_at_once(comfyui: Any, embeddings: Path) -> None:
    prompt = training_prompt() | {
        "train": inversion(),
        "new": node("CLIPTextEncode", text=["train", 0], clip=["clip", 0]),
        "graph": node("LossGraphNode", loss=["train", 1], filename_prefix="tests/loss"),
    }
    run = comfyui.run(prompt, want=["train", "new", "clip"])
    name, losses, report = (run.output("train", slot) for slot in range(3))
    assert name == "embedding:deft-test"
    assert len(losses["loss"]) == 60
    third = losses["loss"][:20], losses["loss"][-20:]
    assert sum(third[1]) < sum(third[0])
    tensors = load_file(embeddings / "deft-test.safetensors")
    assert tensors.keys() == {"clip_l"}
    assert tensors["clip_l"].shape == (2, 192)
    assert "2 vectors in clip_l, 384 trained values" in report
    assert "deft-test.safetensors" in report
    cond: Tensor = run.output("new")[0][0]
    clip = run.output("clip")
    with torch.inference_mode():
        assert torch.equal(cond, clip.encode_from_tokens_scheduled(clip.tokenize("embedding:deft-test"))[0][0])
        assert models.relative(cond, clip.encode_from_tokens_scheduled(clip.tokenize("bear bear"))[0][0]) > 1e-2
    again = comfyui.fail(training_prompt() | {"train": inversion(seed=2)}, want=["train"])
    assert "The embedding 'deft-test' already exists" in again.message
    prompt = training_prompt() | {"train": inversion(seed=2, steps=2, overwrite=True)}
    prompt["settings"]["inputs"]["name"] = "my_dog"
    report = comfyui.run(prompt, want=["train"]).text("train")
    assert "the name 'my_dog' of Training Settings is not used: the embedding's is its token" in report
    assert not torch.equal(load_file(embeddings / "deft-test.safetensors")["clip_l"], tensors["clip_l"])


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"token": "bear"}, "'bear' is a word that the text encoder knows: choose another, as bear-1"),
        ({"token": "two words"}, "'two words' must be one word"),
        ({"token": "../deft-up"}, "must be one word"),
        ({"token": ""}, "must be one word"),
        ({"start": ""}, "Write words for the token to start from"),
        ({"captions": ["wrong", 0]}, "'a picture of nothing' does not contain the token 'deft-test'"),
        ({"template": "person"}, "template"),
    ],
)
def test_what_the_node_refuses(comfyui: Any, embeddings: Path, changed: dict[str, Any], text: str) -> None:
    wrong = node("PrimitiveString", value="a picture of nothing")
    prompt = training_prompt() | {"train": inversion(**changed), "wrong": wrong}
    failed = comfyui.fail(prompt, want=["train"])
    assert failed.node_type == "DEFTTrainTextualInversion"
    assert text in failed.message
    assert not list(embeddings.glob("deft-*"))


def test_own_captions(pack: Any) -> None:
    own = ["a {sks-1} here", "sks-1 and sks-10"]
    assert pack.token.captions_of("sks-1", "object", own) == ["a {} here", "{} and sks-10"]
