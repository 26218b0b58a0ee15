"""Situations 27 to 30: what arrives as Redis requests.

29, fuzzing, is a program of its own: `make fuzz`, with FUZZ_SECONDS=600 for the heavy load.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from harness import connect, live, receive, receive_all
from server.redis_support import redis_example, request
from unit.twins import MIB, Codec, cut, every_cut, flat, in_pieces
from unit.verdicts import COMMANDS, RUNS, answer, answered, decode, redis_server

from evio import resp

from .situation import Run, situation
from .tools import cpu, descriptor_limit, resident

PING = request("PING")
ONE_READ = 16384  # redis reads no more at once


# Streams


def _request(numbers: random.Random) -> bytes:
    blob = bytes(numbers.choices(b"a\0\r\n*$1\xff ", k=numbers.choice([0, 1, 2, 10, 100, 1000])))
    returned = numbers.choices([blob, b"", b"a", b"$1\r\n"], k=numbers.randrange(20))
    return numbers.choice(
        [
            request("PING"),
            request("ECHO", blob),
            request("EVAL", "return ARGV", "0", *returned),
            request(b"x" + blob[:200], blob, *[b"v" * numbers.randrange(80)] * numbers.randrange(4)),
            b"*%d\r\n" % numbers.choice([0, -1, -10, -(2**40)]),
            b"*1\rX$4\rYPINGZZ",
        ]
    )


def _inline(numbers: random.Random) -> bytes:
    words = [b"a", b"''", b'""', b"'b c'", rb'"\x41\n\q"', rb"'\''", b"\x80\xff", b"\v", b"d\fe"]
    args = [numbers.choice([b" ", b"\t", b" \r "]) + numbers.choice(words) for _ in range(numbers.randrange(9))]
    line = numbers.choice([b"PING", b"  PING ", b"", b"\t", b"EVAL 'return ARGV' 0" + b"".join(args)])
    return line + numbers.choice([b"\n", b"\r\n"])


def _noise(numbers: random.Random) -> bytes:
    tokens = [*(bytes([byte]) for byte in b"*$-0123\r\n \t\v\0\"'\\xaf\xff"), b"\r\n", b"*1\r\n", b"*2\r\n", b"$1\r\n"]
    return b"".join(numbers.choices(tokens, k=numbers.randint(1, 30)))


def _header(numbers: random.Random) -> bytes:
    random_number = bytes(numbers.choices(b"0123456789-+ ax", k=numbers.choice([0, 1, 2, 10, 19])))
    usual = [b"-0", b"-01", b"01", b"+1", b" 1", b"-1", b"2147483648", b"536870913", b"9223372036854775808"]
    number = numbers.choice([random_number, numbers.choice(usual)])
    return numbers.choice([b"*%b\r\n", b"*1\r\n$%b\r\n", b"*2\r\n$4\r\nECHO\r\n%b\r\n"]) % number


def _quotes(numbers: random.Random) -> bytes:
    args = bytes(numbers.choices(b" \t\v\f\r\"'\\xnrtbaqf40\xa0", k=numbers.randrange(40)))
    return b"EVAL 'return ARGV' 0 " + args + b"\r\n"


def stream(numbers: random.Random, most: int = 12) -> bytes:
    """Return a pipeline: some requests as redis takes them, then often something that it may not."""
    parts = [numbers.choice([_request, _request, _inline])(numbers) for _ in range(numbers.randrange(most))]
    if numbers.random() < 0.02:  # larger than what redis puts behind what it has read
        parts.append(request("ECHO", b"v" * numbers.randrange(ONE_READ, 40_000)))
    if numbers.random() < 0.6:
        parts.append(numbers.choice([_noise, _header, _quotes])(numbers))
        parts += [_request(numbers) for _ in range(numbers.randrange(3))]
    data = b"".join(parts)
    return data[: numbers.randrange(len(data) + 1)] if numbers.random() < 0.2 else data


def _cut_at_random(numbers: random.Random, data: bytes, most: int) -> list[bytes]:
    return cut(data, *(numbers.randrange(len(data) + 1) for _ in range(numbers.randint(0, most))))


# The situations


@situation(27, "verdicts equal to a live redis-server's", light={"pipelines": 250}, heavy={"pipelines": 20_000})
def verdicts(run: Run, pipelines: int) -> str:
    """Whatever is sent in whatever pieces: the server, and each decoder, answers as redis does to the byte."""

    def handle(id: int, runs: list[resp.Run], ctx: Any) -> list[bytes]:
        return [answer(*args) for args in flat(runs)]

    nbytes = refused = 0
    with redis_server() as redis, live(run.net("unix"), handle, frame=RUNS) as server:
        for done in range(pipelines):
            data = stream(run.random)
            pieces = [part for piece in _cut_at_random(run.random, data, 3) for part in in_pieces(piece, ONE_READ)]
            expected = redis.replies(pieces)
            assert answered(pieces) == expected, (pieces, expected)
            with connect(server.addr) as client:
                for piece in pieces:
                    client.sendall(piece)
                client.shutdown(socket.SHUT_WR)
                assert receive_all(client) == expected, (pieces, expected)
            nbytes += len(data)
            refused += b"-ERR Protocol error" in expected
            run.progress(done, pipelines)
    assert pipelines // 10 < refused < pipelines // 2, f"{refused} of {pipelines} were refused"
    return f"{nbytes:,} bytes; {refused:,} pipelines refused"


@situation(
    28,
    "split points",
    light={"streams": 6, "nbytes": 60, "long": 10_000, "cuts": 10},
    heavy={"streams": 5, "nbytes": 300, "long": 200_000, "cuts": 20},
)
def split_points(run: Run, streams: int, nbytes: int, long: int, cuts: int) -> str:
    """However a stream is cut: what is found is what the decoder in Python finds in it in one piece."""
    codec = Codec("C" if run.engine == "native" else "Python")
    tried = 0

    def check(data: bytes, cuts: Iterable[list[bytes]]) -> None:
        nonlocal tried
        verdict = decode(Codec("Python"), [data])
        for pieces in cuts:
            for frame in (COMMANDS, RUNS):
                assert decode(codec, pieces, frame) == verdict, (frame, pieces)
            tried += 1

    for done in range(streams):
        data = b""
        while len(data) < nbytes // 2:
            part = stream(run.random, 3)
            data += part if len(data + part) <= nbytes else b""
        if run.random.random() < 0.7:  # where a stream ends, nothing more may be waited for
            data += PING
        check(data, every_cut(data))
        run.progress(done, streams)
        buffer = bytearray()
        while len(buffer) < long:
            buffer += run.random.choice([_request, _inline])(run.random)
        data = bytes(buffer) + stream(run.random)
        check(data, [in_pieces(data, 1), *(_cut_at_random(run.random, data, 100) for _ in range(cuts))])
    return f"{tried:,} ways to cut"


#: What claims more than comes.
CLAIMS = (
    b"*2147483647\r\n",
    b"*2147483647\r\n$4\r\nMSET\r\n",
    b"*1\r\n$536870912\r\n",
    b"*2\r\n$4\r\nECHO\r\n$536870912\r\nv",
)


@situation(30, "lengths that are only claimed", light={"connections": 100}, heavy={"connections": 1000})
def claimed_lengths(run: Run, connections: int) -> str:
    """A connection costs at most 64 KiB, whatever it says that will come."""
    most = 64 * 1024
    measures: list[tuple[str, Callable[[int], int]]] = [("resident", resident), ("address space", _address_space)]
    figures = []
    with descriptor_limit(connections + 100):
        for claim in CLAIMS:
            with redis_example(run.engine) as server:
                before = [measure(server.pid) for _, measure in measures]
                clients = [connect(("127.0.0.1", server.port)) for _ in range(connections)]
                for done, client in enumerate(clients):
                    client.sendall(b"PING\r\n" + claim)
                    assert receive(client, 7) == b"+PONG\r\n"  # so the claim has been read too
                    run.progress(CLAIMS.index(claim) + done / connections, len(CLAIMS))
                for (name, measure), nbytes in zip(measures, before, strict=True):
                    each = (measure(server.pid) - nbytes) / connections
                    assert each <= most, f"{claim!r}: {each:,.0f} bytes of {name} each"
                    figures.append(each)
                for client in clients:
                    client.close()
    return f"{max(figures) / 1024:.1f} KiB each at most"


def _address_space(pid: int) -> int:
    """Return the bytes that a process has asked for, also those that it has not touched."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")


