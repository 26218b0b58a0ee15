"""Both engines on simulated kernels that fail in the same places: whatever happens, the same comes of it.

tests/c/test_faults.c makes the scripts and plays them on the core. The portable engine must tell the
same of each: what it accepted, read and was woken for, how every connection ended, and what its client
got. FAULT_ROUNDS in the environment asks for more of them, FAULT_SEED for others.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
from unit.simulated import parse_rounds, play

import evio

PROGRAM = Path(__file__).parents[2] / "build/c/test_faults"
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "2000"))
SEED = int(os.environ.get("FAULT_SEED", "0"))
PART = 500  # rounds of one test: about a second


def steps(trace: list[str]) -> list[str]:
    """Return a trace with the lines of each step by their connections: in which order those come, nobody promises."""

    def number(line: str) -> int:
        second = line.split()[1:2]
        return int(second[0]) if second and second[0].isdigit() else 0

    nsteps = 0

    def step(line: str) -> int:
        nonlocal nsteps
        nsteps += line.startswith(("step", "end"))
        return nsteps

    ordered: list[str] = []
    for _, lines in groupby(trace, step):
        first, *rest = lines
        ordered += [first, *sorted(rest, key=number)]
    return ordered


@pytest.mark.skipif(
    (evio.engine == "selectors" or sys.platform != "linux") and not PROGRAM.exists(),
    reason="there is no extension, or it is not for Linux: build/c/test_faults is not built",
)
@pytest.mark.parametrize("first", range(SEED, SEED + ROUNDS, PART))
def test_same_trace(first: int) -> None:
    assert PROGRAM.exists(), f"{PROGRAM} is not built: make build/c/test_faults"
    rounds = min(PART, SEED + ROUNDS - first)
    command = [str(PROGRAM), "trace", str(first), str(rounds)]
    scripts = parse_rounds(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert len(scripts) == rounds
    for script in scripts:
        with pytest.MonkeyPatch.context() as monkeypatch:
            try:
                trace = play(script, monkeypatch)
            except BaseException as error:
                error.add_note("\n".join(script.text))
                raise
        assert steps(trace) == steps(script.trace), "\n".join(script.text)
