"""What is measured, and how figures are made of it: CPU time and memory of a process, rounds, ratios."""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

Sample: TypeAlias = dict[str, float]  #: what one run of one contestant measured, by the metric's name
Samples: TypeAlias = dict[str, list[Sample]]  #: for each contestant, in the order of the rounds


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that all threads of a process have used; exact for those that sleep now."""
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def pss_bytes(pid: int) -> int:
    """Return the memory of a process, with its share of what it shares; the kernel's for its sockets is not in it."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError("smaps_rollup has no line Pss")


class Progress:
    """One line that tells what is going on; where the output is no terminal, a line for each benchmark."""

    def __init__(self) -> None:
        self.title = ""

    def start(self, title: str) -> None:
        self.title = title
        print(title, file=sys.stderr, flush=True)

    def show(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K  {text}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        self.show("")
        if sys.stderr.isatty():
            print("\r", end="", file=sys.stderr, flush=True)


def in_turn(
    contestants: Mapping[str, Callable[[], Sample]], rounds: int, show: Callable[[str], None] = lambda text: None
) -> Samples:
    """Run contestants one after the other, forth and back.

    So A and B that stand side by side run as A B B A: whatever the machine does meanwhile, each
    round has both of them close together.

    Args:
        contestants: what runs each of them once.
        rounds: how many samples to take of each, after a run that warms it up.
        show: told what runs now.

    Returns:
        The samples; those of one index belong together.
    """
    names = list(contestants)
    samples: Samples = {name: [] for name in names}
    for name in names:
        show(f"warming up {name}")
        contestants[name]()
    for index in range(rounds):
        for name in names if index % 2 == 0 else reversed(names):
            show(f"{index + 1} of {rounds}: {name}")
            samples[name].append(contestants[name]())
    return samples


class Spread(NamedTuple):
    """A median with its quartiles."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    """Return the median and the quartiles of at least one value."""
    values = list(values)
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def column(samples: Samples, name: str, metric: str) -> Spread | None:
    """Return the spread of a contestant's metric, None where the contestant was left out."""
    return spread(sample[metric] for sample in samples[name]) if samples.get(name) else None


def ratio(samples: Samples, above: str, below: str, metric: str) -> Spread | None:
    """Return the spread of the ratios within each round, None where either contestant was left out."""
    if not (samples.get(above) and samples.get(below)):
        return None
    pairs = zip(samples[above], samples[below], strict=True)
    return spread(over[metric] / under[metric] for over, under in pairs)