def _peak(pid: int) -> int:
    """Return the most bytes of memory that a process has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


@situation(30, "a large value in small reads", light={"mib": 12}, heavy={"mib": 64})
def large_value(run: Run, mib: int) -> str:
    """Time is linear in the bytes received, memory follows them."""
    size, quarter = mib * MIB, mib * MIB // 4
    piece = bytes(1024)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/socket"
        with redis_example(run.engine, "--unix", path) as server, connect(path) as client:
            # Very little can wait in the socket, so the server reads about as much at once as is sent at once.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            spare, times = _peak(server.pid), [cpu(server.pid)]
            client.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$%d\r\n" % size)
            for sent in range(0, size, len(piece)):
                if sent in (quarter, 2 * quarter, 3 * quarter):
                    times.append(cpu(server.pid))
                    peak = _peak(server.pid) - spare
                    assert peak < 3.5 * sent + 2 * MIB, f"{peak:,} bytes of memory for {sent:,} received"
                client.sendall(piece)
                run.progress(sent, size)
            client.sendall(b"\r\n")
            assert receive(client, 5) == b"+OK\r\n"
            times.append(cpu(server.pid))
            peak = _peak(server.pid) - spare
            assert peak < 3.5 * size + 2 * MIB, f"{peak:,} bytes of memory for {size:,} received"
            client.sendall(request("STRLEN", "a"))
            assert receive(client, 11) == b":%d\r\n" % size
    seconds = [after - before for before, after in itertools.pairwise(times)]
    assert seconds[3] < 4 * seconds[0] + 0.2, f"the quarters took {seconds} seconds of CPU"
    return (
        f"quarters took {', '.join(f'{one:.2f}' for one in seconds)} s of CPU; peak {peak / size:.2f} times the value"
    )
