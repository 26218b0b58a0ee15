"""The situations of `make soak`, under their light loads."""

from __future__ import annotations

import sys

import pytest
from conftest import ENGINES
from harness import CRASHES_WITHOUT_MEMORY, for_cpython
from soak.situation import Situation, run, situations

#: Those that assert how much memory or time something takes.
MEASURING = {5, 6, 8, 10, 15, 16, 24, 30, 33}
#: Those in which threads meet.
THREADS = {12, 13, 14, 20, 22, 23}
#: Those that ask Linux: /proc, strace, a small disk of their own.
LINUX = {5, 6, 9, 15, 16, 24, 30, 31, 33, 36}
#: Those about CPython's interpreters and its memory.
CPYTHON = {23, 24, 26, 30}
RUNS = [
    pytest.param(
        one,
        engine,
        id=f"{one.number}-{one.name}-{engine}",
        marks=[
            *([pytest.mark.measures] if one.number in MEASURING else []),
            *([pytest.mark.threads] if one.number in THREADS else []),
            *(
                [pytest.mark.skip("CPython itself crashes")]
                if one.number == 26 and engine in CRASHES_WITHOUT_MEMORY
                else []
            ),
            *([for_cpython] if one.number in CPYTHON else []),
            *([pytest.mark.skipif(sys.platform != "linux", reason="for Linux")] if one.number in LINUX else []),
        ],
    )
    for one in situations()
    for engine in ENGINES
    if engine in one.engines and one.number != 38  # test_model is that
]


@pytest.mark.parametrize(("one", "engine"), RUNS)
def test_situation(one: Situation, engine: str) -> None:
    outcome = run(one, engine, heavy=False, seed=1)
    assert outcome.error == "", outcome.error
