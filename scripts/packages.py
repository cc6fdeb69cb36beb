"""Run the tests that touch the pack's packages with their oldest and newest versions, and unit tests in other Pythons:

    make packages, or packages.py [floors] [newest] [python3.10 python3.11 ...]

floors and newest: a copy of the tests' environment in hard links, with the lower bounds of requirements.txt, or with
the newest releases, of the packages that it names. A Python: all unit tests, in an environment of its own like that of
the tests (some 5 GB and minutes each, once; in the same cache folder). A line for each; exit status 1 when one fails.
Without a name: floors, newest (unless the tests' environment has the newest already), and each Python from 3.10 to 3.13
that is on the path or pyenv's. Not part of `make test`: it downloads.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from environment import ROOT, cache_dir, comfyui_dir, copy_linked, environment_python

_PYTHONS = ("python3.10", "python3.11", "python3.12", "python3.13")
TOUCHING = (
    "tests/unit/test_scorer.py",
    "tests/unit/test_scoring_exactness.py",
    "tests/unit/test_scoring_packages.py",
    "tests/unit/test_scoring_backbones.py",
    "tests/unit/test_scatter.py",
    "tests/unit/test_files_peft_records.py",
    "tests/unit/test_files_peft_tuners.py",
    "tests/unit/test_lora_start.py",
    "tests/comfy/test_peft_records.py",
    "tests/comfy/test_peft_tuners.py",
    "tests/comfy/test_scoring_nodes.py",
)


def bounds() -> dict[str, str]:
    """Packages of requirements.txt with their lower bounds."""
    lines = (ROOT / "requirements.txt").read_text().split()
    return dict(line.split(">=") for line in lines if ">=" in line)


def call(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the pack's folder, with its output kept."""
    return subprocess.run(command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True)


def versions(python: Path, names: list[str]) -> str:
    """The installed versions of packages."""
    source = "import sys, importlib.metadata as m; print(*[f'{n} {m.version(n)}' for n in sys.argv[1:]], sep=', ')"
    done = call(str(python), "-c", source, *names)
    return done.stdout.strip() or done.stderr[-300:]


def tested(name: str, python: Path, about: str, files: list[str]) -> bool:
    """Run tests and print a line; returns whether all have passed."""
    started = time.monotonic()
    inside = {"DEFT_TEST": "everyday", "DEFT_TEST_COMFYUI": str(comfyui_dir())}
    variables = {"DEFT_TEST": "all"} if "unit" in name else inside
    done = call(str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, **variables)
    last = done.stdout.strip().splitlines()[-1:] or [done.stderr[-300:]]
    print(f"[packages] {name} ({about}): {last[0].strip('= ')}; {time.monotonic() - started:.0f} s", flush=True)
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
        print("\n".join(dict.fromkeys(lines))[:4000], flush=True)  # each once: one fault fails many tests
    return done.returncode == 0


def with_packages(name: str) -> bool:
    """The tests with the oldest or the newest packages."""
    floors = bounds()
    with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
        copy = Path(folder) / "made"
        copy_linked(environment_python().parent.parent, copy)
        python = copy / "bin" / "python"
        # A bound is a release: one that has been taken back cannot be tried, and pip's error message says so.
        requirements = (
            [f"{package}=={floor}" for package, floor in floors.items()] if name == "floors" else list(floors)
        )
        done = call(str(python), "-m", "pip", "install", "-qq", "--no-deps", "--upgrade", *requirements)
        if done.returncode:
            print(f"[packages] {name}: pip cannot install {', '.join(requirements)}: {done.stderr[-600:]}", flush=True)
            return False
        about = versions(python, list(floors))
        if name == "newest" and about == versions(environment_python(), list(floors)):
            print(f"[packages] {name} ({about}): the tests' environment has them, see make test", flush=True)
            return True
        return tested(name, python, about, list(TOUCHING))


def interpreter(name: str) -> str | None:
    """A Python of this name: on the path, or one of pyenv's, which has all on the path but runs those chosen only."""
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    places = [shutil.which(name), *sorted(map(str, versions.glob(f"*/bin/{name}")))]
    return next((place for place in places if place and not call(place, "--version").returncode), None)


def with_python(name: str) -> bool:
    """The unit tests in another Python."""
    plain = interpreter(name)
    if not plain:
        print(f"[packages] {name}: not run, there is no {name} on this machine", flush=True)
        return True
    made = call(plain, str(ROOT / "scripts" / "environment.py"), "python", COMFYUI_DIR=str(comfyui_dir()))
    if made.returncode:
        print(f"[packages] {name}: its environment cannot be made: {made.stderr[-600:]}", flush=True)
        return False
    python = Path(made.stdout.strip())
    version = call(str(python), "-c", "import platform; print(platform.python_version())").stdout.strip()
    return tested(f"unit {name}", python, version, ["tests/unit"])


def main() -> None:
    """Command line."""
    names = sys.argv[1:] or ["floors", "newest", *_PYTHONS]
    if unknown := [name for name in names if name not in ("floors", "newest") and not name.startswith("python")]:
        sys.exit(f"unknown: {' '.join(unknown)}\n{__doc__}")
    passed = [with_python(name) if name.startswith("python") else with_packages(name) for name in names]
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
