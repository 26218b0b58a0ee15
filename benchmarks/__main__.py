"""Runs the benchmarks: `python -m benchmarks [NAME ...]`."""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import time
from itertools import chain
from pathlib import Path

from . import report
from .measure import Progress
from .rows import BENCHMARKS, Bench
from .servers import HERE, Peers, Unusable


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks of evio beside its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all by default: {', '.join(BENCHMARKS)}")
    parser.add_argument("--rounds", type=int, default=10, help="samples of each contestant (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=2_000_000, help="of a redis-benchmark (default: %(default)s)")
    parser.add_argument("--pin", action="store_true", help="run servers on CPU 0 alone, and clients on CPU 1")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="the folder that they go to")
    parser.add_argument(
        "--redis-servers",
        default=os.environ.get("REDIS_SERVERS", ""),
        metavar="PATH:...",
        help="more Redis and Valkey servers, beside those on PATH (default: $REDIS_SERVERS)",
    )
    parser.add_argument("--report", action="store_true", help="run nothing; write tables and charts of what there is")
    parser.add_argument("--readme", action="store_true", help="run nothing; print what the project's README shows")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    if options.rounds < 1 or options.requests < 1:
        parser.error("--rounds and --requests must be at least 1")
    if options.readme:
        results = report.load(options.results)
        if not results:
            sys.exit(f"There are no results in {options.results}.")
        print(report.readme(results), end="")
        return
    if not options.report:
        if sys.platform != "linux":
            sys.exit(
                "The benchmarks need Linux: they read a server's CPU time from /proc, and their clients use epoll."
            )
        run(options)
    else:
        report.write(options.results)
    print(f"{options.results / 'README.md'} has the tables and the charts.", file=sys.stderr)


def run(options: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("terminated"))  # so that servers are stopped
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    peers = Peers(options.redis_servers)
    for reason in chain.from_iterable(peers.missing.values()):
        print(f"left out: {reason}", file=sys.stderr)
    progress = Progress()
    bench = Bench(peers, progress, rounds=options.rounds, requests=options.requests, pin=options.pin)
    for name in options.names or BENCHMARKS:
        if name in ("resp", "random") and peers.benchmark is None:
            continue
        progress.start(name)
        started = time.monotonic()
        result = BENCHMARKS[name](bench)
        progress.end()
        report.save(options.results, result, bench, time.monotonic() - started)
        report.write(options.results)


if __name__ == "__main__":
    try:
        main()
    except (Unusable, ConnectionError) as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted")
