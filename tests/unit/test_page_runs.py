"""What the page knows of a run (web/deft/data.mjs), where the server's messages and answers cross each other."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import deft_pack

MODULE = Path(__file__).resolve().parents[2] / deft_pack.WEB_DIRECTORY / "deft" / "data.mjs"
# ComfyUI's own part of the page: answers wait until they are given.
API = """
export const asked = []
const listeners = new Map()
export const api = {
  apiURL: (path) => `/api${path}`,
  fetchApi: (path) => new Promise((resolve) => asked.push({
    path, give: (answer) => resolve({ ok: answer !== null, json: async () => answer })
  })),
  addEventListener: (name, listener) => listeners.set(name, listener)
}
export const send = (name, detail) => listeners.get(name)?.({ detail })
"""
HELP = """
import { asked, send } from './scripts/api.js'
import { loadRun, onRun, previewAddress, runOf, scoreText, watchRuns } from './extensions/pack/deft/data.mjs'
watchRuns()
const run = runOf('a')
const message = (first, last, previews = null, prompt = 'job', scores = null) => send('deft.training', {
  run: 'a', node: '20', prompt_id: prompt, steps: 300, seconds: 1, left: 1, previews, scores,
  points: Array.from({ length: last - first + 1 }, (_, place) => [first + place, 1])
})
const answer = (last, previews, state = 'running', scores = undefined) => ({
  state, steps: 300, previews, preview_scores: scores,
  curve: { step: Array.from({ length: last }, (_, place) => place + 1), loss: Array.from({ length: last }, () => 1) }
})
const quiet = () => new Promise((resolve) => setTimeout(resolve))
const give = async (place, ...values) => { asked[place].give(answer(...values)); await quiet() }
"""


@pytest.fixture
def page(tmp_path: Path) -> Any:
    """Runs steps in Node.js, in a page's folder with a stand-in for ComfyUI's api.js; what they give."""
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    for name, text in {
        "scripts/api.js": API,
        "extensions/pack/deft/data.mjs": MODULE.read_text(encoding="utf-8"),
        "package.json": '{"type": "module"}',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")

    def run(steps: str) -> Any:
        (tmp_path / "steps.js").write_text(HELP + steps, encoding="utf-8")
        done = subprocess.run(["node", "steps.js"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_the_first_message_has_the_preview_of_before_the_first_step(page: Any) -> None:
    """The preview is then the first one at the node from the beginning, and none comes before it later."""
    seen = page("""
      const seen = []
      onRun((run) => seen.push([...run.previews]))
      message(1, 1, [0])
      message(2, 50, [0, 50])
      message(51, 60)
      console.log(JSON.stringify({ seen, asked: asked.length }))""")
    assert seen == {"seen": [[0], [0, 50], [0, 50]], "asked": 0}


def test_an_answer_from_before_a_message_takes_no_preview_away(page: Any) -> None:
    seen = page("""
      message(80, 90) // a page that was opened in between
      message(91, 100, [0, 50, 100])
      await give(0, 95, [0, 50])
      console.log(JSON.stringify({ asked: asked.length, previews: run.previews, steps: run.step.length }))""")
    assert seen == {"asked": 1, "previews": [0, 50, 100], "steps": 100}


def test_what_has_ended_while_an_answer_is_under_way_is_read_again(page: Any) -> None:
    seen = page("""
      message(80, 90)
      send('execution_interrupted', { prompt_id: 'job' })
      await give(0, 95, [0, 50])
      const before = [run.state, run.previews, asked.length]
      await give(1, 100, [0, 50, 100], 'stopped')
      console.log(JSON.stringify([before, [run.state, run.previews, run.step.length, asked.length]]))""")
    assert seen == [["running", [0, 50], 2], ["stopped", [0, 50, 100], 100, 2]]


def test_a_run_is_read_at_its_end_whatever_was_last_known_of_it(page: Any) -> None:
    """An answer from before a run goes on says that it is stopped."""
    seen = page("""
      message(80, 90)
      await give(0, 79, [0, 50], 'stopped')
      send('execution_interrupted', { prompt_id: 'another' })
      send('execution_interrupted', { prompt_id: 'job' })
      await give(1, 100, [0, 50, 100], 'stopped')
      console.log(JSON.stringify([run.previews, asked.length]))""")
    assert seen == [[0, 50, 100], 2]


def test_scores_come_with_their_previews(page: Any) -> None:
    """The scores come by message and from the run's folder; an answer from before a message takes none away."""
    seen = page("""
      const scores = [[0, { DINO: 0.25, 'CLIP-T': 0.5 }], [50, { DINO: 0.75, 'CLIP-T': null }]]
      message(1, 50, [0, 50], 'job', scores)
      const first = [run.scores.length, scoreText(run, 0), scoreText(run, 50), scoreText(run, 20)]
      message(51, 60)
      const kept = run.scores.length
      message(80, 90)
      message(91, 100, [0, 50, 100], 'job', [...scores, [100, { DINO: 0.5 }]])
      await give(0, 95, [0, 50], 'running', scores)
      const after = run.scores.length
      loadRun('a')
      await give(1, 100, [0, 50, 100], 'finished', scores.slice(0, 1))
      console.log(JSON.stringify([first, kept, after, run.scores.length]))""")
    assert seen == [[2, "DINO 0.250, CLIP-T 0.500", "DINO 0.750", ""], 2, 3, 1]


def test_pictures_of_another_job_have_another_address(page: Any) -> None:
    """A run that is started anew has the same id and steps, and the page would show the pictures that it has."""
    seen = page("""
      const addresses = [previewAddress(run, 50)]
      for (const job of ['one', 'two']) {
        message(1, 1, [0], job)
        addresses.push(previewAddress(run, 50))
      }
      console.log(JSON.stringify(addresses))""")
    path = "/api/deft/v1/runs/a/previews/50"
    assert seen == [path, f"{path}?one", f"{path}?two"]
