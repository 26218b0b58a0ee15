"""Starts the examples, and redis-server beside them, as processes of their own."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from harness import free_port

import evio

DEADLINE = 20.0
EXAMPLES = Path(__file__).parents[2] / "examples"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(evio.__file__).parents[1])}


class Running:
    """An example that serves."""

    def __init__(self, process: subprocess.Popen[str], port: int, ready: str, under: Sequence[str] = ()) -> None:
        self.process = process
        self.pid = process.pid  #: the example's own
        self.port = port
        self.output: list[str] = []  #: the lines up to the one that says it serves
        self._lines: queue.Queue[str] = queue.Queue()
        self._stderr: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(process.stdout, self._lines.put)),
            threading.Thread(target=self._read, args=(process.stderr, self._stderr.append)),
        ]
        for reader in self._readers:
            reader.start()
        while not self.output or ready not in self.output[-1]:
            line = self.line()
            if not line:
                raise OSError(self.wait()[1])
            self.output.append(line)
        if under:
            self.pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())

    @staticmethod
    def _read(stream: IO[str], put: object) -> None:
        assert callable(put)
        for line in stream:
            put(line)
        put("")

    def line(self) -> str:
        """Return the next line that it prints."""
        return self._lines.get(timeout=DEADLINE)

    def wait(self) -> tuple[int, str]:
        """Return the exit code and what was written to stderr, once it has ended."""
        code = self.process.wait(DEADLINE)
        for reader in self._readers:
            reader.join(DEADLINE)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code, "".join(self._stderr)

    def kill(self) -> None:
        """End it as a crash would."""
        os.kill(self.pid, signal.SIGKILL)
        assert self.wait() == (-signal.SIGKILL, "")

    def finish(self, code: int) -> None:
        """Assert that it ends well, if it has not ended yet."""
        if self.process.returncode is None:
            os.kill(self.pid, signal.SIGTERM)
            assert self.wait() == (code, "")


@contextlib.contextmanager
def running(
    script: str, engine: str, *args: str, ready: str, code: int = 0, under: Sequence[str] = ()
) -> Iterator[Running]:
    """Run an example while the block runs, on a port that was free.

    Args:
        script: its name in the examples folder.
        engine: "native" or "compat".
        args: its options, without the port.
        ready: what the line says that it prints once it serves.
        code: what it exits with on SIGTERM.
        under: a program that runs it, such as strace, with its options.
    """
    command = [*under, *_python(script), *args]
    if engine == "compat":
        command.append("--compat")
    for attempt in range(5):
        port = free_port()
        # What this process ignores, as one in the background may, an example would ignore too.
        interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        signal.signal(signal.SIGINT, interrupt)
        try:
            server = Running(process, port, ready, under)
            break
        except OSError as error:
            if "in use" not in str(error) or attempt == 4:
                raise
        except BaseException:
            process.kill()
            raise
    try:
        yield server
        server.finish(code)
    finally:
        if process.poll() is None:
            os.kill(server.pid, signal.SIGKILL)
            server.wait()


def run_example(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run an example that is expected to end by itself."""
    return subprocess.run(
        [*_python(script), *args], capture_output=True, text=True, timeout=DEADLINE, check=False, env=ENVIRONMENT
    )


def _python(script: str) -> list[str]:
    return [sys.executable, "-W", "error", "-X", "faulthandler", str(EXAMPLES / script)]


def redis_example(engine: str, *args: str, under: Sequence[str] = ()) -> contextlib.AbstractContextManager[Running]:
    return running("redis_server.py", engine, *args, ready="listening on", under=under)


def tool(name: str) -> str:
    """Return the path of one of Redis' programs, or of strace."""
    path = shutil.which(name)
    assert path is not None, f"{name} is missing; these tests need it: apt-get install redis-server redis-tools strace"
    return path


@contextlib.contextmanager
def real_redis(directory: Path) -> Iterator[int]:
    """Run redis-server while the block runs, and give its port."""
    port = free_port()
    options = ["--port", str(port), "--save", "", "--databases", "1", "--dir", str(directory), "--logfile", ""]
    with subprocess.Popen([tool("redis-server"), *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if "Ready to accept connections" in line:
                    break
            yield port
        finally:
            process.terminate()


def request(*args: bytes | str) -> bytes:
    """Return a request as clients send it."""
    encoded = [arg.encode() if isinstance(arg, str) else arg for arg in args]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in encoded)


def converse(port: int, data: bytes) -> bytes:
    """Send requests of which the last is QUIT; return all that is answered."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
        client.sendall(data)
        while piece := client.recv(65536):
            received += piece
    return bytes(received)
