"""Which cell is next: groups, trainings before what needs them, and what other runners or failures take away."""

from __future__ import annotations

from collections.abc import Callable

from deft_pack.sweeps.planned import Cells, PlannedCell, PlannedTraining
from deft_pack.sweeps.schedule import Planned, Schedule, Taken


def plan(*groups: tuple[str, int], models: bytes = b"") -> Cells:
    """Cells of each training ("" for none), that many, in this order; a training "b<a" builds on "a"."""
    cells = Cells()
    for name, count in groups:
        key, _, base = name.partition("<")
        if key:
            cells.trainings[key] = PlannedTraining(key, (), "1", (base,) if base else (), ())
        needs = tuple(filter(None, (base, key)))
        cells.pictures += [PlannedCell(f"{key}{number}", (), needs, models) for number in range(count)]
    return cells


def ours(cell: Planned) -> Taken:
    return "ours"


def drain(schedule: Schedule, worker: str = "w", take: Callable[[Planned], Taken] = ours) -> list[str]:
    """What a single worker runs, in order, when everything goes well."""
    order = []
    while cell := schedule.next(worker, set(), take):
        order.append(cell.key)
        schedule.finished(cell.key)
    return order


def test_one_worker_goes_group_by_group() -> None:
    assert drain(Schedule(plan(("", 2), ("a", 2), ("b", 1)), set())) == ["0", "1", "a", "a0", "a1", "b", "b0"]


def test_what_is_done_is_not_there_and_needs_no_training() -> None:
    assert drain(Schedule(plan(("a", 2), ("b", 2)), {"a0", "a1", "b", "b1"})) == ["b0"]
    assert Schedule(plan(("a", 1)), {"a", "a0"}).left == 0
    on_top = Schedule(plan(("a", 1), ("b<a", 1)), {"a", "a0"})
    assert [cell.key for cell in on_top.trainings] == ["b"]
    assert drain(on_top) == ["b", "b0"]


def test_a_training_on_another() -> None:
    schedule = Schedule(plan(("b<a", 1), ("a", 1)), set())
    assert [cell.key for cell in schedule.trainings] == ["a", "b"]
    first = schedule.next("w", set(), ours)
    assert first is not None
    assert first.key == "a"
    assert schedule.next("x", set(), ours) is None  # b waits for a
    schedule.finished("a")
    assert drain(schedule) == ["a0", "b", "b0"]


def test_two_workers_keep_to_their_groups_and_help_at_the_end() -> None:
    schedule = Schedule(plan(("a", 4), ("b", 1)), {"a", "b"})
    one, two = schedule.next("one", set(), ours), schedule.next("two", set(), ours)
    assert (one.key, two.key) == ("a0", "b0")  # type: ignore[union-attr]
    assert schedule.next("one", set(), ours).key == "a1"  # type: ignore[union-attr]
    assert schedule.next("two", set(), ours).key == "a3"  # type: ignore[union-attr]  # from the other end
    assert schedule.next("one", set(), ours).key == "a2"  # type: ignore[union-attr]
    assert schedule.next("one", set(), ours) is None
    assert schedule.left == 0


def test_who_has_nothing_of_its_own_helps_with_the_largest_group() -> None:
    schedule = Schedule(plan(("a", 2), ("b", 5), ("c", 3)), {"a", "b", "c"})
    for worker, key in (("one", "a0"), ("two", "b0"), ("three", "c0")):
        assert schedule.next(worker, set(), ours).key == key  # type: ignore[union-attr]
    assert schedule.next("four", set(), ours).key == "b4"  # type: ignore[union-attr]


def test_a_group_that_is_through_is_nobodys() -> None:
    """Cells that come back to it are for the next free worker, in their order, not for a helper from the other end."""
    schedule = Schedule(plan(("a", 2), ("b", 1)), {"a", "b"})
    taken = [schedule.next("one", set(), ours) for _ in range(2)]
    assert [cell.key for cell in taken if cell] == ["a0", "a1"]
    for cell in reversed(taken):
        assert cell is not None
        schedule.back(cell)
    assert schedule.next("two", set(), ours).key == "b0"  # type: ignore[union-attr]
    assert schedule.next("two", set(), ours).key == "a0"  # type: ignore[union-attr]


def test_cells_that_are_lost_are_counted_one_by_one() -> None:
    schedule = Schedule(plan(("", 1), ("a", 0), ("b<a", 0), ("c<a", 1), ("d<a", 1)), set())
    assert [cell.key for cell in schedule.trainings] == ["a", "c", "d"]
    schedule.trainings.popleft()
    schedule.failed("a")
    assert schedule.blocked == 2 + 2
    assert drain(schedule) == ["0"]


def test_what_others_have_done_is_counted_each_time() -> None:
    schedule = Schedule(plan(("", 6)), set())
    schedule.drop({"0", "1"})
    schedule.drop({"2", "not of this plan"})
    assert schedule.elsewhere == 3
    assert drain(schedule) == ["3", "4", "5"]


def test_a_group_whose_adapter_is_there_comes_first() -> None:
    schedule = Schedule(plan(("a", 1), ("b", 1), ("c", 1)), {"a", "b", "c"})
    assert schedule.next("w", {"c"}, ours).key == "c0"  # type: ignore[union-attr]


def test_cells_of_two_models_are_two_groups() -> None:
    cells = plan(("", 1), models=b"A")
    cells.pictures += [PlannedCell("x", (), (), b"B"), PlannedCell("y", (), (), b"A")]
    assert drain(Schedule(cells, set())) == ["0", "y", "x"]


def test_a_failed_training_takes_its_cells_with_it() -> None:
    schedule = Schedule(plan(("", 1), ("a", 2), ("b<a", 3), ("c", 1)), set())
    taken = [schedule.next("w", set(), ours) for _ in range(2)]
    assert [cell.key for cell in taken if cell] == ["0", "a"]
    schedule.failed("a")
    assert schedule.blocked == 2 + 1 + 3  # its pictures, the training on top of it, and that one's pictures
    assert drain(schedule) == ["c", "c0"]
    assert schedule.left == 0


def test_what_other_runners_do() -> None:
    """Busy cells stay, done ones go, a training that failed elsewhere takes its cells with it."""
    says: dict[str, Taken] = {"0": "busy", "a": "failed", "b": "done", "b1": "done"}
    schedule = Schedule(plan(("", 2), ("a", 2), ("b", 3)), set())
    assert drain(schedule, take=lambda cell: says.get(cell.key, "ours")) == ["1", "b0", "b2"]
    assert (schedule.left, schedule.blocked, schedule.elsewhere) == (1, 2, 3)
    says["0"] = "ours"
    assert drain(schedule, take=lambda cell: says.get(cell.key, "ours")) == ["0"]
    schedule = Schedule(plan(("a", 2)), set())
    schedule.drop({"a", "a1"})
    assert (schedule.elsewhere, drain(schedule)) == (2, ["a0"])


def test_a_cell_comes_back() -> None:
    schedule = Schedule(plan(("a", 1)), set())
    training = schedule.next("w", set(), ours)
    assert training is not None
    assert schedule.left == 1
    schedule.back(training)
    assert drain(schedule) == ["a", "a0"]
    schedule.back(PlannedCell("a0", (), ("a",)))
    assert drain(schedule) == ["a0"]


def test_a_hundred_thousand_cells_are_no_matter() -> None:
    schedule = Schedule(plan(("", 50_000), ("a", 50_000)), set())
    assert len(drain(schedule)) == 100_001
