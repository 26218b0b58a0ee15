"""The clients: the two C programs in load/, and redis-benchmark."""

from __future__ import annotations

import csv
import io
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple, cast

from .measure import Sample
from .servers import Server, Unusable, compiled


class Done(NamedTuple):
    """What the clients of a closed loop have done."""

    requests: int
    seconds: float


class Client:
    """A C program of load/: connected, and idle until it is told to run."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._input, self._output = cast(IO[str], process.stdin), cast(IO[str], process.stdout)

    def line(self) -> str:
        line = self._output.readline()
        if not line:
            raise ConnectionError("its client ended: what it says is above")
        return line

    def run(self, seconds: float) -> list[float]:
        """Run for so long; return the figures that the program prints."""
        try:
            print(seconds, file=self._input, flush=True)
        except BrokenPipeError:
            self.line()
        return [float(figure) for figure in self.line().split()]


@contextmanager
def client(source: str, *arguments: object, cpu: int | None = None) -> Iterator[Client]:
    """Run a client for as long as the block does. It is connected when the block starts."""
    command = [compiled(source), *map(str, arguments)]
    if cpu is not None:
        command = ["taskset", "-c", str(cpu), *command]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            connected = Client(process)
            connected.line()  # ready
            yield connected
        finally:
            process.kill()


class Closed:
    """Clients in a closed loop with one server."""

    def __init__(self, server: Server, client: Client) -> None:
        self.server = server
        self.client = client

    def run(self, seconds: float) -> Done:
        requests, taken = self.client.run(seconds)
        return Done(int(requests), taken)

    def sample(self, seconds: float) -> Sample:
        """Run for so long; return the server's microseconds of CPU for a request, and the requests per second."""
        before = self.server.cpu()
        done = self.run(seconds)
        used = self.server.cpu() - before
        return {"cpu_us": used * 1e6 / done.requests, "per_second": done.requests / done.seconds}


@contextmanager
def closed(
    server: Server,
    connections: int,
    *,
    active: int | None = None,
    each: int = 0,
    request: str = "x" * 64,
    copies: int = 1,
    reply_size: int | None = None,
    cpu: int | None = None,
) -> Iterator[Closed]:
    """Connect the clients of a closed loop.

    Args:
        server: whom they connect to.
        connections: how many there are.
        active: how many of them are used; all by default.
        each: requests after which a connection is replaced by a new one; 0 for never.
        request: what a message is made of.
        copies: how many requests are in it.
        reply_size: bytes of the answer; by default those of the message, which is echoed.
        cpu: run on this CPU alone.
    """
    if active is None:
        active = connections
    if reply_size is None:
        reply_size = len(request) * copies
    arguments = (server.port, connections, active, each, request, copies, reply_size)
    with client("load/closed.c", *arguments, cpu=cpu) as connected:
        yield Closed(server, connected)


def parse_redis_benchmark(printed: str) -> float:
    """Return the requests per second of the one test in the output of `redis-benchmark --csv`."""
    rows = list(csv.DictReader(io.StringIO(printed)))
    if len(rows) != 1 or "rps" not in rows[0]:
        raise ValueError(f"redis-benchmark says what is not understood: {printed[:200]!r}")
    return float(rows[0]["rps"])


def redis_benchmark(
    server: Server, test: str, requests: int, *, keys: int | None = None, cpu: int | None = None
) -> Sample:
    """Have redis-benchmark send pipelined requests; return what `Closed.sample` does.

    Args:
        server: whom to.
        test: such as "ping_inline", "set", "get".
        requests: how many.
        keys: out of how many keys each request takes one; by default all have the same.
        cpu: run the client on this CPU alone.
    """
    command = ["redis-benchmark", "-p", str(server.port), "-P", "128", "-c", "50", "-n", str(requests), "--csv"]
    command += ["-t", test] + (["-r", str(keys)] if keys else [])
    if cpu is not None:
        command = ["taskset", "-c", str(cpu), *command]
    before = server.cpu()
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    used = server.cpu() - before
    if ran.returncode != 0:
        raise Unusable(f"redis-benchmark failed: {(ran.stderr or ran.stdout).strip()[-300:]}")
    return {"cpu_us": used * 1e6 / requests, "per_second": parse_redis_benchmark(ran.stdout)}
