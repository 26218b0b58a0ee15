"""`make soak`: the situations under their heavy loads, one after the other, and a table at the end."""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from pathlib import Path

import evio

from .situation import Outcome, Situation, run, situations

BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak ARGS=...", description=__doc__)
    parser.add_argument("numbers", nargs="*", type=int, help="the situations to run; all without")
    parser.add_argument("--engine", choices=("native", "compat"), help="one engine; both without")
    parser.add_argument("--light", action="store_true", help="the loads that make test uses")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--write", type=Path, metavar="PAGE", help=f"put the table between {BEGIN} and {END}")
    options = parser.parse_args()
    unknown = set(options.numbers) - {one.number for one in situations()}
    if unknown:
        parser.error(f"there is no situation {', '.join(map(str, sorted(unknown)))}")
    available = ("compat",) if evio.engine == "selectors" else ("native", "compat")
    chosen = [
        (one, engine)
        for one in situations()
        for engine in available
        if engine in one.engines
        and options.engine in (None, engine)
        and (not options.numbers or one.number in options.numbers)
    ]
    print(f"{len(chosen)} runs, seed {options.seed}")
    outcomes = []
    for one, engine in chosen:
        outcomes.append(_run(one, engine, not options.light, options.seed))
    lines = table(outcomes, heavy=not options.light)
    print("\n" + "\n".join(lines))
    if options.write is not None:
        text = options.write.read_text()
        before, _, rest = text.partition(BEGIN)
        after = rest.partition(END)[2]
        options.write.write_text("\n".join([before + BEGIN, "", *lines, "", END + after]))
    failed = [outcome for outcome in outcomes if outcome.error]
    print(f"\n{len(outcomes) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def _run(one: Situation, engine: str, heavy: bool, seed: int) -> Outcome:
    began = time.monotonic()
    width = os.get_terminal_size().columns if sys.stdout.isatty() else 0

    def show(share: float) -> None:
        line = f"{one.number:2} {one.title}, {engine}: {share:4.0%}, {time.monotonic() - began:.0f} s"
        if width:
            print("\r" + line[: width - 1].ljust(width - 1), end="", flush=True)
        else:
            print(line, flush=True)

    last = began - 10

    def now_and_then(share: float) -> None:
        nonlocal last
        if width or time.monotonic() > last + 10:  # a log wants fewer lines than a terminal
            last = time.monotonic()
            show(share)

    now_and_then(0)
    outcome = run(one, engine, heavy=heavy, seed=seed, progress=now_and_then)
    if width:
        print("\r" + " " * (width - 1), end="\r")
    said = outcome.figures if not outcome.error else "FAILED"
    print(f"{one.number:2} {one.title}, {engine}: {said} ({outcome.seconds:.0f} s)", flush=True)
    if outcome.error:
        print(outcome.error, file=sys.stderr, flush=True)
    return outcome


def table(outcomes: list[Outcome], heavy: bool) -> list[str]:
    """Return the lines of the summary, which is a Markdown table."""
    lines = ["| # | situation | engine | load | result | seconds |", "| --- | --- | --- | --- | --- | --- |"]
    for outcome in outcomes:
        one = outcome.situation
        load = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in one.load(heavy).items())
        result = "**FAILED**" if outcome.error else outcome.figures
        lines.append(f"| {one.number} | {one.title} | {outcome.engine} | {load} | {result} | {outcome.seconds:.0f} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
