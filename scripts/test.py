"""Run all tests, or the named parts of them: style types unit comfy-0.30.0-a comfy-0.30.0-b comfy-0.24.0 server sweeps
install.

Three parts run at a time, each in processes of its own: that of the server waits a quarter of its time. Every part's
whole output goes to a log file; what is printed is a line a part, the end of the log of a part that failed, and the
totals.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = Path(os.environ.get("DEFT_TEST_LOGS") or tempfile.mkdtemp(prefix="deft-test-logs-"))
TYPED = (
    "deft_ops",
    "models",
    "matching",
    "patches",
    "convert",
    "trainers",
    "nodes",
    "scoring",
    "reports",
    "sweeps",
    "benchmarks",
    "workflow_sources",
)
# Some forty ComfyUI servers are started: without bytecode each would compile all of ComfyUI and the pack again.
COMMON = {
    "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2)),
    "DEFT_TEST_LOGS": str(LOGS),
    "PYTHONDONTWRITEBYTECODE": "",
}


@dataclass
class Result:
    """The counts of one part, and its log."""

    part: str
    passed: int
    failed: int
    skipped: list[str]
    seconds: float
    log: Path


def environment(*what: str) -> str:
    """The output of scripts/environment.py for these arguments."""
    command = [sys.executable, str(ROOT / "scripts" / "environment.py"), *what]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def call(part: str, command: list[str], folder: Path, variables: dict[str, str]) -> tuple[int, Path]:
    """Run a command with its output in the part's log; its exit status and the log."""
    log = LOGS / f"{part}.log"
    with open(log, "w") as out:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | COMMON | variables,
        )
    return done.returncode, log


def check(part: str, command: list[str], folder: Path = ROOT) -> Result:
    """A command that passes or fails as a whole."""
    started = time.monotonic()
    status, log = call(part, command, folder, {})
    return Result(part, int(status == 0), int(status != 0), [], time.monotonic() - started, log)


def pytest(part: str, places: str | list[str], variables: dict[str, str] | None = None, *options: str) -> Result:
    """Run the tests of a folder or of files in a process of their own and count them by pytest's own report."""
    started = time.monotonic()
    report = LOGS / f"{part}.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rfEs",
        "--durations=10",
        f"--junitxml={report}",
        *options,
        *([places] if isinstance(places, str) else places),
    ]
    status, log = call(part, command, ROOT, variables or {})
    passed = failed = 0
    skipped = []
    if report.is_file():
        for case in ElementTree.parse(report).iter("testcase"):
            outcome = {child.tag for child in case}
            if outcome & {"failure", "error"}:
                failed += 1
            elif "skipped" in outcome:
                skipped.append(next(child.get("message", "") for child in case if child.tag == "skipped"))
            else:
                passed += 1
    if status and not failed:  # pytest itself failed, or there was no test
        failed = 1
    return Result(part, passed, failed, skipped, time.monotonic() - started, log)


def style(part: str) -> Result:
    """Run Ruff over everything: its rules, and its format."""
    ruff = f"{sys.executable} -m ruff"
    return check(part, ["sh", "-c", f"{ruff} check --no-cache . && {ruff} format --no-cache --check ."])


def types(part: str) -> Result:
    """Run mypy over the pack, under a name that Python takes, whatever the checkout's folder is called."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "deft_pack").symlink_to(ROOT, target_is_directory=True)
        packages = [f"-pdeft_pack.{name}" for name in TYPED if (ROOT / name).is_dir()]
        command = [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            str(ROOT / "pyproject.toml"),
            "--cache-dir",
            os.devnull,
            *packages,
        ]
        return check(part, command, Path(folder))


def unit(part: str) -> Result:
    """Run the tests without ComfyUI."""
    return pytest(part, "tests/unit")


def dealt(folder: str, number: int, of: int) -> list[str]:
    """The test files of a folder, dealt out in turns: those of one part."""
    files = sorted((ROOT / "tests" / folder).glob("test_*.py"))
    return [path.relative_to(ROOT).as_posix() for path in files[number::of]]


def comfy(part: str) -> Result:
    """Run the tests inside ComfyUI, of the version in the part's name; its letter names a half of them."""
    version, _, half = part.removeprefix("comfy-").partition("-")
    variables = {"DEFT_TEST_COMFYUI": environment("comfyui", version)}
    if half:
        return pytest(part, dealt("comfy", "ab".index(half), 2), variables)
    variables["PYTHONPATH"] = environment("pins", version)
    # The tests of the documents, and those that no version of ComfyUI has a part in, are run once.
    once = [f"--ignore=tests/comfy/test_{name}.py" for name in ("docs_adding", "devices", "score_table")]
    # Its twin, table 2, shows it there.
    once += ["--deselect=tests/comfy/test_tables.py::test_the_examples_run[deft_table1]"]
    return pytest(part, "tests/comfy", variables, *once)


def server(part: str) -> Result:
    """Run the tests over a real server, with comfy-cli and with a browser; those of sweeps are a part of their own."""
    oldest = {"DEFT_OLD_COMFYUI": environment("comfyui", "0.24.0"), "DEFT_OLD_PINS": environment("pins", "0.24.0")}
    files = sorted((ROOT / "tests" / "server").glob("test_*.py"))
    chosen = [path for path in files if path.name.startswith("test_sweep") == (part == "sweeps")]
    places = [path.relative_to(ROOT).as_posix() for path in chosen]
    return pytest(part, places, {"COMFYUI_DIR": environment("comfyui"), **oldest})


def install(part: str) -> Result:
    """The pack installed by ComfyUI Manager into environments of their own, and the archive for the registry."""
    return pytest(part, "tests/install")


AT_A_TIME = 3
# The longest first.
PARTS = {
    "server": server,
    "comfy-0.30.0-a": comfy,
    "comfy-0.30.0-b": comfy,
    "sweeps": server,
    "comfy-0.24.0": comfy,
    "install": install,
    "unit": unit,
    "types": types,
    "style": style,
}


def main() -> None:
    """Run the parts and print the totals; exit status 1 when anything failed."""
    names = sys.argv[1:] or list(PARTS)
    unknown = set(names) - set(PARTS)
    if unknown:
        sys.exit(f"unknown part {', '.join(unknown)}; there are: {' '.join(PARTS)}")
    LOGS.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    print(f"[test] running {' '.join(names)}, {AT_A_TIME} at a time; logs in {LOGS}", flush=True)
    results = []
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for done in as_completed([pool.submit(PARTS[name], name) for name in names]):
            result = done.result()
            results.append(result)
            counts = f"{result.passed} passed, {result.failed} failed, {len(result.skipped)} skipped"
            print(f"[test] {result.part}: {counts} in {result.seconds:.0f} s", flush=True)
            for reason in sorted(set(result.skipped)):
                print(f"[test] {result.part}: left out: {reason}", flush=True)
            if result.failed:
                print("\n".join(result.log.read_text(errors="replace").splitlines()[-60:]), flush=True)
    passed, failed = sum(r.passed for r in results), sum(r.failed for r in results)
    skipped = sum(len(r.skipped) for r in results)
    print(f"[test] {skipped} skipped; {time.monotonic() - started:.0f} s; logs in {LOGS}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
