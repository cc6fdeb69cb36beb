"""Patterns of layer names in PEFT's records, matched as PEFT matches them, in bounded time.

A regular expression of a few letters can take hours. So the ways to match one are counted before, and reading a file
may take SECONDS for all of them.
"""

from __future__ import annotations

import functools
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

try:
    from re import _parser as parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_parse as parser

SECONDS = 2.0  # of the processor, for all patterns and layers of a file
_LENGTH = 1000  # of a pattern
_NAME = 100  # letters of a usual layer's name, by which a pattern is judged before there are names
_MOST_WAYS = 30_000_000  # to match one name: about a second
_FEW = 8  # times that a letter may be repeated and count as so many ways


class Slow(ValueError):
    """Patterns that would take too long. The message is to be put after the file's name."""


_end: ContextVar[float | None] = ContextVar("end of matching", default=None)


def check(field: str, pattern: str) -> None:
    """Raise ValueError for a pattern of a record that is no regular expression, or could take hours to match (Slow)."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"has the pattern {_shown(pattern)} in {field} of its record: {error}") from error
    _check_ways(field, pattern, _NAME)


@contextmanager
def limited() -> Iterator[None]:
    """Let all `matches` within take no more than SECONDS together; the one that comes later raises Slow."""
    token = _end.set(time.thread_time() + SECONDS)
    try:
        yield
    finally:
        _end.reset(token)


def matches(field: str, pattern: str, name: str) -> bool:
    """Whether a pattern of a record is for a layer, as PEFT's get_pattern_key has it.

    Raises Slow for one that takes too long.
    """
    _check_ways(field, pattern, len(name))
    is_match = re.match(rf"(.*\.)?({pattern})$", name) is not None
    _check_time(field)
    return is_match


def matches_fully(field: str, pattern: str, name: str) -> bool:
    """Whether a pattern is the whole of a layer's name. Raises Slow for one that takes too long."""
    _check_ways(field, pattern, len(name))
    is_match = re.fullmatch(pattern, name) is not None
    _check_time(field)
    return is_match


def _check_time(field: str) -> None:
    end = _end.get()
    if end is not None and time.thread_time() > end:
        raise Slow(f"has patterns in {field} of its record that take more than {SECONDS:g} s to match")


def _check_ways(field: str, pattern: str, length: int) -> None:
    if len(pattern) > _LENGTH or _ways_of(pattern, length) > _MOST_WAYS:
        raise Slow(f"has the pattern {_shown(pattern)} in {field} of its record, which takes too long to match")


@functools.lru_cache(maxsize=4096)
def _ways_of(pattern: str, length: int) -> float:
    """The number of ways that are tried at most to match the pattern with a name of that length."""
    repeats, factor = _ways(parser.parse(pattern), length)
    repeats += 1  # what PEFT puts before it
    return math.inf if repeats > 50 else factor * math.comb(length + repeats, repeats)


def _ways(steps: Any, length: int) -> tuple[int, float]:
    """How many letters of any number of times are in a part of a pattern, and in how many ways the others match.

    k letters of any number of times share a name of n letters in (n + k) over k ways.
    """
    repeats, factor = 0, 1.0
    for operation, argument in steps:
        more, ways = _ways_of_step(str(operation), argument, length)
        repeats, factor = repeats + more, factor * ways
    return repeats, factor


def _ways_of_step(operation: str, argument: Any, length: int) -> tuple[int, float]:
    if operation in ("LITERAL", "NOT_LITERAL", "ANY", "IN", "AT", "GROUPREF"):
        return 0, 1.0
    if operation in ("SUBPATTERN", "ASSERT", "ASSERT_NOT"):
        return _ways(argument[-1], length)
    if operation == "ATOMIC_GROUP":
        return _ways(argument, length)
    if operation == "BRANCH":
        each = [_ways(alternative, length) for alternative in argument[1]]
        return max(repeats for repeats, _ in each), sum(factor for _, factor in each)
    if operation in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, steps = argument
        return _ways_of_repeat(least, most, steps, length)
    return 0, math.inf


def _ways_of_repeat(least: int, most: int, steps: Any, length: int) -> tuple[int, float]:
    most = min(int(most), length)
    least = min(int(least), most)
    repeats, factor = _ways(steps, length)
    if repeats == 0 and factor == 1:
        times = most - least + 1
        return (0, float(times)) if times <= _FEW else (1, 1.0)
    if most <= 1:
        return repeats, factor + 1 - least
    return repeats * most, factor**most if most * math.log(factor or 1) < 300 else math.inf


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
