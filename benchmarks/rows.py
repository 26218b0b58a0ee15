"""The benchmarks: one function for each, which measures one or more rows of the goals."""

from __future__ import annotations

import contextlib
import functools
import random
import re
import resource
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from .load import Client, Closed, client, closed, redis_benchmark
from .measure import Progress, Sample, Samples, Spread, column, in_turn, ratio
from .servers import (
    EVIO,
    FLOOR,
    STREAM_BUFFER,
    Peers,
    Server,
    Start,
    Unusable,
    commands,
    echo,
    floor_echo,
    floor_resp,
    running,
    runs,
)

COMMANDS = "evio, commands"  # with one Python call for each
SECONDS = 1.0  # of one run of the clients in load/
KEYS = 1_000_000
HOT_KEY = "key:__rand_int__"  # redis-benchmark's, where it is not told to choose among many


@dataclass
class Goal:
    """A row of the goals, or a part of one, and what was measured of it."""

    row: int
    work: str
    measured: Spread | None  #: None where a contestant is missing
    sense: str  #: "≥" or "≤"
    bound: float
    unit: str = ""

    @property
    def met(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured.median >= self.bound if self.sense == "≥" else self.measured.median <= self.bound


@dataclass
class Result:
    """What a benchmark has measured: for each case the samples of each contestant."""

    name: str
    title: str
    cases: dict[str, Samples] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


@dataclass
class Bench:
    """How to measure, and with whom."""

    peers: Peers
    progress: Progress
    rounds: int = 10
    requests: int = 2_000_000  #: of one run of redis-benchmark
    pin: bool = False  #: whether servers run on the first CPU and clients on the second

    @property
    def server_cpu(self) -> int | None:
        return 0 if self.pin else None

    @property
    def client_cpu(self) -> int | None:
        return 1 if self.pin else None

    def start(self, starts: Mapping[str, Start], result: Result, stack: ExitStack) -> dict[str, Server]:
        """Start servers, which the stack stops; those that do not start are told, and left out."""
        started: dict[str, Server] = {}
        for name, start in starts.items():
            self.progress.show(f"starting {name}")
            try:
                started[name] = stack.enter_context(running(start, cpu=self.server_cpu))
            except Unusable as error:
                if name in (EVIO, FLOOR):
                    raise
                result.missing.append(f"{name}: {error}")
        return started

    @property
    def most_connections(self) -> int:
        """How many connections a process may have; some descriptors are for other things."""
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 50

    def connect(
        self,
        server: Server,
        stack: ExitStack,
        connections: int,
        *,
        active: int | None = None,
        each: int = 0,
        copies: int = 1,
    ) -> Closed:
        """Connect the clients of a closed loop, for as long as the stack lives."""
        loop = closed(server, connections, active=active, each=each, copies=copies, cpu=self.client_cpu)
        return stack.enter_context(loop)

    def measure(self, case: str, contestants: Mapping[str, Callable[[], Sample]], rounds: int | None = None) -> Samples:
        """Run the contestants in turn."""
        return in_turn(contestants, rounds or self.rounds, lambda text: self.progress.show(f"{case}: {text}"))


def resp(bench: Bench) -> Result:
    """Rows 1 to 3: pipelined Redis commands."""
    result = Result(
        "resp",
        "Pipelined Redis commands, 128 at a time, 50 clients, one key",
        missing=list(bench.peers.missing["redis"]),
    )
    # Those that are compared stand side by side.
    starts = {FLOOR: floor_resp, EVIO: runs, **redis_starts(bench, 1), COMMANDS: commands, **redis_starts(bench)}
    with ExitStack() as stack:
        servers = bench.start(starts, result, stack)
        for server in servers.values():
            server.ask(b"SET %b xxx\r\n" % HOT_KEY.encode(), 5)
        for test in ("ping_inline", "ping_mbulk", "set", "get"):
            result.cases[test.upper()] = bench.measure(
                test.upper(),
                {
                    name: functools.partial(redis_benchmark, server, test, bench.requests, cpu=bench.client_cpu)
                    for name, server in servers.items()
                },
            )
    peer = first_redis(bench)
    bounds = ((1, EVIO, (4.5, 3.5, 3.0, 3.0)), (2, COMMANDS, (2.2, 2.0, 2.0, 1.7)))
    for row, mine, row_bounds in bounds:
        for (case, samples), bound in zip(result.cases.items(), row_bounds, strict=True):
            how = "runs" if mine == EVIO else "a call per command"
            work = f"{case}, {how}: CPU of {peer} to that of evio"
            result.goals.append(Goal(row, work, ratio(samples, peer, mine, "cpu_us"), "≥", bound))
    for case, samples in result.cases.items():
        share = ratio(samples, EVIO, FLOOR, "per_second")
        work = f"{case}, runs: throughput as a share of the floor's"
        result.goals.append(Goal(3, work, share, "≥", 0.8 if case == "SET" else 0.9))
    return result


def first_redis(bench: Bench) -> str:
    return bench.peers.redis[0].name if bench.peers.redis else "Redis"


def redis_starts(bench: Bench, most: int | None = None) -> dict[str, Start]:
    return {server.name: server.start for server in bench.peers.redis[:most]}


def random_keys(bench: Bench) -> Result:
    """Row 4: a million keys at random."""
    result = Result(
        "random",
        "Pipelined Redis commands, 128 at a time, 50 clients, a million keys at random",
        missing=list(bench.peers.missing["redis"]),
    )
    with ExitStack() as stack:
        servers = bench.start({FLOOR: floor_resp, EVIO: runs, **redis_starts(bench)}, result, stack)
        for name, server in servers.items():
            if name != FLOOR:
                bench.progress.show(f"filling {name}")
                fill(server)
        for test in ("set", "get"):
            result.cases[test.upper()] = bench.measure(
                test.upper(),
                {
                    name: functools.partial(
                        redis_benchmark, server, test, bench.requests, keys=KEYS, cpu=bench.client_cpu
                    )
                    for name, server in servers.items()
                },
            )
    peer = first_redis(bench)
    for case, samples in result.cases.items():
        work = f"{case}, a million keys: CPU of {peer} to that of evio"
        result.goals.append(Goal(4, work, ratio(samples, peer, EVIO, "cpu_us"), "≥", 1.0))
    return result


def fill(server: Server) -> None:
    """Set all the keys that redis-benchmark chooses from, in an order that helps nobody."""
    numbers = list(range(KEYS))
    random.Random(1).shuffle(numbers)
    with socket.create_connection(("127.0.0.1", server.port)) as sock, sock.makefile("rb") as replies:
        for start in range(0, KEYS, 1000):
            chunk = numbers[start : start + 1000]
            sock.sendall(b"".join([b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$3\r\nxxx\r\n" % each for each in chunk]))
            if replies.read(5 * len(chunk)) != b"+OK\r\n" * len(chunk):
                raise Unusable("it does not take a million keys")


def echoes(bench: Bench) -> Result:
    """Row 5: an echo of 64 bytes."""
    result = Result("echo", "Echo of 64 bytes", missing=list(bench.peers.missing["echo"]))
    counts = (50, 500)
    with ExitStack() as stack:
        servers = bench.start({FLOOR: floor_echo(), **bench.peers.echo()}, result, stack)
        for connections in counts:
            case = f"{connections} connections"
            with ExitStack() as clients:
                loops = {name: bench.connect(server, clients, connections) for name, server in servers.items()}
                result.cases[case] = bench.measure(case, samplers(loops))
    for case, samples in result.cases.items():
        against = ratio(samples, EVIO, FLOOR, "cpu_us"), ratio(samples, EVIO, "uvloop", "cpu_us")
        result.goals += [
            Goal(5, f"echo, {case}: CPU of evio to that of the floor", against[0], "≤", 1.10),
            Goal(5, f"echo, {case}: CPU of evio to that of uvloop", against[1], "≤", 0.85),
        ]
    instructions = count_instructions(bench, result)
    work = "echo: instructions of evio in user mode to those of uvloop"
    result.goals.append(Goal(5, work, ratio(instructions, EVIO, "uvloop", "instructions"), "≤", 0.333))
    return result


def samplers(loops: Mapping[str, Closed], seconds: float = SECONDS) -> dict[str, Callable[[], Sample]]:
    return {name: functools.partial(loop.sample, seconds) for name, loop in loops.items()}


def count_instructions(bench: Bench, result: Result) -> Samples:
    """Count what callgrind sees of an echo: the difference of a long and a short run, without start and end."""
    starts = {FLOOR: floor_echo(), **bench.peers.echo(streams=False)}
    samples: Samples = {}
    if bench.peers.valgrind is None:
        result.missing += bench.peers.missing["tools"][:1]
        return samples
    for name, start in starts.items():
        bench.progress.show(f"counting instructions of {name}")
        try:
            fewer, few = instructions(start, 0.5)
            more, many = instructions(start, 4.0)
        except (Unusable, ConnectionError) as error:
            result.missing.append(f"instructions of {name}: {error}")
            continue
        samples[name] = [{"instructions": (more - fewer) / (many - few)}]
    result.cases["user mode, 50 connections"] = samples
    return samples


def instructions(start: Start, seconds: float) -> tuple[int, int]:
    """Return the instructions of a server's whole life under callgrind, and the requests that it answered in it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "callgrind"

        def observed(port: int) -> list[str]:
            tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={file}"]
            # The same hashes, and so the same instructions, in both runs.
            return ["env", "PYTHONHASHSEED=0", *tool, *start(port)]

        with running(observed) as server, closed(server, 50) as loop:
            done = loop.run(seconds)
        match = re.search(r"^(?:summary|totals): (\d+)", file.read_text(), re.MULTILINE) if file.exists() else None
        if match is None:
            raise Unusable("callgrind has written no total")
        return int(match[1]), done.requests


def streams(bench: Bench) -> Result:
    """Row 6: an echo of 1 MiB."""
    result = Result("streams", "Echo of 1 MiB, 10 connections", missing=list(bench.peers.missing["echo"]))
    starts = {FLOOR: floor_echo(STREAM_BUFFER), **bench.peers.echo()}
    samples: Samples = result.cases.setdefault("1 MiB", {})

    def sample(loop: Closed) -> Sample:
        """Count MiB, not requests, as nothing else is worth while here."""
        measured = loop.sample(SECONDS)
        return {"mib_per_cpu_second": 1e6 / measured["cpu_us"], "mib_per_second": measured["per_second"]}

    # Servers that are started anew for each round: which memory one gets, and how that falls into the caches, makes
    # more difference to it than one round does from the next.
    for number in range(1, bench.rounds + 1):
        with ExitStack() as stack:
            servers = bench.start(starts, result, stack)
            loops = {name: bench.connect(server, stack, 10, copies=16384) for name, server in servers.items()}
            contestants = {name: functools.partial(sample, loop) for name, loop in loops.items()}
            if number % 2 == 0:
                contestants = dict(reversed(contestants.items()))
            measured = bench.measure(f"1 MiB, round {number} of {bench.rounds}", contestants, rounds=1)
        for name in servers:
            samples.setdefault(name, []).extend(measured[name])
    for peer, bound in ((FLOOR, 0.9), ("uvloop", 1.2), ("asyncio", 1.2)):
        work = f"1 MiB echo: bytes per CPU second of evio to those of {'the floor' if peer == FLOOR else peer}"
        result.goals.append(Goal(6, work, ratio(samples, EVIO, peer, "mib_per_cpu_second"), "≥", bound))
    return result


def memory(bench: Bench) -> Result:
    """Row 7: what an idle connection costs."""
    connections = min(10_000, bench.most_connections)
    result = Result(
        "memory", f"User memory for each of {connections:,} idle connections", missing=list(bench.peers.missing["echo"])
    )

    def sample(start: Start) -> Sample:
        with running(start, cpu=bench.server_cpu) as server:
            with closed(server, 10) as loop:  # what is made once does not count
                loop.run(0.1)
            time.sleep(0.2)
            before = server.pss()
            with closed(server, connections):  # each exchanges one message
                time.sleep(0.2)
                return {"bytes": (server.pss() - before) / connections}

    contestants = {name: functools.partial(sample, start) for name, start in bench.peers.echo(keep=True).items()}
    samples = result.cases[f"{connections:,} connections"] = bench.measure("memory", contestants, min(bench.rounds, 3))
    work = "bytes of user memory for an idle connection with its wake"
    result.goals.append(Goal(7, work, column(samples, EVIO, "bytes"), "≤", 512, " B"))
    return result


def connections(bench: Bench) -> Result:
    """Row 8: connect, one request, close."""
    result = Result(
        "connections",
        "Connect, one echo of 64 bytes, close",
        missing=list(bench.peers.missing["echo"]),
    )
    with ExitStack() as stack:
        servers = bench.start({FLOOR: floor_echo(), **bench.peers.echo()}, result, stack)
        for label, nclients in (("one after the other", 1), ("16 at a time", 16)):
            loops = {name: bench.connect(server, stack, nclients, each=1) for name, server in servers.items()}
            result.cases[label] = bench.measure(f"connections, {label}", samplers(loops))
    samples = result.cases["one after the other"]
    result.goals += [
        Goal(8, "connection: CPU of evio to that of the floor", ratio(samples, EVIO, FLOOR, "cpu_us"), "≤", 1.15),
        Goal(8, "connection: CPU of asyncio to that of evio", ratio(samples, "asyncio", EVIO, "cpu_us"), "≥", 2.5),
    ]
    return result


class Spinner:
    """A thread that computes inside a server, and how far it came."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def count(self) -> int:
        return int.from_bytes(self.file.read_bytes(), "little")

    @contextlib.contextmanager
    def speed(self, into: Sample, metric: str) -> Iterator[None]:
        """Measure its speed in the block."""
        count, started = self.count(), time.monotonic()
        yield
        into[metric] = (self.count() - count) / (time.monotonic() - started)


def gil(bench: Bench) -> Result:
    """Row 9: a busy thread in the server's process."""
    result = Result(
        "gil",
        "Echo of 64 bytes, 50 connections, while a thread of the server's process computes",
        missing=list(bench.peers.missing["echo"]),
    )

    def sample(name: str) -> Sample:
        # Started anew each time: a server that waits for its turn would take a CPU from the one that has it.
        measured: Sample = {}
        with tempfile.NamedTemporaryFile() as file:
            file.write(bytes(8))
            file.flush()
            spinner = Spinner(file.name)
            with running(echo(name, "--spin", file.name)) as server:  # never pinned: it is two threads
                with spinner.speed(measured, "solo"):
                    time.sleep(SECONDS)
                with closed(server, 50) as loop, spinner.speed(measured, "beside"):
                    measured["per_second"] = loop.sample(SECONDS)["per_second"]
        return measured | {"spinner": measured["beside"] / measured["solo"]}

    contestants = {name: functools.partial(sample, name) for name in bench.peers.echo(streams=False)}
    samples = result.cases["50 connections"] = bench.measure("gil", contestants)
    faster = ratio(samples, EVIO, "asyncio", "per_second")
    result.goals += [
        Goal(9, "echo beside a busy thread: throughput of evio to that of asyncio", faster, "≥", 50),
        Goal(9, "the busy thread's share of its speed alone", column(samples, EVIO, "spinner"), "≥", 0.4),
    ]
    return result


def scale(bench: Bench) -> Result:
    """Row 10: from 10 to 10,000 open connections."""
    result = Result("scale", "Echo of 64 bytes, 100 of the open connections active")
    counts = [count for count in (10, 100, 1000, 10_000) if count <= bench.most_connections]
    if counts[-1] < 10_000:
        result.missing.append(f"10,000 connections: `ulimit -Hn` allows {bench.most_connections:,}")
    starts = {EVIO: echo("evio"), FLOOR: floor_echo()}
    with ExitStack() as stack:
        loops: dict[str, Closed] = {}
        for count in counts:
            for name, server in bench.start(starts, result, stack).items():
                loops[f"{name}, {count}"] = bench.connect(server, stack, count, active=min(count, 100))
        measured = bench.measure("scale", samplers(loops))
    result.cases = {
        f"{count:,} connections": {name: measured[f"{name}, {count}"] for name in starts} for count in counts
    }
    costs = [statistics.median(sample["cpu_us"] for sample in samples[EVIO]) for samples in result.cases.values()]
    dearest = max(costs) / min(costs)
    work = "CPU per request with 10 to 10,000 connections: the dearest to the cheapest"
    complete = counts[-1] == 10_000
    result.goals.append(Goal(10, work, Spread(dearest, dearest, dearest) if complete else None, "≤", 1.15))
    return result


def latency(bench: Bench) -> Result:
    """Row 11: the latency at half load."""
    result = Result("latency", "GET in an open loop, 50 connections", missing=list(bench.peers.missing["redis"]))
    get, reply_size = "*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n", len("$3\r\nxxx\r\n")
    with ExitStack() as stack:
        servers = bench.start({FLOOR: floor_resp, EVIO: runs, **redis_starts(bench)}, result, stack)
        most: list[float] = []
        for name, server in servers.items():
            server.ask(b"SET key xxx\r\n", 5)
            bench.progress.show(f"looking for the limit of {name}")
            with closed(server, 50, request=get, reply_size=reply_size, cpu=bench.client_cpu) as loop:
                most.append(max(loop.sample(SECONDS)["per_second"] for _ in range(3)))
        rate = round(min(most) / 2, -3) or 1000
        result.title += f", {rate:,.0f} requests/s (half load)"

        def sample(clients: Client) -> Sample:
            return dict(zip(("p50_us", "p99_us", "p999_us", "most_us"), clients.run(3 * SECONDS), strict=True))

        contestants: dict[str, Callable[[], Sample]] = {}
        for name, server in servers.items():
            arguments = (server.port, 50, rate, get, reply_size)
            clients = stack.enter_context(client("load/open.c", *arguments, cpu=bench.client_cpu))
            contestants[name] = functools.partial(sample, clients)
        samples = result.cases["GET"] = bench.measure("latency", contestants)
    peer = first_redis(bench)
    work = f"p99 of evio to that of {peer} at half load"
    result.goals.append(Goal(11, work, ratio(samples, EVIO, peer, "p99_us"), "≤", 1.1))
    return result


#: The benchmarks, by the names that `make bench` takes, and the goals' rows that each measures.
BENCHMARKS: dict[str, Callable[[Bench], Result]] = {
    "resp": resp,
    "random": random_keys,
    "echo": echoes,
    "streams": streams,
    "memory": memory,
    "connections": connections,
    "gil": gil,
    "scale": scale,
    "latency": latency,
}
