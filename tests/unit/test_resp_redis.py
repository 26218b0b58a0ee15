"""The decoders' verdicts are those of a live redis-server, byte for byte."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.codecs import CODECS, Codec, cut, in_pieces, shown
from unit.test_resp import CASES, COMMANDS, LINES, MAX_LINE, RUNS, decode

from evio import resp

SECONDS = 30.0


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


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    """A redis-server that keeps nothing, on a unix socket, which no other server can have taken."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.fail("these tests compare with a live redis-server, and there is none: apt-get install redis-server")
    # Not tmp_path, which can be longer than a unix socket's path may be.
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        path = Path(folder, "socket")
        options = ["--port", "0", "--unixsocket", str(path), "--dir", folder, "--save", "", "--appendonly", "no"]
        with subprocess.Popen([program, *options], stdout=subprocess.PIPE, text=True) as server:
            deadline = threading.Timer(SECONDS, server.kill)
            deadline.start()
            try:
                assert server.stdout is not None
                log = ""
                while "ready to accept connections" not in log:
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


@pytest.mark.parametrize("data", [data for data, _, _ in CASES], ids=shown)
def test_verdict_is_that_of_redis(redis: Redis, data: bytes) -> None:
    assert redis.replies([data]) == answered([data])


@pytest.mark.parametrize("data", [data for data, _, _ in CASES if len(data) <= 200], ids=shown)
def test_verdict_is_that_of_redis_one_byte_at_a_time(redis: Redis, data: bytes) -> None:
    assert redis.replies(in_pieces(data, 1)) == answered([data])


@pytest.mark.parametrize("nul", [b"", b"\0"])
@pytest.mark.parametrize(("before", "begin", "end", "verdict", "too_big"), LINES)
def test_limit_of_a_line_is_that_of_redis(
    redis: Redis, before: bytes, begin: bytes, end: bytes, verdict: bytes | None, too_big: bytes, nul: bytes
) -> None:
    # redis looks once per read, and forgives a line that is too big where its end is in the same read.
    # The decoder's verdict, which no cut changes, is that of a redis that reads single bytes at the limit.
    longest = [*in_pieces(before + begin + nul + b"x" * (MAX_LINE - 1 - len(begin + nul)), 16384), b"x"]
    assert sum(len(piece) for piece in longest) == len(before) + MAX_LINE
    for rest in ([], [end[:1]], [end], [b"x"], [b"x", end]):
        pieces = [*longest, *rest]
        assert redis.replies(pieces) == answered(pieces)
    assert answered(pieces).endswith(b"-ERR Protocol error: " + too_big + b"\r\n")


@settings(deadline=None, max_examples=500)
@given(st.lists(st.sampled_from([*(bytes([byte]) for byte in b"*$-0123\r\n \t\v\0\"'\\xaf\xff"), b"\r\n"])), st.data())
def test_noise_is_read_as_redis_reads_it(redis: Redis, tokens: list[bytes], draw: st.DataObject) -> None:
    _compare(redis, b"".join(tokens), draw)


@settings(deadline=None, max_examples=500)
@given(st.lists(st.sampled_from([b"*1\r\n", b"*2\r\n", b"$1\r\n", b"$2\r\n", *b"*$-1\r\n\0x"]), max_size=20), st.data())
def test_headers_are_read_as_redis_reads_them(redis: Redis, tokens: list[bytes | int], draw: st.DataObject) -> None:
    _compare(redis, b"*2\r\n" + b"".join(bytes([t]) if isinstance(t, int) else t for t in tokens), draw)


@settings(deadline=None, max_examples=500)
@given(st.lists(st.sampled_from([*b" \t\v\f\r\"'\\xnrtbaqf40\xa0"]), max_size=40).map(bytes), st.data())
def test_quotes_are_read_as_redis_reads_them(redis: Redis, line: bytes, draw: st.DataObject) -> None:
    _compare(redis, b"EVAL 'return ARGV' 0 " + line + b"\r\n", draw)


def _compare(redis: Redis, data: bytes, draw: st.DataObject) -> None:
    pieces = cut(data, *draw.draw(st.lists(st.integers(0, len(data)), max_size=3)))
    assert redis.replies(pieces) == answered(pieces)
