"""Scores of a run's previews: kept in its log, and what says that a training has got worse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .state import finite

PREVIEW, SCORES, MEASURED = "preview", "scores", "measured"  # the keys of a line of the log
Scored = Sequence[tuple[int, Mapping[str, float]]]  # steps with their values by metric, in order


@dataclass(frozen=True)
class Judge:
    """What scores previews; a function, because trainers know no scorers.

    score: pictures [n, h, w, 3] in 0 to 1 -> means by metric, and remarks on them. The first metric is the likeness,
    of which more is better. about: what the values depend on beside the pictures. stop_after: how many previews in a
    row may be worse than the best one before the training stops; 0: any number.
    """

    score: Callable[[Tensor], tuple[dict[str, float], Sequence[str]]]
    about: str
    stop_after: int = 0


def line_of(step: int, values: Mapping[str, float], measured: str) -> dict[str, Any]:
    """The log's line of a scored preview. measured: a mark of how; values of another mark are not comparable."""
    return {PREVIEW: step, SCORES: dict(values), MEASURED: measured}


def whole(line: Mapping[str, Any]) -> bool:
    """Whether a line of the log is a scored preview whose values can be used."""
    step, values = line.get(PREVIEW), line.get(SCORES)
    return (
        isinstance(step, int)
        and not isinstance(step, bool)
        and step >= 0
        and isinstance(values, dict)
        and bool(values)
        and all(finite(value) for value in values.values())
    )


def read(lines: Iterable[Mapping[str, Any]], measured: str) -> dict[int, dict[str, float]]:
    """The values by step out of lines of a log that have this mark. What is damaged is left out."""
    by_step = {
        line[PREVIEW]: {name: float(value) for name, value in line[SCORES].items()}
        for line in lines
        if whole(line) and line.get(MEASURED) == measured
    }
    return dict(sorted(by_step.items()))


def best_and_since(scored: Scored) -> tuple[int, list[float]]:
    """The step of the highest likeness, the earliest of equal ones, and the values that follow the last of these.

    Of steps after 0: the model before the training is no checkpoint. (0, []) where there is none.
    """
    trained = [(step, next(iter(values.values()))) for step, values in scored if step > 0]
    if not trained:
        return 0, []
    best = max(value for _, value in trained)
    places = [place for place, (_, value) in enumerate(trained) if value == best]
    return trained[places[0]][0], [value for _, value in trained[places[-1] + 1 :]]


def summary(scored: Scored) -> list[str]:
    """A line for each metric: first, best and last value with their steps."""
    if not scored:
        return []
    lines = []
    for name in scored[0][1]:
        values = [(step, scores[name]) for step, scores in scored if name in scores]
        best, last = max(values, key=lambda pair: (pair[1], -pair[0])), values[-1]
        parts = [f"{values[0][1]:.3f} at step {values[0][0]}"]
        if len(values) > 1:
            parts += [f"best {best[1]:.3f} at step {best[0]}", f"last {last[1]:.3f} at step {last[0]}"]
        lines.append(f"{name} of the previews: {', '.join(parts)}")
    return lines


def why_stopped(scored: Scored, step: int, steps: int, kept: str) -> str:
    """What a training that got worse says. kept: the best step's file; empty where it is not kept."""
    best, since = best_and_since(scored)
    name = next(iter(scored[-1][1]))
    value = dict(scored)[best][name]
    then = ", ".join(f"{one:.3f}" for one in since)
    file = f"its adapter is {kept}" if kept else "its adapter is not kept: set checkpoint_every in Training Settings"
    return (
        f"stopped at step {step} of {steps}: {name} was best at step {best} ({value:.3f}) and worse in the "
        f"{len(since)} preview{'s' * (len(since) > 1)} since ({then}); {file}"
    )


class PreviewScores:
    """The scores of a run's previews so far. measured: a mark of how they are made."""

    def __init__(self, judge: Judge, measured: str) -> None:
        self.judge, self.measured = judge, measured
        self.values: dict[int, dict[str, float]] = {}
        self.remarks: list[str] = []

    def go_on(self, lines: Sequence[Mapping[str, Any]], step: int) -> None:
        """Take over the scores of an earlier session up to a step, by the lines of its log."""
        self.values = {at: values for at, values in read(lines, self.measured).items() if at <= step}
        steps = {line[PREVIEW] for line in lines if whole(line) and line[PREVIEW] <= step}
        if others := steps - set(self.values):
            self.remarks.append(
                f"the scores of the previews up to step {max(others)} were made of another scorer, photos, text or "
                "previews, and are not compared"
            )

    def add(self, step: int, pictures: Tensor) -> dict[str, Any] | None:
        """Score the previews of a step; its line for the log. None, with a remark, where they cannot be scored."""
        try:
            values, remarks = self.judge.score(pictures)
        except ValueError as error:  # such as a picture that is not finite: the training may be good all the same
            values, remarks = {}, [f"WARNING: the previews of step {step} were not scored: {error}"]
        self.remarks += [remark for remark in remarks if remark not in self.remarks]
        if not values:
            return None
        self.values[step] = values
        return line_of(step, values, self.measured)

    @property
    def scored(self) -> list[tuple[int, dict[str, float]]]:
        """All of them, in the order of the steps."""
        return sorted(self.values.items())

    @property
    def best(self) -> int:
        """The step of the highest likeness; 0 where there is none."""
        return best_and_since(self.scored)[0]

    @property
    def over(self) -> bool:
        """Whether the training has got worse for long enough to stop."""
        return 0 < self.judge.stop_after <= len(best_and_since(self.scored)[1])
