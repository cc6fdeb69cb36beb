"""Every reader meets damaged and hostile files: one sentence that names the file, no crash, no code, little memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from deft_pack.deft_ops import files

from ..tools import random

ROOT = Path(__file__).resolve().parent.parent.parent


X, Y = "blocks.0.attn.to_q", "blocks.1.attn.to_q"
# A small valid file of each format: its name, its tensors, the record beside it.
VALID: dict[str, tuple[str, dict[str, Tensor], dict[str, Any] | None]] = {
    "peft-deft": (
        "adapter_model.safetensors",
        {
            f"base_model.model.{n}.{part}": random(*shape)
            for n in (X, Y)
            for part, shape in (("deft_P", (8, 2)), ("deft_R", (2, 6)))
        },
        {"peft_type": "DEFT", "r": 2, "decomposition_method": "qr"},
    ),
    "peft-lora": (
        "adapter_model.safetensors",
        {
            f"base_model.model.{n}.{part}.weight": random(*shape)
            for n in (X, Y)
            for part, shape in (("lora_B", (8, 2)), ("lora_A", (2, 6)))
        },
        {"peft_type": "LORA", "r": 2, "lora_alpha": 2},
    ),
    "peft-dora": (
        "adapter_model.safetensors",
        {
            f"base_model.model.{X}.{part}": random(*shape)
            for part, shape in (("lora_B.weight", (8, 2)), ("lora_A.weight", (2, 6)), ("lora_magnitude_vector", (8,)))
        },
        {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "use_dora": True},
    ),
    "peft-oft": (
        "adapter_model.safetensors",
        {f"base_model.model.{X}.oft_R.weight": random(2, 3)},
        {"peft_type": "OFT", "oft_block_size": 3},
    ),
    "peft-bin": (
        "adapter_model.bin",
        {f"{X}.deft_P": random(8, 2), f"{X}.deft_R": random(2, 6)},
        {"peft_type": "DEFT", "r": 2, "decomposition_method": "qr"},
    ),
    "deft_sdxl": (
        "project_replace.pt",
        {
            f"{n}.lora_layer.{part}": random(*shape)
            for n in (X, Y)
            for part, shape in (("P", (8, 2)), ("R_new", (2, 6)), ("gate", (1,)))
        },
        None,
    ),
    "deft_omnigen": (
        "knowledge_injection_state.bin",
        {f"{X}.{part}": random(*shape) for part, shape in (("P", (8, 2)), ("R_new", (2, 6)))},
        None,
    ),
    "para_deft": ("para_rank_state.bin", {f"{X}.B": random(8, 2), f"{Y}.B": random(8, 2)}, None),
    "para_authors": (
        "x_left_column_learn_Q.pt",
        {
            f"lora_unet_x.{part}": random(*shape)
            for part, shape in (("lora_up.weight", (8, 2)), ("lora_down.weight", (2, 6)))
        },
        None,
    ),
    "svdiff": ("spectral_shifts.safetensors", {f"{X}.delta": random(6), f"{Y}.delta": random(6)}, None),
    "native": (
        "a.safetensors",
        {
            f"diffusion_model.{X}.deft_Q": random(8, 2),
            f"diffusion_model.{X}.alpha": torch.tensor(2.0),
            f"diffusion_model.{X}.deft_R": random(2, 6),
        },
        None,
    ),
    "lora-kohya": (
        "b.safetensors",
        {
            "lora_unet_x.lora_up.weight": random(8, 2),
            "lora_unet_x.lora_down.weight": random(2, 6),
            "lora_unet_x.alpha": torch.tensor(1.0),
        },
        None,
    ),
}
PICKLED = [name for name, (file, _, _) in VALID.items() if not file.endswith(".safetensors")]


def write(folder: Path, kind: str, tensors: dict[str, Tensor] | None = None) -> Path:
    """The file of a format with its record, with these tensors instead of its own if given."""
    name, own, record = VALID[kind]
    path = folder / name
    content = own if tensors is None else tensors
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    if record is not None:
        (folder / "adapter_config.json").write_text(json.dumps(record))
    return path


def refused(path: Path, *words: str) -> str:
    """The sentence with which a file is refused."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        files.read(path)
    message = str(caught.value)
    assert path.name in message, message
    assert "\n" not in message, message
    assert all(word in message for word in words), message
    return message


