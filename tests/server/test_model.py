"""The model of the contract, driven by random steps, against a live server of each engine."""

from __future__ import annotations

import gc

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from server.model import Machine

#: As many as a few seconds allow, and the same every time; `make soak` runs some thousands of others.
SETTINGS = settings(
    max_examples=25,
    stateful_step_count=30,
    derandomize=True,
    deadline=None,
    print_blob=True,
    phases=[Phase.generate],  # not shrunk: what waits in vain waits long, and each failure tells its steps
    suppress_health_check=list(HealthCheck),
)


# It looks for what refers to its random numbers, and does not see what is frozen.
@pytest.mark.filterwarnings("ignore:It looks like `register_random`")
def test_model(suffix: str) -> None:
    freezes = hasattr(gc, "freeze")  # PyPy does not
    if freezes:
        gc.freeze()  # live collects after each server, and need not look at all this each time
    try:
        run_state_machine_as_test(type("Machine", (Machine,), {"suffix": suffix}), settings=SETTINGS)
    finally:
        if freezes:
            gc.unfreeze()
