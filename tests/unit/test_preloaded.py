"""tests/preloaded.py: a fork is what the interpreter would be, and where there can be none the interpreter is."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .. import preloaded
from ..scripts import load_script

MODULE = """
import atexit, os, sys, threading, time
atexit.register(print, "at exit")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
print(sys.argv[1:], os.environ["WORD"], os.getcwd(), "deft_test_library" in sys.modules)
sys.exit(3)
"""


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Only one library is loaded, of a folder with a module that is run."""
    monkeypatch.setattr(load_script("forked_server"), "LIBRARIES", ("deft_test_library",))
    monkeypatch.setattr(preloaded, "AT_FIRST_USE", ())
    (tmp_path / "deft_test_library.py").write_text("")
    (tmp_path / "asked.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def asked(python: Path, folder: Path) -> tuple[int, str]:
    done = subprocess.run([python, "-m", "asked", "a b"], cwd=folder, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout


@pytest.mark.skipif(not hasattr(preloaded.os, "pidfd_open"), reason="there are no forks")
def test_a_fork_does_what_the_interpreter_does(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORD", "first")
    with tempfile.TemporaryDirectory() as folder, preloaded.Preloaded(Path(folder)) as program:
        assert program.python != Path(program.interpreter)
        monkeypatch.setenv("WORD", "second")
        assert asked(program.python, libraries) == (3, f"['a b'] second {libraries} True\nthread\nat exit\n")
        monkeypatch.setenv("PYTHONHASHSEED", "1")  # is read when an interpreter starts
        assert asked(program.python, libraries) == (3, f"['a b'] second {libraries} False\nthread\nat exit\n")


def test_without_forks_it_is_the_interpreter(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's name may have some hundred characters."""
    monkeypatch.setenv("WORD", "word")
    folder = libraries / ("long" * 40)
    folder.mkdir()
    with preloaded.Preloaded(folder) as program:
        assert str(program.python) == program.interpreter == preloaded.own_interpreter() == sys.executable
        assert asked(program.python, libraries) == (3, f"['a b'] word {libraries} False\nthread\nat exit\n")
