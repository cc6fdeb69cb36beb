"""A real ComfyUI in this process: its loader, validator and executor, with the pack as a custom node.

DEFT_TEST_COMFYUI names the ComfyUI folder; without it scripts/environment.py says where one is. DEFT_TEST_DEVICE says
where it computes: cpu (default), cuda (with dynamic VRAM, as ComfyUI has it) or cuda-static (without). ComfyUI has to
be first on sys.path and to know its base folder before any of its modules is imported, so that happens when this file
is read.

The pack is loaded by ComfyUI's own loader from a folder with an awkward name, so its modules are not those of
`deft_pack`. Tests here reach them with `comfyui.module("patches.keys")`.
"""

from __future__ import annotations

import asyncio
import atexit
import copy
import gc
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import types
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER_NAME = "deft nodes-1.0"  # a space, a hyphen, a dot: no code may count on the folder's name
BASE = Path(tempfile.mkdtemp(prefix="deft-comfy-"))
WRITTEN = ("input", "models", "output", "temp", "user")  # the folders of BASE that nodes and tests write into
DEVICE = os.environ.get("DEFT_TEST_DEVICE") or "cpu"
atexit.register(shutil.rmtree, BASE, ignore_errors=True)


def comfyui_folder() -> Path:
    """The ComfyUI under test."""
    named = os.environ.get("DEFT_TEST_COMFYUI")
    if named:
        return Path(named)
    command = [sys.executable, str(ROOT / "scripts" / "environment.py"), "comfyui"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def prepare() -> Path:
    """Put ComfyUI first on sys.path, set its arguments as its command line would, and link the pack."""
    folder = comfyui_folder()
    sys.path.insert(0, str(folder))
    from comfy.cli_args import args

    args.cpu = DEVICE == "cpu"
    # What is compared with references is computed as exactly as on the CPU.
    args.force_fp32 = args.fp32_vae = args.fp32_text_enc = DEVICE != "cpu"
    args.disable_dynamic_vram = DEVICE == "cuda-static"
    if DEVICE == "cuda":
        import comfy_aimdo.control

        comfy_aimdo.control.init()  # before PyTorch is imported, as in ComfyUI's main.py
    args.base_directory = str(BASE)
    args.disable_api_nodes = True
    args.disable_auto_launch = True
    custom_nodes = BASE / "custom_nodes"
    custom_nodes.mkdir()
    (custom_nodes / FOLDER_NAME).symlink_to(ROOT, target_is_directory=True)
    import utils.extra_config  # noqa: F401  (before nodes: comfy/utils.py would take its name)

    if DEVICE != "cpu":
        prepare_cuda()
    for name in WRITTEN:
        (BASE / name).mkdir(exist_ok=True)
    for name in ("loras", "embeddings", "checkpoints", "vae", "text_encoders", "diffusion_models"):
        (BASE / "models" / name).mkdir(parents=True, exist_ok=True)
    return folder


def prepare_cuda() -> None:
    """Exact products, and dynamic VRAM as ComfyUI's main.py turns it on."""
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if DEVICE == "cuda":
        import comfy.memory_management
        import comfy.model_patcher
        import comfy_aimdo.control
        from comfy.cli_args import args

        assert comfy_aimdo.control.init_devices([(0, int(args.vram_headroom * 1024**3))]), "no dynamic VRAM here"
        comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
        comfy.memory_management.aimdo_enabled = True


COMFYUI = prepare()

from .pack import Pack  # noqa: E402  (PyTorch is imported after the preparation)


class PromptFailed(AssertionError):
    """A prompt did not validate, or a node raised.

    stage is "validation" or "execution"; node_id and node_type name the node; kind is the exception's type (execution)
    or ComfyUI's error type (validation); message is what a person would read at the node.
    """

    def __init__(self, stage: str, node_id: str, node_type: str, kind: str, message: str, traceback: str = "") -> None:
        super().__init__(f"{stage} of {node_type} {node_id}: {kind}: {message}\n{traceback}")
        self.stage, self.node_id, self.node_type, self.kind, self.message = stage, node_id, node_type, kind, message


@dataclass
class PromptRun:
    """What a prompt gave: outputs by wanted node, UI results by node, the server's messages."""

    outputs: dict[str, list[Any]]
    ui: dict[str, dict[str, list[Any]]]
    messages: list[tuple[Any, Any]] = field(default_factory=list)

    def output(self, node_id: str, slot: int = 0) -> Any:
        """One output of a wanted node; a list where the node gave a list."""
        values = self.outputs[node_id][slot]
        return values[0] if len(values) == 1 else values

    def text(self, node_id: str) -> str:
        """The text that a node showed."""
        return "\n".join(self.ui[node_id]["text"])

    def files(self, node_id: str) -> list[str]:
        """The files of the output folder that a node says it has written, as paths in it."""
        listed = self.ui[node_id].get("files", [])
        assert all(item["type"] == "output" and set(item) == {"filename", "subfolder", "type"} for item in listed)
        return [f"{item['subfolder']}/{item['filename']}" if item["subfolder"] else item["filename"] for item in listed]


class ComfyUI:
    """ComfyUI in this process. One object a test session; `reset()` between tests."""

    def __init__(self) -> None:
        import execution
        import nodes
        import server

        self.folder = COMFYUI
        self.base = BASE
        self.nodes = nodes
        self.execution = execution
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.server = server.PromptServer(self.loop)
        failed = self.loop.run_until_complete(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
        assert not failed, f"ComfyUI's own nodes did not import: {failed}"
        core = set(nodes.NODE_CLASS_MAPPINGS)
        modules = set(sys.modules)
        self.pack_path = BASE / "custom_nodes" / FOLDER_NAME
        loaded = self.loop.run_until_complete(nodes.load_custom_node(str(self.pack_path)))
        assert loaded, "ComfyUI did not load the pack"
        self.pack_nodes = {name: node for name, node in nodes.NODE_CLASS_MAPPINGS.items() if name not in core}
        self.modules_of_loading = set(sys.modules) - modules
        self._hook_progress()
        self._frozen = 0
        self.reset()

    @property
    def version(self) -> str:
        """ComfyUI's version, as "0.30.0"."""
        import comfyui_version

        return comfyui_version.__version__

    def module(self, name: str) -> types.ModuleType:
        """A module of the pack as ComfyUI loaded it: module("patches") or module("deft_ops.files")."""
        return importlib.import_module(f"{str(self.pack_path).replace('.', '_x_')}.{name}")

    def reset(self) -> None:
        """Forget cached results and loaded models. What modules have made stays, and is not looked through again."""
        import comfy.model_management

        comfy.model_management.unload_all_models()
        cache_args = {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
        self.executor = self.execution.PromptExecutor(
            self.server, cache_type=self.execution.CacheType.CLASSIC, cache_args=cache_args
        )
        gc.collect()
        if len(sys.modules) >= self._frozen + 100:
            gc.freeze()  # not each time: cycles that are still in use now would stay after their use
            self._frozen = len(sys.modules)

    def run(self, prompt: dict[str, Any], want: tuple[str, ...] | list[str] = ()) -> PromptRun:
        """Validate and execute an API-format prompt; raise PromptFailed at the first error.

        Nodes in `want` are executed and their outputs kept, though they are no output nodes: ComfyUI's own
        Preview as Text node is added behind the first output of each.
        """
        prompt = copy.deepcopy(prompt)
        for node_id in want:
            prompt[f"want {node_id}"] = {"class_type": "PreviewAny", "inputs": {"source": [node_id, 0]}}
        prompt_id = str(uuid.uuid4())
        valid, error, good, node_errors = self.loop.run_until_complete(
            self.execution.validate_prompt(prompt_id, prompt, None)
        )
        for node_id, node_error in node_errors.items():
            first = node_error["errors"][0]
            text = f"{first['message']}: {first['details']}"
            raise PromptFailed("validation", node_id, node_error["class_type"], first["type"], text)
        if not valid:
            info = error.get("extra_info", {})
            where = (info.get("node_id", ""), info.get("class_type", ""))
            raise PromptFailed("validation", *where, error["type"], f"{error['message']}: {error['details']}")
        self.server.last_prompt_id = prompt_id
        self.executor.execute(prompt, prompt_id, {"client_id": "tests"}, good)
        messages = self._messages()
        for event, data in self.executor.status_messages:
            if event == "execution_error":
                raise PromptFailed(
                    "execution",
                    data["node_id"],
                    data["node_type"],
                    data["exception_type"],
                    data["exception_message"].strip(),
                    "".join(data["traceback"]),
                )
            if event == "execution_interrupted":
                raise PromptFailed("execution", data["node_id"], data["node_type"], "interrupted", "interrupted")
        assert self.executor.success
        outputs = {node_id: self._cached(node_id).outputs for node_id in want}
        return PromptRun(outputs, dict(self.executor.history_result["outputs"]), messages)

    def fail(self, prompt: dict[str, Any], want: tuple[str, ...] | list[str] = ()) -> PromptFailed:
        """Run a prompt that has to fail, and return how it did."""
        with pytest.raises(PromptFailed) as caught:
            self.run(prompt, want)
        return caught.value

    def _cached(self, node_id: str) -> Any:
        return self.loop.run_until_complete(self.executor.caches.outputs.get(node_id))

    def _messages(self) -> list[tuple[Any, Any]]:
        """What the server would have sent to the browser since the last call: (event, data)."""
        self.loop.run_until_complete(asyncio.sleep(0))
        messages = []
        while not self.server.messages.empty():
            event, data, _ = self.server.messages.get_nowait()
            messages.append((event, data))
        return messages

    def _hook_progress(self) -> None:
        """Let progress bars report as in ComfyUI's main.py, whose hook cannot be had without starting a server."""
        import comfy.model_management
        import comfy.utils
        from comfy_execution.progress import get_progress_state
        from comfy_execution.utils import get_executing_context

        def hook(
            value: float, total: float, preview: Any, prompt_id: str | None = None, node_id: str | None = None
        ) -> None:
            context = get_executing_context()
            node_id = node_id or (context.node_id if context else self.server.last_node_id)
            comfy.model_management.throw_exception_if_processing_interrupted()
            get_progress_state().update_progress(node_id, value, total, preview)
            self.server.send_sync("progress", {"value": value, "max": total, "node": node_id}, self.server.client_id)

        comfy.utils.set_progress_bar_global_hook(hook)


@pytest.fixture(scope="module", autouse=True)
def as_it_was() -> Iterator[None]:
    """Remove what this module's tests and fixtures have written into ComfyUI's folders before the next one starts, and
    unload its models."""
    before = set(written())
    yield
    for path in sorted(set(written()) - before, reverse=True):  # what is in a folder before the folder
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    if "comfy.model_management" in sys.modules:
        sys.modules["comfy.model_management"].unload_all_models()


def written() -> list[Path]:
    """All files and folders in ComfyUI's folders, without the kinds of models: ComfyUI keeps what it has listed there,
    and fails when such a folder is gone."""
    paths = [path for name in WRITTEN for path in (BASE / name).rglob("*")]
    return [path for path in paths if path.parent != BASE / "models"]


@pytest.fixture(scope="session")
def comfyui_session() -> Iterator[ComfyUI]:
    """ComfyUI, started once."""
    yield ComfyUI()
    gc.unfreeze()


@pytest.fixture
def comfyui(comfyui_session: ComfyUI) -> ComfyUI:
    """ComfyUI without results or models of an earlier test."""
    comfyui_session.reset()
    return comfyui_session


@pytest.fixture(scope="session")
def pack(comfyui_session: ComfyUI) -> Pack:
    """The pack's modules as ComfyUI loaded them, imported when they are asked for."""
    return Pack(comfyui_session)


@pytest.fixture
def loras(comfyui: ComfyUI) -> Path:
    """ComfyUI's models/loras."""
    return comfyui.base / "models" / "loras"


@pytest.fixture
def embeddings(comfyui: ComfyUI) -> Iterator[Path]:
    """ComfyUI's models/embeddings, emptied afterwards."""
    folder = comfyui.base / "models" / "embeddings"
    yield folder
    for file in folder.glob("deft-*"):
        file.unlink()


@pytest.fixture
def run(comfyui_session: ComfyUI) -> Iterator[Any]:
    """A node as ComfyUI calls it; the files in models/loras/saved are removed later."""
    yield lambda name, *args, **options: comfyui_session.pack_nodes[name].execute(*args, **options).result
    folder = comfyui_session.base / "models" / "loras" / "saved"
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.fixture(scope="session")
def architecture_pairs(pack: Pack) -> Any:
    """diffusers' and ComfyUI's model of an architecture with the same weights, by its name, made once."""
    from .test_architectures import pair_of

    return cache(lambda name: pair_of(name, pack.names))


@pytest.fixture(scope="session")
def text_pairs(pack: Pack) -> Any:
    """transformers' model and ComfyUI's CLIP with its weights, by the entry's name, made once."""
    from .test_architectures import text_pair_of

    return cache(lambda name: text_pair_of(name, pack.names.clip_names))
