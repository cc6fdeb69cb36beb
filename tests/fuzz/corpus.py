"""Inputs that were faults once, made here: each is read, or refused with the file's name, in bounded time and space."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import torch

from .kit import Files
from .mutation import chunk
from .readers import adapters, beside, checkpoints, peft_folders, pickled, runs, scorers, scores, sweeps
from .structures import encoded, safetensors

# By reader, with a name for each: "refused" or "read" is what has to become of it.
Entry = tuple[str, str, str, Callable[[], Files]]


def header(metadata: dict[str, str]) -> Callable[[], Files]:
    """A small file of this pack's own with this metadata."""
    tensors = {"diffusion_model.x.deft_Q": torch.eye(4, 1), "diffusion_model.x.deft_R": torch.ones(1, 4)}
    return lambda: {adapters.FILE: safetensors(tensors, metadata)}


def peft(kind: str, record: dict[str, Any] | None = None, **tensors: torch.Tensor) -> Callable[[], Files]:
    """A folder of PEFT's with another record, or with other tensors by the ends of their names."""

    def make() -> Files:
        old, weights = peft_folders.made(kind)
        changed = {
            key: next((new for end, new in tensors.items() if key.endswith(end.replace("__", "."))), own)
            for key, own in weights.items()
        }
        return {peft_folders.WEIGHTS: safetensors(changed), peft_folders.RECORD: encoded(old | (record or {}))}

    return make


def two_layers_in_one() -> Files:
    """A LoKr in Tucker form beside a LoRA of the same layer: ComfyUI's own class fails at it and logs that only."""
    layer, draw = "diffusion_model.joint_blocks.0.x_block.attn.proj", torch.Generator().manual_seed(0)
    sizes = {"lokr_w1": (2, 2), "lokr_w2_a": (4, 32), "lokr_w2_b": (4, 32), "lokr_t2": (4, 4, 1, 1)}
    sizes |= {"lora_up.weight": (64, 4), "lora_mid.weight": (4, 4), "lora_down.weight": (3, 4, 64)}
    return {
        adapters.FILE: safetensors(
            {f"{layer}.{name}": torch.randn(size, generator=draw) for name, size in sizes.items()}
        )
    }


def program(steps: bytes, **members: bytes) -> Callable[[], Files]:
    """A file of torch.save whose table of tensors is this program."""

    def make() -> Files:
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr("a/data.pkl", steps)
            archive.writestr("a/version", b"3\n")
        return {"a.pt": target.getvalue()}

    return make


def checkpoint(change: Callable[[dict[str, Any]], object]) -> Callable[[], Files]:
    """A checkpoint with a change."""

    def make() -> Files:
        content = checkpoints.copied(checkpoints.state())
        change(content)
        return {checkpoints.FILE: pickled.saved(content)}

    return make


def log(*changes: dict[str, Any], tail: bytes = b"") -> Callable[[], Files]:
    """A run's log with changes of its lines."""
    lines = [line | change for line, change in zip(runs.lines(), (*changes, {}, {}, {}))]
    return lambda: {runs.LOG: runs.written(lines) + tail, runs.RECORD: encoded(runs.record())}


def scorer(
    kind: str, change: Callable[[dict[str, Any]], object], raw: bytes = b"", merges: bytes = scorers.MERGES
) -> Callable[[], Files]:
    """A scorer with a change of the settings beside it."""

    def make() -> Files:
        settings, tensors = scorers.valid(kind)
        settings = json.loads(json.dumps(settings))
        change(settings)
        return {scorers.WEIGHTS: safetensors(tensors), scorers.SETTINGS: raw or encoded(settings), "merges.txt": merges}

    return make


def weights(content: Any) -> Callable[[], Files]:
    """A pickled scorer that holds this."""
    return lambda: {scorers.PICKLED: pickled.saved(content()), scorers.SETTINGS: encoded(scorers.DINO)}


def packed() -> Files:
    """A deflated checkpoint of 1 GB of zeros in 1 MB."""
    source, target = io.BytesIO(pickled.saved({"x": torch.zeros(10)})), io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for entry in old.infolist():
            with new.open(entry.filename, "w") as file:
                if entry.filename.endswith("data/0"):
                    for _ in range(300):
                        file.write(bytes(1 << 20))
                else:
                    file.write(old.read(entry))
    return {scorers.PICKLED: target.getvalue(), scorers.SETTINGS: encoded(scorers.DINO)}


