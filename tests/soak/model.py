"""Situation 38: random steps of everything at once, against the model of the contract."""

from __future__ import annotations

import gc

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from server.model import Machine

from .situation import Run, situation


@situation(38, "the model", light={"examples": 25, "steps": 30}, heavy={"examples": 1_000, "steps": 50}, limit=1800.0)
def model(run: Run, examples: int, steps: int) -> str:
    """A server does what the model of the contract says, whatever its clients, callbacks and wakes do."""
    done = taken = 0

    class Counted(Machine):
        suffix = run.net("")

        def teardown(self) -> None:
            nonlocal done, taken
            super().teardown()
            done += 1
            taken += len(self.served.steps) if self.served else 0
            gc.freeze()  # what hypothesis keeps, too
            run.progress(min(done, examples), examples)  # some are not taken for one

    # Nothing is kept for another run: the seed is what brings a failure back.
    of_model = settings(
        max_examples=examples,
        stateful_step_count=steps,
        database=None,
        deadline=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    gc.freeze()  # live collects after each server, and need not look at all this each time
    run_state_machine_as_test(seed(run.random.randrange(1 << 32))(Counted), settings=of_model)
    return f"{taken:,} steps"