@pytest.mark.parametrize("kind", VALID)
def test_the_valid_file_is_read(tmp_path: Path, kind: str) -> None:
    adapter = files.read(write(tmp_path, kind))
    expected = kind.partition("-")[0].replace("lora", "native")
    assert adapter.metadata["method"]
    assert adapter.metadata["file_format"] == expected


@pytest.mark.parametrize("kind", VALID)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9, 0.999])
def test_truncated(tmp_path: Path, kind: str, share: float) -> None:
    path = write(tmp_path, kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path)


@pytest.mark.parametrize("kind", VALID)
@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8,
        b"hello, this is a text\n" * 40,
        b'{"a": [1, 2, 3]}' * 9,
        bytes(4096),
        b"PK\x03\x04" + bytes(100),
        b"\x80\x02}q\x00.",
    ],
    ids=["png", "text", "json", "zeros", "zip", "bare-pickle"],
)
def test_files_of_another_kind(tmp_path: Path, kind: str, content: bytes) -> None:
    path = write(tmp_path, kind)
    path.write_bytes(content)
    refused(path)


def test_folders_and_paths(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"adapter_model\.safetensors does not exist"):
        files.read(tmp_path)
    for name in ("../../nothing.safetensors", "/nowhere/x.pt", "x\x00.pt", "a" * 300 + ".safetensors"):
        with pytest.raises((ValueError, OSError)):
            files.read(tmp_path / name)


@pytest.mark.parametrize("kind", [kind for kind in VALID if kind not in ("svdiff", "peft-oft", "para_deft")])
def test_ranks_that_differ_inside_a_layer(tmp_path: Path, kind: str) -> None:
    tensors = dict(VALID[kind][1])
    key = next(key for key, value in tensors.items() if tuple(value.shape) == (2, 6))
    tensors[key] = random(3, 6)
    refused(write(tmp_path, kind, tensors))


# A tensor that is damaged: what becomes of it, and what the sentence says of it besides file and tensor.
DAMAGED: dict[str, tuple[Any, str]] = {
    "a number": (lambda value: torch.tensor(1.0), ""),
    "five dimensions": (lambda value: torch.ones(4, 3, 2, 2, 2), ""),
    "whole numbers": (lambda value: torch.ones_like(value).to(torch.int64), "floating-point numbers are needed"),
    "bytes": (lambda value: torch.ones_like(value).to(torch.uint8), "floating-point numbers are needed"),
    "truths": (lambda value: torch.ones_like(value).bool(), "floating-point numbers are needed"),
    "complex numbers": (lambda value: value.to(torch.complex64), "complex numbers"),
    "not a number": (lambda value: torch.full_like(value, torch.nan), "NaN or infinity"),
}
SINGLE = (".gate", ".alpha")  # of one number, in any dtype


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("kind", [kind for kind in VALID if not kind.startswith("peft")])
def test_a_damaged_tensor_is_named(tmp_path: Path, kind: str, name: str) -> None:
    """Every tensor of every file in turn, by the name that it has in the file."""
    damage, message = DAMAGED[name]
    for key, value in VALID[kind][1].items():
        if key.endswith(SINGLE) and name != "not a number":
            continue
        refused(write(tmp_path, kind, {**VALID[kind][1], key: damage(value)}), key, message)


