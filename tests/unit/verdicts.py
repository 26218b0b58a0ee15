"""What the decoders find in a stream of Redis requests, and what a redis-server of the tests' own says to it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from server.redis_support import tool
from unit import twins
from unit.twins import CODECS, Codec, flat

from evio import resp
from evio._frames import Framing

Requests = list[list[bytes]]

COMMANDS = resp.Commands()
#: Taken apart again, its messages are those of COMMANDS: no name is known, so each comes as it was spelt.
RUNS = resp.Runs([])

SECONDS = 30.0


def decode(codec: Codec, pieces: Iterable[bytes], frame: Framing[Any] = COMMANDS) -> tuple[Requests, bytes | None]:
    """Return the requests in a stream and what a bad one is answered, checking that nothing comes after that."""
    messages, error = twins.decode(codec.decoder(frame), pieces)
    return flat(messages) if isinstance(frame, resp.Runs) else messages, None if error is None else error.reply


class Redis:
    """A redis-server of the tests' own."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._other = self._connect()

    def _connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(SECONDS)
        client.connect(self._path)
        return client

    def close(self) -> None:
        self._other.close()

    def replies(self, pieces: Iterable[bytes]) -> bytes:
        """Return all that redis answers to a stream that it reads in these pieces, of 16 KiB at most."""
        with self._connect() as client:
            for piece in pieces:
                if piece:
                    with contextlib.suppress(BrokenPipeError):  # it has answered an error and closed
                        client.sendall(piece)
                    self._wait_until_read()
            client.shutdown(socket.SHUT_WR)
            received = b""
            while data := _receive(client):
                received += data
            return received

    def _wait_until_read(self) -> None:
        # One thread reads in the order in which data came, and replies after that: when this is
        # answered, what was sent before it has been read.
        self._other.sendall(b"PING\r\n")
        answer = b""
        while not answer.endswith(b"\r\n"):
            answer += self._other.recv(64)
        assert answer == b"+PONG\r\n"


def _receive(client: socket.socket) -> bytes:
    try:
        return client.recv(65536)
    except ConnectionResetError:  # closed with input unread, but not before its replies were read
        return b""


@contextlib.contextmanager
def redis_server() -> Iterator[Redis]:
    """A redis-server that keeps nothing, on a unix socket, which no other server can have taken."""
    # Not a test's own folder, whose path can be longer than a unix socket's may be.
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        path = Path(folder, "socket")
        options = ["--port", "0", "--unixsocket", str(path), "--dir", folder, "--save", "", "--appendonly", "no"]
        with subprocess.Popen([tool("redis-server"), *options], stdout=subprocess.PIPE, text=True) as server:
            deadline = threading.Timer(SECONDS, server.kill)
            deadline.start()
            try:
                assert server.stdout is not None
                log = ""
                while "ready to accept connections" not in log.lower():
                    line = server.stdout.readline()
                    log += line
                    assert line, f"redis-server has not started:\n{log}"
                deadline.cancel()
                client = Redis(str(path))
                yield client
                client.close()
            finally:
                deadline.cancel()
                server.kill()


def answered(pieces: Iterable[bytes]) -> bytes:
    """Return what redis answers to a stream if it is what all decoders find in it, also as runs."""
    pieces = [*pieces]
    verdicts = [decode(Codec(name), pieces, frame) for name in CODECS for frame in (COMMANDS, RUNS)]
    assert all(verdict == verdicts[0] for verdict in verdicts)
    requests, reply = verdicts[0]
    return b"".join(answer(*args) for args in requests) + (reply or b"")


def answer(name: bytes, *args: bytes) -> bytes:
    match name.upper(), args:
        case b"PING", ():
            return resp.simple("PONG")
        case b"ECHO", (text,):
            return resp.bulk(text)
        case b"EVAL", (_, _, *rest):
            return resp.array([resp.bulk(arg) for arg in rest])
        case b"PING", (text,):
            return resp.bulk(text)
        case b"PING" | b"ECHO" | b"EVAL", _:
            return resp.error(b"ERR wrong number of arguments for '%b' command" % name.lower())
    # As redis prints them: each up to a NUL, and 128 bytes in all.
    quoted = b""
    for arg in args:
        if len(quoted) >= 128:
            break
        quoted += b"'%b' " % arg.split(b"\0")[0][: 128 - len(quoted)]
    name = name.split(b"\0")[0][:128]
    # Not resp.error: redis keeps a \r or \n in its text as a space at the end too.
    text = b"ERR unknown command '%b', with args beginning with: %b" % (name, quoted)
    return b"-%b\r\n" % text.replace(b"\r", b" ").replace(b"\n", b" ")
