"""The situations of `make soak`, under their light loads."""

from __future__ import annotations

import pytest
from conftest import ENGINES
from soak.situation import Situation, run, situations

RUNS = [(one, engine) for one in situations() for engine in ENGINES if engine in one.engines]


@pytest.mark.parametrize(("one", "engine"), RUNS, ids=[f"{one.number}-{one.name}-{engine}" for one, engine in RUNS])
def test_situation(one: Situation, engine: str) -> None:
    outcome = run(one, engine, heavy=False, seed=1)
    assert outcome.error == "", outcome.error