HALVES: dict[str, tuple[str, str, str]] = {
    "deft_sdxl, P": ("deft_sdxl", f"{X}.lora_layer.P", f"{X}.lora_layer.R_new without {X}.lora_layer.P:"),
    "deft_sdxl, R": ("deft_sdxl", f"{X}.lora_layer.R_new", f"{X}.lora_layer.P without {X}.lora_layer.R_new:"),
    "deft_omnigen, P": ("deft_omnigen", f"{X}.P", f"{X}.R_new without {X}.P:"),
    "para_authors, up": (
        "para_authors",
        "lora_unet_x.lora_up.weight",
        "lora_unet_x.lora_down.weight without lora_unet_x.lora_up.weight:",
    ),
    "native, Q": ("native", f"diffusion_model.{X}.deft_Q", f"diffusion_model.{X}.deft_R without the tensors that"),
}


@pytest.mark.parametrize("name", HALVES)
def test_half_a_layer_is_named(tmp_path: Path, name: str) -> None:
    kind, missing, message = HALVES[name]
    tensors = dict(VALID[kind][1])
    if kind == "para_authors":  # another layer, so that the file is still told
        tensors |= {"lora_unet_y.lora_up.weight": random(8, 2), "lora_unet_y.lora_down.weight": random(2, 6)}
    del tensors[missing]
    refused(write(tmp_path, kind, tensors), message)


def test_half_a_layer_of_a_native_deft_file(tmp_path: Path) -> None:
    tensors = VALID["native"][1] | {f"diffusion_model.{Y}.deft_Q": random(8, 2)}
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, {"method": "deft"})
    refused(path, f"diffusion_model.{Y}.deft_Q without diffusion_model.{Y}.deft_R")
    save_file(tensors, path, {"method": "mixed"})
    assert files.read(path).keys() == tensors.keys()


def test_a_native_file_of_p_and_r_is_whole(tmp_path: Path) -> None:
    """ComfyUI's Train LoRA keeps P, from which Q is computed."""
    tensors = {f"diffusion_model.{X}.deft_P": random(8, 2), f"diffusion_model.{X}.deft_R": random(2, 6)}
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, {"method": "deft"})
    assert files.read(path, file_format="native").keys() == tensors.keys()


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
@pytest.mark.parametrize(
    "key",
    [
        "lora_unet_x.hada_w1_a",
        "lora_unet_x.lokr_w2",
        "lora_unet_x.a1.weight",
        "x.diff",
        "x.diff_b",
        "x.w_norm",
        "lora_unet_x.lora_mid.weight",
        "x.lora_linear_layer.up.weight",
        "x.attn1.processor.to_q_lora.down.weight",
        "unet.x.lora.up.weight",
        "lora_unet_x.lora_up.weight",
    ],
)
def test_factors_of_comfyuis_own_classes_are_floating(tmp_path: Path, key: str, dtype: torch.dtype) -> None:
    save_file({key: torch.ones(2, 2).to(dtype)}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", f"has {key} of {str(dtype).removeprefix('torch.')}, but floating-point numbers")


@pytest.mark.parametrize("key", ["x.alpha", "x.reshape_weight", "lora_unet_x.on_input", "position_ids", "x.lora_A"])
def test_other_tensors_may_be_whole_numbers(tmp_path: Path, key: str) -> None:
    save_file({key: torch.ones(2, dtype=torch.int64)}, tmp_path / "a.safetensors")
    assert key in files.read(tmp_path / "a.safetensors")


def test_half_a_layer_of_omnigen_without_its_r(tmp_path: Path) -> None:
    more = {f"{Y}.P": random(8, 2), f"{Y}.gate": random(1)}
    refused(write(tmp_path, "deft_omnigen", VALID["deft_omnigen"][1] | more), f"{Y}.P without {Y}.R_new:")


@pytest.mark.parametrize("kind", PICKLED)
def test_newer_dtypes_in_a_pickle(tmp_path: Path, kind: str) -> None:
    tensors = {key: value.to(torch.float8_e4m3fn) for key, value in VALID[kind][1].items()}
    refused(write(tmp_path, kind, tensors), "newer dtype", "as .safetensors")


@pytest.mark.parametrize("text", ['{"peft_type": "DEFT"', "[1]", '{"r": ' + "9" * 9999 + "}", '{"a": ' + "[" * 99_999])
def test_records_that_are_no_json(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, "peft-deft")
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"adapter_config\.json (is not valid JSON|must hold a JSON object)"):
        files.read(path)


