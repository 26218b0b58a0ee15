"""The servers that are measured: how each is started, known to be ready, and stopped."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

from .measure import cpu_seconds, pss_bytes

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILD = ROOT / "build" / "benchmarks"
STREAM_BUFFER = 512 * 1024  # the quickest from 64 KiB to 1 MiB, where that was tried
START_SECONDS = 60.0  # under valgrind an interpreter takes its time

FLOOR = "floor (C)"
EVIO = "evio"


class Unusable(Exception):  # noqa: N818 (the reader is told, and the benchmarks go on)
    """Something that is to be measured does not start; the argument says why."""


def compiled(source: str) -> str:
    """Return the path of a C program of the benchmarks, compiled if it has changed."""
    file = HERE / source
    program = BUILD / file.with_suffix("").relative_to(HERE)
    changed = max(each.stat().st_mtime for each in (file, *file.parent.glob("*.h")))
    if not program.exists() or program.stat().st_mtime < changed:
        program.parent.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CC", "cc").split()
        subprocess.run([*compiler, "-std=c11", "-O2", "-Wall", "-Wextra", "-o", program, file], check=True)
    return str(program)


class Server:
    """A server that runs, and listens on a port of its own."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    def cpu(self) -> float:
        """Return the seconds of CPU that it has used so far."""
        return cpu_seconds(self.process.pid)

    def pss(self) -> int:
        """Return the bytes of memory that it has now."""
        return pss_bytes(self.process.pid)

    def ask(self, request: bytes, size: int) -> bytes:
        """Send a request on a connection of its own; return `size` bytes of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), START_SECONDS) as sock, sock.makefile("rb") as replies:
            sock.sendall(request)
            return replies.read(size)


Start: TypeAlias = Callable[[int], list[str]]  #: gives the command that starts a server on a port


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextmanager
def running(start: Start, *, cpu: int | None = None) -> Iterator[Server]:
    """Run a server for as long as the block does; on one CPU if that is given.

    Raises:
        Unusable: it has ended, or does not listen.
    """
    port = free_port()
    command = start(port)
    if cpu is not None:
        command = ["taskset", "-c", str(cpu), *command]
    with tempfile.TemporaryDirectory(prefix="evio-bench-") as folder, open(f"{folder}/output", "w+b") as output:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            wait_until_ready(process, port)
            yield Server(process, port)
        except ConnectionError as error:
            if process.poll() is None:
                raise
            raise Unusable(f"{Path(command[0]).name} has ended: {printed(output.name)}") from error
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def printed(path: str) -> str:
    """Return the end of what a server has printed."""
    return Path(path).read_text("utf-8", "replace").strip()[-500:] or "it printed nothing"


def wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ConnectionError
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.02)
    raise Unusable(f"{process.args!r} does not listen after {START_SECONDS:.0f} seconds")


# What there is to run


def floor_echo(size: int = 65536) -> Start:
    return lambda port: [compiled("floor/echo.c"), str(port), str(size)]


def floor_resp(port: int) -> list[str]:
    return [compiled("floor/resp.c"), str(port)]


def echo(kind: str, *options: str) -> Start:
    return lambda port: [sys.executable, str(HERE / "servers/echo.py"), kind, str(port), *options]


def runs(port: int) -> list[str]:
    return [sys.executable, str(ROOT / "examples/redis_server.py"), "--port", str(port), "--appendonly", "no"]


def commands(port: int) -> list[str]:
    return [sys.executable, str(HERE / "servers/commands.py"), str(port)]


def redis(path: str) -> Start:
    return lambda port: [path, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]


class Redis(NamedTuple):
    """A Redis, or a server that descends from it."""

    name: str  #: such as "Redis 7.0.15"
    start: Start


class Peers:
    """Whom evio is measured with. What there is not is named in `missing`, never left out in silence."""

    def __init__(self, named: str = "") -> None:
        """Look for them.

        Args:
            named: paths of further Redis and Valkey servers, separated by colons.
        """
        self.missing: dict[str, list[str]] = {"redis": [], "echo": [], "tools": []}  #: by what they are needed for
        self.redis = self._redis(named)
        self.modules = {name: importlib.util.find_spec(name) is not None for name in ("uvloop", "gevent")}
        self.missing["echo"] += [f"{name} is not installed" for name, there in self.modules.items() if not there]
        self.valgrind, self.benchmark = shutil.which("valgrind"), shutil.which("redis-benchmark")
        if self.valgrind is None:
            self.missing["tools"].append("valgrind is not on PATH: no instructions are counted")
        if self.benchmark is None:
            self.missing["tools"].append("redis-benchmark is not on PATH: resp and random are not measured")

    def _redis(self, named: str) -> list[Redis]:
        """Return the servers on PATH and those named; the first is the one that the goals are about."""
        found: list[Redis] = []
        for path in ("redis-server", "valkey-server", *filter(None, named.split(":"))):
            program = shutil.which(path)
            if program is None:
                self.missing["redis"].append(f"{Path(path).name} is not {'there' if '/' in path else 'on PATH'}")
                continue
            try:
                server = Redis(redis_name(program), redis(os.path.abspath(program)))
            except (OSError, ValueError, subprocess.CalledProcessError):
                self.missing["redis"].append(f"{Path(path).name} does not run")
                continue
            if server.name not in [other.name for other in found]:
                found.append(server)
        return found

    def echo(self, *, streams: bool = True, keep: bool = False) -> dict[str, Start]:
        """Return evio and those beside it which are there, in the order in which they run."""
        starts = {EVIO: echo("evio", *["--keep"] * keep)}
        if self.modules["uvloop"]:
            starts["uvloop"] = echo("uvloop")
        starts["asyncio"] = echo("asyncio")
        if streams:
            starts["asyncio streams"] = echo("streams")
            if self.modules["gevent"]:
                starts["gevent"] = echo("gevent")
        return starts


def redis_name(path: str) -> str:
    """Return the name and the version that a server says of itself, such as "Redis 7.0.15"."""
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.match(r"(\w+) server v=(\S+)", said)
    if match is None:
        raise ValueError(f"{path} is no Redis")
    return f"{match[1]} {match[2]}"
