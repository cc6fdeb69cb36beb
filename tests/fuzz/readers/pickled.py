"""Pickled files of tensors, as the repositories and old programs write them: .pt, .bin, .ckpt."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from .. import applying
from ..kit import Files, Reader
from ..structures import JSON
from .adapters import KINDS, layers, sizes, spelled

NAMES = ("a.pt", "a.bin", "project_replace.pt", "x_left_column_learn_Q.pt")


def saved(content: Any) -> bytes:
    """The bytes of torch.save."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def samples() -> list[Files]:
    """A file of each kind that is pickled, and some that only look like one."""
    result = []
    for number, kind in enumerate(
        ("authors", "authors_sdxl", "authors_lora", "para_deft", "deft", "lora", "peft_deft", "svdiff")
    ):
        layer = next(iter(applying.SHAPES))
        tensors = {
            f"{spelled(layer, '{}')}.{part}": torch.full(sizes(form, applying.SHAPES[layer]), 0.1)
            for part, form in KINDS[kind].items()
        }
        result.append({NAMES[number % len(NAMES)]: saved(tensors if number % 2 else {"state_dict": tensors})})
    return result


_ODD = (
    lambda: torch.eye(4).to_sparse(),
    lambda: torch.zeros(1).expand(1000, 1000),
    lambda: torch.empty(3, device="meta"),
    lambda: torch.nn.Parameter(torch.ones(2, 2)),
    lambda: torch.ones(4, 4).t(),
    lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
    lambda: torch.ones(2, dtype=torch.complex64),
    lambda: torch.ones(2, 2).conj(),
    lambda: torch.ones(2, dtype=torch.complex64).conj(),
    lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    lambda: torch.ones(0, 4),
    lambda: torch.Size((3, 4)),
    lambda: torch.float32,
    lambda: torch.device("cpu"),
    lambda: {"a": torch.ones(2)},
    lambda: [torch.ones(2)],
)


@st.composite
def structures(draw: Any) -> Files:
    """Tensors and other things in dictionaries, or a program of pickle instructions."""
    name = draw(st.sampled_from(NAMES))
    if draw(st.sampled_from((True, False, False, False))):
        return {name: draw(programs())}
    content: Any = dict(draw(layers()))
    for _ in range(draw(st.sampled_from((0, 0, 1, 2)))):
        key = draw(st.sampled_from([*content, "x", 1, None, ("a", 2)]))
        content[key] = draw(st.one_of(st.sampled_from(_ODD).map(lambda make: make()), JSON))
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2, 60)))):
        content = {draw(st.sampled_from(("state_dict", "model", "x"))): content}
    if draw(st.sampled_from((False,) * 9 + (True,))):
        content = draw(st.sampled_from(([], (), None, 3, "x", torch.ones(3))))
    try:
        return {name: saved(content)}
    except (RuntimeError, RecursionError, TypeError, pickle.PicklingError):
        return {name: b""}


_STEPS = (
    b"}",
    b"]",
    b")",
    b"(",
    b"e",
    b"u",
    b"s",
    b"a",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
    b"0",
    b"1",
    b"2",
    b"N",
    b"\x88",
    b"R",
    b"b",
    b"K\x05",
    b"J\xff\xff\xff\x7f",
    b"X\x01\x00\x00\x00a",
    b"X\x07\x00\x00\x00storage",
    b"q\x00",
    b"h\x00",
    b"q\x01",
    b"h\x01",
    b"h\x63",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch\nSize\n",
    b"ctorch\ndevice\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"Q",
    b"G?\xf0\x00\x00\x00\x00\x00\x00",
    b"\x8a\x00",
    b"\x8a\x01\xff",
    b"cos\nsystem\n",
    b"\x81",
    b"\x93",
    b"I9\n",
    b"F1e999\n",
    b"Va\n",
    b"X\x01\x00\x00\x000",
    b"X\x03\x00\x00\x00cpu",
)


@st.composite
def programs(draw: Any) -> bytes:
    """A file of torch.save whose table of tensors is a program of its own."""
    program = b"\x80\x02" + b"".join(draw(st.lists(st.sampled_from(_STEPS), max_size=30))) + b"."
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a/data.pkl", program)
        archive.writestr("a/version", b"3\n")
        archive.writestr("a/byteorder", draw(st.sampled_from((b"little", b"big", b"x"))))
        archive.writestr("a/data/0", bytes(40))
    return target.getvalue()


def use(folder: Path) -> None:
    """Read and apply the file."""
    applying.use(next(folder.iterdir()))


READER = Reader("pickled", samples, structures, use, share=3)