def empty_tensors() -> Files:
    """110,000 tensors without values."""
    text = json.dumps(
        {f"x{n}.deft_Q": {"dtype": "F32", "shape": [0, 2], "data_offsets": [0, 0]} for n in range(110_000)}
    )
    return {adapters.FILE: struct.pack("<Q", len(text)) + text.encode()}


def bare(name: str, shape: tuple[int, ...]) -> bytes:
    """A safetensors file of one tensor without values."""
    text = json.dumps({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}})
    return struct.pack("<Q", len(text)) + text.encode()


def long_names() -> Files:
    """A folder of PEFT with 300 layers of long names, and patterns that try all ways to divide them by three."""
    record, _ = peft_folders.made("lora")
    names = [f"base_model.model.{'a' * 150}{n:03}" for n in range(300)]
    tensors = {f"{n}.lora_{part}.weight": torch.ones(2, 2) for n in names for part in "AB"}
    patterns = {f".*a.*a.*b{n}": 2 for n in range(50)}
    return {
        peft_folders.WEIGHTS: safetensors(tensors),
        peft_folders.RECORD: encoded(record | {"alpha_pattern": patterns}),
    }


def laughs() -> Files:
    """A plan whose aliases stand for nine to the ninth values."""
    lines = ["  a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    text = "\n".join(["name: x", "workflow: w.json", "set:", *lines, "exclude: *a9", ""])
    return {"plan.yaml": text.encode()}


def plan(axes: str, **files: bytes) -> Callable[[], Files]:
    """A plan with these axes; files: CSV files beside it, without their suffix."""
    text = f"workflow: w.json\naxes: {{{axes}}}\n"
    return lambda: {"plan.yaml": text.encode()} | {f"{name}.csv": content for name, content in files.items()}


def wide() -> Files:
    """A CSV of 300,000 columns and 300 rows that have one value each."""
    columns = ",".join(f"{n:x}" for n in range(300_000))
    return plan("a: {into: A.x, csv: wide.csv}", wide=f"{columns}\n".encode() + b"1\n" * 300)()


def tall() -> Files:
    """A picture of 12 x 1,048,585 points in 195 bytes: the height of one of 9 with a bit more."""
    picture = beside.picture_samples()[0]["a.png"]
    header = picture[16:20] + struct.pack(">I", (1 << 20) + 9) + picture[24:29]
    return {"a.png": picture[:8] + chunk(b"IHDR", header) + picture[33:], "a.txt": b""}


def nameless() -> Files:
    """A workflow with a subgraph whose input has no name."""
    inner = {"id": "s", "name": "s", "nodes": [], "links": [], "inputs": [{"type": "INT"}], "outputs": []}
    host = {"id": 1, "type": "s", "inputs": [], "outputs": []}
    return {"w.json": encoded({"nodes": [host], "links": [], "definitions": {"subgraphs": [inner]}})}


def short_animation() -> Files:
    """A PNG file with a chunk of an animation that is too short."""
    picture = beside.picture_samples()[0]["a.png"]
    return {"a.png": picture[:33] + chunk(b"acTL", b"\0\0\0\1\0\0\0\0") + chunk(b"fcTL", b"\0") + picture[33:]}


def doubled() -> bytes:
    """Tuples of tuples, of which the last holds 2 to the 40th, as the key of a dictionary."""
    pairs = b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(40))
    return b"\x80\x02}q\xff()q\x00" + pairs + b"h\x28K\x01u."


def cut_texts() -> Files:
    """A PNG file of three compressed texts of 40 MB."""
    picture = beside.picture_samples()[0]["a.png"]
    text = zlib.compress(b"x" * (40 << 20), 1)
    chunks = b"".join(chunk(b"zTXt", b"k%d\0\0" % n + text) for n in range(3))
    return {"a.png": picture[:33] + chunks + picture[33:]}


def postscript() -> Files:
    """PostScript under the name of a picture, which Pillow would run Ghostscript for."""
    return {"a.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n{} loop\n"}


def beginning(value: Any) -> Any:
    """The first entry of an optimizer's state."""
    return next(iter(value["optimizer"]["state"].values()))