def test_a_record_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Windows' editors save a record with a mark of the encoding."""
    path = write(tmp_path, "peft-deft")
    (tmp_path / "adapter_config.json").write_text(json.dumps(VALID["peft-deft"][2]), encoding="utf-8-sig")
    assert files.read(path).metadata["projector"] == "qr"


@pytest.mark.parametrize("kind", VALID)
def test_wrong_shapes(tmp_path: Path, kind: str) -> None:
    for shape in ((4, 3, 2, 2, 2), ()):
        tensors = {key: torch.ones(shape) if value.ndim else value for key, value in VALID[kind][1].items()}
        refused(write(tmp_path, kind, tensors))


@pytest.mark.parametrize("kind", VALID)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity(tmp_path: Path, kind: str, value: float) -> None:
    tensors = {key: tensor.clone() for key, tensor in VALID[kind][1].items()}
    key = next(iter(tensors))
    tensors[key].view(-1)[-1] = value
    refused(write(tmp_path, kind, tensors), "NaN or infinity", key)


@pytest.mark.parametrize("kind", VALID)
def test_unknown_keys_are_kept(tmp_path: Path, kind: str) -> None:
    extra = {key: torch.ones(2) for key in ("../../etc/passwd", "who.knows.what", "", "...")}
    adapter = files.read(write(tmp_path, kind, VALID[kind][1] | extra))
    assert extra.keys() <= adapter.keys()


@pytest.mark.parametrize("kind", ["peft-deft", "peft-lora", "peft-dora"])
def test_a_layer_twice(tmp_path: Path, kind: str) -> None:
    tensors = dict(VALID[kind][1])
    key = next(iter(tensors))
    tensors[key.removeprefix("base_model.model.")] = tensors[key].clone()
    refused(write(tmp_path, kind, tensors), "twice", X)


def test_a_safetensors_header_that_lies(tmp_path: Path) -> None:
    """Terabytes declared, overlapping tensors, a key twice."""

    def made(header: str, data: bytes = bytes(64)) -> Path:
        path = tmp_path / "lie.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + data)
        return path

    huge = {"x.deft_P": {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]}}
    refused(made(json.dumps(huge)))
    refused(made(json.dumps({"x.delta": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 64]}})))
    both = {name: {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]} for name in ("x.delta", "y.delta")}
    refused(made(json.dumps(both)))
    one = '"x.delta": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}'
    try:
        assert len(files.read(made("{" + one + ", " + one + "}"))) == 1  # the same twice: one tensor, or a refusal
    except ValueError as error:
        assert "lie.safetensors" in str(error)
    path = tmp_path / "lie.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 60) + bytes(64))
    refused(path)


# ------------------------------------------------------------------------------------------------------------- pickles


class Runs:
    """Unpickled the ordinary way, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


class Calls:
    """Unpickled the ordinary way, it calls something harmless by name that takes much memory."""

    def __init__(self, what: Any, *arguments: Any) -> None:
        self.what, self.arguments = what, arguments

    def __reduce__(self) -> tuple:
        return self.what, self.arguments


@pytest.mark.parametrize("kind", PICKLED)
def test_a_pickle_that_would_run_code(tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "ran"
    content = dict(VALID[kind][1]) | {"extra": Runs(marker)}
    path = tmp_path / VALID[kind][0]
    torch.save(content, path)
    refused(path, "system")
    with open(path, "wb") as file:  # and without torch's zip around it
        pickle.dump(content["extra"], file)
    refused(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Runs(marker)))  # noqa: S301 (so that the check above means something)
    assert marker.exists()


@pytest.mark.parametrize(
    "call",
    [Calls(bytearray, 1 << 40), Calls(eval, "1"), Calls(OrderedDict, [("a", 1)]), Calls(torch.empty, 1 << 40)],
    ids=["bytearray", "eval", "OrderedDict", "torch.empty"],
)
def test_calls_in_a_pickle(tmp_path: Path, call: Calls) -> None:
    path = tmp_path / "project_replace.pt"
    torch.save(dict(VALID["deft_sdxl"][1]) | {"extra": call}, path)
    if call.what is OrderedDict:  # torch itself uses it
        assert files.read(path).metadata["method"] == "deft"
    else:
        refused(path, "getattr" if call.what is torch.empty else call.what.__name__)


def test_tensors_that_claim_more_than_they_have(tmp_path: Path) -> None:
    path = tmp_path / "project_replace.pt"
    torch.save({f"{X}.lora_layer.P": torch.ones(1).expand(1 << 20, 1 << 20)}, path)
    refused(path, "more values than the file holds")


def rezip(source: Path, target: Path, compression: int, grow: int = 0) -> None:
    """The same archive with other compression, or with a declared size that is too large."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for entry in old.infolist():
            data = old.read(entry)
            if grow and "/data/" in entry.filename:
                data = bytes(grow)
            new.writestr(entry.filename, data)


