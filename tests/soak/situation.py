"""What a situation is, and how one is run: in a process of its own, which says how far it has come.

A situation is a function that brings a server into it and asserts what must hold:

    @situation(1, "reset mid-stream", light={"resets": 300}, heavy={"resets": 10_000})
    def resets(run: Run, resets: int) -> str:
        with live(run.net("tcp"), echo) as server:
            for done in range(resets):
                run.progress(done, resets)
                ...
        return "what was measured, for the table"

It runs in the main thread of an interpreter of its own, where warnings are errors. It has failed when
it raises, leaves a child behind, or when anything appears on stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The modules that hold situations, by importing which they are registered.
MODULES = ("connections", "system", "callbacks", "python", "requests", "appendonly", "model")

#: Seconds that a situation may take under the light load. The heavy one has its own limit.
LIGHT_LIMIT = 60.0


@dataclass(frozen=True)
class Situation:
    """One line of the table."""

    number: int
    title: str
    function: Callable[..., str]
    light: dict[str, Any]
    heavy: dict[str, Any]
    limit: float  #: seconds that the heavy load may take
    engines: tuple[str, ...]  #: "native", "compat"

    @property
    def name(self) -> str:
        return self.function.__name__

    def load(self, heavy: bool) -> dict[str, Any]:
        return self.heavy if heavy else self.light


SITUATIONS: list[Situation] = []


def situation(
    number: int,
    title: str,
    *,
    light: dict[str, Any],
    heavy: dict[str, Any],
    limit: float = 600.0,
    engines: tuple[str, ...] = ("native", "compat"),
) -> Callable[[Callable[..., str]], Callable[..., str]]:
    """Register a situation.

    Args:
        number: that of the table; several may share one.
        title: what the table calls it.
        light, heavy: the arguments that the function is given behind its `Run`.
        limit: seconds that it may take under the heavy load, on a machine with two slow cores.
        engines: where it makes sense; one that needs no engine of evio's runs on "native" alone.
    """

    def register(function: Callable[..., str]) -> Callable[..., str]:
        assert light.keys() == heavy.keys()
        SITUATIONS.append(Situation(number, title, function, light, heavy, limit, engines))
        return function

    return register


def situations() -> list[Situation]:
    """Return all of them, by their numbers."""
    for module in MODULES:
        importlib.import_module(f"soak.{module}")
    return sorted(SITUATIONS, key=lambda one: one.number)


class Run:
    """What a situation is given: the engine, random numbers that come again, and a way to tell how far it is."""

    def __init__(self, engine: str, seed: int) -> None:
        self.engine = engine
        self.random = random.Random(seed)
        self._told = time.monotonic()

    def net(self, base: str) -> str:
        """Return `base` with what selects the engine behind it: "tcp" or "tcp-compat"."""
        return f"{base}-compat" if self.engine == "compat" else base

    def progress(self, done: float, total: float) -> None:
        """Tell how far the situation has come. May be called very often."""
        now = time.monotonic()
        if now > self._told + 0.5:
            self._told = now
            self._tell(progress=done / total)

    def _tell(self, **message: Any) -> None:
        print(json.dumps(message), flush=True)


@dataclass(frozen=True)
class Outcome:
    """How a situation ended."""

    situation: Situation
    engine: str
    error: str  #: what went wrong, or ""
    figures: str  #: what was measured
    seconds: float


def run(
    one: Situation, engine: str, *, heavy: bool, seed: int, progress: Callable[[float], None] | None = None
) -> Outcome:
    """Run a situation in a process of its own, and end it and its children when its time is over.

    Args:
        engine: one of the situation's engines.
        seed: of its random numbers.
        progress: called with a share of 1 now and then.
    """
    began = time.monotonic()
    argument = json.dumps({"number": one.number, "name": one.name, "engine": engine, "heavy": heavy, "seed": seed})
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-W", "error", "-m", "soak.situation", argument],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    complaints: list[str] = []
    reader = threading.Thread(target=lambda stream=process.stderr: complaints.append(stream.read()))
    reader.start()
    limit = one.limit if heavy else LIGHT_LIMIT
    overdue = threading.Timer(limit, _kill, [process.pid])
    overdue.start()
    figures = None
    try:
        for line in process.stdout:
            message = json.loads(line)
            figures = message.get("figures", figures)
            if progress is not None and "progress" in message:
                progress(message["progress"])
        status = process.wait()
    finally:
        late = not overdue.is_alive()
        overdue.cancel()
        left = _kill(process.pid)
        process.wait()
        reader.join()
        process.stdout.close()
        process.stderr.close()
    error = "".join(complaints)
    if late:
        error += f"not done after {limit:g} seconds\n"
    elif left:
        error += "it left processes behind\n"
    elif status != 0 or (figures is None and not error):
        error += f"exit status {status}\n"
    return Outcome(one, engine, error, figures or "", time.monotonic() - began)


def _kill(group: int) -> bool:
    """Kill what there is of a process group, and return whether there was anything."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:  # all have gone by themselves
        return False
    return True


def _child(number: int, name: str, engine: str, heavy: bool, seed: int) -> None:
    (one,) = (one for one in situations() if (one.number, one.name) == (number, name))
    run = Run(engine, seed)
    run._tell(figures=one.function(run, **one.load(heavy)))


if __name__ == "__main__":
    from soak.situation import _child as child  # the registry is that module's, not __main__'s

    child(**json.loads(sys.argv[1]))