CORPUS: tuple[Entry, ...] = (
    (
        "adapters",
        "refused",
        "a record of PEFT without its fields",
        header({"peft_record": '{"": {"peft_type": "VERA"}}'}),
    ),
    ("adapters", "refused", "a record of PEFT that is no JSON", header({"peft_record": "{"})),
    (
        "adapters",
        "refused",
        "a record of PEFT with a text for a number",
        header({"peft_record": '{"": {"peft_type": "BEFT", "alpha": "x"}}'}),
    ),
    ("adapters", "refused", "110,000 empty tensors", empty_tensors),
    (
        "adapters",
        "refused",
        "a billion blocks without values",
        lambda: {adapters.FILE: bare("base_model.model.x.oft_R.weight", (10**9, 0))},
    ),
    ("adapters", "refused", "LoKr in Tucker form beside LoRA", two_layers_in_one),
    (
        "peft_folders",
        "refused",
        "rotations of no blocks with a bound",
        peft("oft", {"coft": True}, oft_R__weight=torch.zeros(0, 6)),
    ),
    ("peft_folders", "refused", "a field with a line break", peft("lora", {"unknown": "a\nb"})),
    ("peft_folders", "refused", "LoHa of rank 0", peft("loha", {"r": 0})),
    ("peft_folders", "read", "null for a number of terms", peft("oft", {"num_cayley_neumann_terms": None})),
    ("peft_folders", "refused", "a field of 3,000 letters", peft("vera", {"x" * 3000: 1})),
    (
        "peft_folders",
        "refused",
        "a number of 400 digits",
        peft("lora", {"init_lora_weights": "olora", "kasa_config": {}, "lora_alpha": 10**400}),
    ),
    ("peft_folders", "refused", "a number of 400 digits of another tuner", peft("hra", {"scaling": 10**400})),
    ("peft_folders", "refused", "a projector that is an object", peft("deft", {"decomposition_method": {"a": 1}})),
    ("peft_folders", "refused", "a pattern that takes hours", peft("lora", {"alpha_pattern": {"(a+)+b": 3}})),
    ("peft_folders", "refused", "letters that may be missing", peft("lora", {"alpha_pattern": {"a?" * 60: 3}})),
    ("peft_folders", "refused", "alternatives that are the same", peft("lora", {"rank_pattern": {"(a|a)" * 60: 3}})),
    ("peft_folders", "refused", "patterns of three repetitions for long names", long_names),
    (
        "peft_folders",
        "refused",
        "entries whose rotation is infinite",
        peft("oft", **{"oft_R.weight": torch.full((16, 6), 1e30)}),
    ),
    ("peft_folders", "refused", "blocks of one number", peft("oft", **{"oft_R.weight": torch.zeros(64, 0)})),
    (
        "peft_folders",
        "refused",
        "rotations of a million small blocks",
        peft("oft", **{"oft_R.weight": torch.zeros(2_000_000, 1).to(torch.float8_e4m3fn)}),
    ),
    (
        "pickled",
        "refused",
        "a view of a stride of 0",
        lambda: {"a.pt": pickled.saved({"x.deft_Q": torch.ones(1).expand(100_000_000, 2)})},
    ),
    (
        "pickled",
        "refused",
        "a vector for a matrix of PaRa's authors",
        lambda: {"x_left_column_learn_Q.pt": pickled.saved({"lora_unet_x.lora_up.weight": torch.ones(4)})},
    ),
    ("pickled", "refused", "tuples in tuples", program(doubled())),
    ("pickled", "refused", "a million steps and more", program(b"\x80\x02" + b"N0" * 501_000 + b"}.")),
    (
        "pickled",
        "refused",
        "40 views of one storage",
        lambda: {
            "a.pt": pickled.saved(
                {f"x{n}.deft_Q": torch.ones(500, 4000).t() for n in range(1)}
                | dict.fromkeys((f"y{n}.deft_Q" for n in range(40)), torch.ones(1000, 2000).t())
            )
        },
    ),
    ("checkpoints", "read", "as it was written", checkpoint(lambda state: None)),
    (
        "checkpoints",
        "refused",
        "a tensor for a setting",
        checkpoint(lambda state: state["identity"].update(rank=torch.ones(3))),
    ),
    ("checkpoints", "refused", "losses of another number", checkpoint(lambda state: state["losses"].append(1.0))),
    (
        "checkpoints",
        "refused",
        "a parameter of another size",
        checkpoint(lambda state: state["parameters"].__setitem__(0, torch.ones(3))),
    ),
    (
        "checkpoints",
        "refused",
        "a parameter that is not a number",
        checkpoint(lambda state: state["parameters"][0].fill_(float("nan"))),
    ),
    ("checkpoints", "refused", "an average too few", checkpoint(lambda state: state["average"].pop())),
    (
        "checkpoints",
        "refused",
        "an optimizer without a moment",
        checkpoint(lambda state: beginning(state).pop("exp_avg")),
    ),
    (
        "checkpoints",
        "refused",
        "no moment at all",
        checkpoint(lambda state: [entry.pop("exp_avg") for entry in state["optimizer"]["state"].values()]),
    ),
    (
        "checkpoints",
        "refused",
        "values with which nothing is a number",
        checkpoint(lambda state: [value.fill_(1e38) for value in state["parameters"]]),
    ),
    (
        "checkpoints",
        "refused",
        "a moment of another size",
        checkpoint(lambda state: beginning(state).update(exp_avg=torch.ones(1))),
    ),
    (
        "checkpoints",
        "refused",
        "a rate that is a text",
        checkpoint(lambda state: state["optimizer"]["param_groups"][0].update(lr="x")),
    ),
    (
        "checkpoints",
        "refused",
        "a tensor for the number of steps",
        checkpoint(lambda state: state.update(step=torch.ones(3))),
    ),
    (
        "checkpoints",
        "refused",
        "a tensor for the places of the parameters",
        checkpoint(lambda state: state["optimizer"]["param_groups"][0].update(params=torch.ones(3))),
    ),
    (
        "checkpoints",
        "refused",
        "two numbers for a number of steps",
        checkpoint(lambda state: [entry.update(step=torch.ones(2)) for entry in state["optimizer"]["state"].values()]),
    ),
    (
        "checkpoints",
        "read",
        "an optimizer without a setting",
        checkpoint(lambda state: state["optimizer"]["param_groups"][0].pop("eps")),
    ),
    (
        "checkpoints",
        "refused",
        "an order of pictures that are not there",
        checkpoint(lambda state: state["random"].update(order=[[7]])),
    ),
    ("checkpoints", "refused", "no random numbers", checkpoint(lambda state: state.pop("random"))),
    ("runs", "refused", "bytes that are no text", log(tail=b"\xff\xfe\n")),
    ("runs", "refused", "a loss that is an object", log({"loss": {}})),
    ("runs", "refused", "a loss of 400 digits", log({"loss": 10**400})),
    ("runs", "refused", "a step without end", log({"step": float("inf")})),
    ("scorers", "read", "as it was written", scorer("clip", lambda settings: None)),
    ("scorers", "refused", "settings that are no text", scorer("dino", lambda settings: None, raw=b"\xff\xfe{")),
    ("scorers", "refused", "settings that are cut off", scorer("dino", lambda settings: None, raw=b'{"kind": "dino')),
    ("scorers", "refused", "no architecture", scorer("dino", lambda settings: settings.pop("timm"))),
    (
        "scorers",
        "refused",
        "an object for a number",
        scorer("dino", lambda settings: settings["preprocess"].update(mean=[{}, 1, 1])),
    ),
    (
        "scorers",
        "refused",
        "a deviation of zero",
        scorer("dino", lambda settings: settings["preprocess"].update(std=[0, 0, 0])),
    ),
    (
        "scorers",
        "refused",
        "the usual sizes around small weights",
        scorer("clip", lambda settings: settings["open_clip"].update(vision_cfg={})),
    ),
    (
        "scorers",
        "refused",
        "a name of a model of gigabytes",
        scorer("clip", lambda settings: settings.update(open_clip="ViT-bigG-14")),
    ),
    ("scorers", "refused", "no heads", scorer("dino", lambda settings: settings["timm"].update(num_heads=None))),
    ("scorers", "refused", "a billion blocks", scorer("dino", lambda settings: settings["timm"].update(depth=10**9))),
    (
        "scorers",
        "refused",
        "a width of a million",
        scorer("clip", lambda settings: settings["open_clip"].update(embed_dim=10**6)),
    ),
    ("scorers", "refused", "a tokenizer that is no text", scorer("clip", lambda settings: None, merges=b"\xff\xff")),
    (
        "scorers",
        "refused",
        "a tokenizer with more tokens",
        scorer("clip", lambda settings: None, merges=b"#v\n" + b"a b\n" * 20),
    ),
    (
        "scorers",
        "refused",
        "views that need 12 GB",
        weights(lambda: {f"x{n}": torch.zeros(1).expand(100_000_000) for n in range(30)}),
    ),
    ("scorers", "refused", "a sparse tensor", weights(lambda: {"cls_token": torch.eye(4).to_sparse()})),
    ("scorers", "refused", "1 GB of zeros, packed", packed),
    ("pictures", "refused", "a caption that is no UTF-8", lambda: beside.picture_samples()[1] | {"b.txt": b"\xdc"}),
    (
        "pictures",
        "read",
        "a caption with the mark of Windows",
        lambda: beside.picture_samples()[1] | {"b.txt": b"\xef\xbb\xbfa dog"},
    ),
    ("pictures", "refused", "PostScript", postscript),
    ("pictures", "read", "12 million points in 195 bytes", tall),
    ("pictures", "refused", "an animation's chunk that is cut off", short_animation),
    ("scores", "read", "as it was written", lambda: scores.samples()[0]),
    (
        "scores",
        "refused",
        "half of a letter",
        lambda: {scores.FILE: json.dumps(scores.valid()[0] | {"label": "\ud800"}).encode()},
    ),
    (
        "scores",
        "refused",
        "a value of 400 digits",
        lambda: {scores.FILE: runs.written([scores.valid()[0] | {"values": [10**400]}])},
    ),
    (
        "scorers",
        "refused",
        "a side of 8,192 pixels",
        scorer("dino", lambda settings: settings["preprocess"].update(resize=8192)),
    ),
    ("workflows", "refused", "200,000 brackets", lambda: {"w.json": b"[" * 200_000}),
    (
        "workflows",
        "refused",
        "names of nodes with line breaks",
        lambda: {"w.json": encoded({"1": {"class_type": "a\nb", "inputs": {}}})},
    ),
    ("workflows", "refused", "an input of a subgraph without a name", nameless),
    ("plans", "refused", "aliases that stand for billions", laughs),
    ("plans", "refused", "an alias that holds itself", lambda: {"plan.yaml": b"axes: &a [*a]\nname: x\n"}),
    ("plans", "refused", "20,000 brackets", lambda: {"plan.yaml": b"a: " + b"[" * 20_000}),
    ("plans", "refused", "mappings too deep", lambda: {"plan.yaml": b"".join(b" " * n + b"a:\n" for n in range(1500))}),
    ("plans", "read", "the mark of Windows", lambda: {"plan.yaml": b"\xef\xbb\xbfworkflow: w.json\n"}),
    ("plans", "refused", "a million seeds", plan("seed: {into: Sample.seed, seeds: 922337}")),
    (
        "plans",
        "refused",
        "ten axes of as many seeds as there may be",
        plan(", ".join(f"s{n}: {{into: Sample.seed, seeds: 100000}}" for n in range(10))),
    ),
    (
        "plans",
        "refused",
        "ten axes of as many steps as there may be",
        plan(", ".join(f"s{n}: {{into: A.x, range: {{from: 1, to: 100000}}}}" for n in range(10))),
    ),
    ("plans", "refused", "800,000 values", plan(f"a: {{into: A.x, values: [{'1,' * 800_000}]}}")),
    ("plans", "refused", "a CSV of rows that are too short", wide),
    (
        "plans",
        "refused",
        "a CSV of a million rows",
        plan("a: {into: A.x, csv: long.csv}", long=b"x\n" + b"".join(b"%d\n" % n for n in range(1_000_000))),
    ),
    ("plans", "refused", "no UTF-8", lambda: {"plan.yaml": b"name: \xdc\n"}),
    (
        "cells",
        "refused",
        "scores that are no text",
        lambda: sweeps.cell_samples()[0] | {f"{sweeps.KEY}/a.jsonl": b"\xff"},
    ),
    ("png_texts", "refused", "120 MB of texts", cut_texts),
)