def test_archives_that_grow(tmp_path: Path) -> None:
    path = write(tmp_path, "deft_sdxl")
    packed = tmp_path / "packed.pt"
    rezip(path, packed, zipfile.ZIP_DEFLATED, grow=50_000_000)
    assert packed.stat().st_size < 2_000_000
    refused(packed, "compressed archive")
    other = tmp_path / "other.pt"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("hello.txt", "hello")
    refused(other, "not one of torch.save")


def test_old_pickles_sparse_tensors_and_other_contents(tmp_path: Path) -> None:
    path = tmp_path / "project_replace.pt"
    torch.save(VALID["deft_sdxl"][1], path, _use_new_zipfile_serialization=False)
    refused(path, "current torch.save")
    torch.save({f"{X}.lora_layer.P": torch.eye(4).to_sparse()}, path)
    refused(path)
    torch.save([torch.ones(2)], path)
    refused(path, "list")
    torch.save({"epoch": 3}, path)
    refused(path, "holds no tensors")
    torch.save({"state_dict": VALID["deft_sdxl"][1], "epoch": 3}, path)
    assert files.read(path).metadata["method"] == "deft"
    torch.save(VALID["deft_sdxl"][1] | {"epoch": 3}, path)
    assert "epoch skipped" in files.read(path).metadata["note"]
    buffer = io.BytesIO()
    torch.save({f"{X}.lora_layer.P": torch.nn.Parameter(random(8, 2))}, buffer)
    path.write_bytes(buffer.getvalue())
    assert files.read(path).metadata["method"] == "para"


def test_memory_stays_near_the_size_of_the_file(tmp_path: Path) -> None:
    """A process with a limit on its memory reads the hostile files to their refusal."""
    torch.save(dict(VALID["deft_sdxl"][1]) | {"extra": Calls(bytearray, 1 << 34)}, tmp_path / "a.pt")
    torch.save({f"{X}.lora_layer.P": torch.ones(1).expand(1 << 16, 1 << 16)}, tmp_path / "b.pt")
    rezip(write(tmp_path, "deft_sdxl"), tmp_path / "c.pt", zipfile.ZIP_DEFLATED, grow=50_000_000)
    script = (
        "import importlib.util, resource, sys\n"
        f"spec = importlib.util.spec_from_file_location('deft_pack', {str(ROOT / '__init__.py')!r}, "
        f"submodule_search_locations=[{str(ROOT)!r}])\n"
        "module = importlib.util.module_from_spec(spec); sys.modules['deft_pack'] = module\n"
        "spec.loader.exec_module(module)\n"
        "from deft_pack.deft_ops import files\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n    try:\n        files.read(path)\n    except ValueError:\n        continue\n"
        "    raise SystemExit('was read')\n"
        "grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024\n"
        "print(grown)\n"
    )
    command = [sys.executable, "-c", script, *(str(tmp_path / name) for name in ("a.pt", "b.pt", "c.pt"))]
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))  # noqa: E731
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 40  # MiB
