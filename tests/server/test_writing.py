"""Writing: partial writes, slow readers, back-pressure, and the options of the sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from harness import (
    connect,
    descriptors,
    echo,
    eventually,
    exchange,
    free_port,
    listener,
    live,
    receive,
    receive_all,
)

MIB = 1 << 20
HIGH_WATER = 256 * 1024


def test_client_is_not_read_while_more_than_the_high_water_mark_is_unsent(net: str) -> None:
    pieces: list[bytes] = []

    def handle(id: int, data: bytes, ctx: Any) -> bytes:
        pieces.append(data)
        return bytes(32 * MIB) if data == b"huge" else data

    with live(net, handle) as server:
        client, other = server.connect(), server.connect()
        client.sendall(b"huge")
        assert receive(client, 1) == b"\0"
        client.sendall(b"more")
        # Were it read, it would be so within these turns of the loop.
        for number in range(20):
            exchange(other, b"%04d" % number)
        assert b"more" not in pieces
        assert receive(client, 32 * MIB + 3) == bytes(32 * MIB - 1) + b"more"


def test_client_below_the_high_water_mark_is_read(unix: str) -> None:
    pieces: list[bytes] = []
    greeting = bytes(HIGH_WATER // 2)
    # While nobody reads, a unix socket takes no more than its small send buffer: the rest is unsent.
    with (
        listener(unix, sndbuf=4096) as sock,
        live(unix, lambda id, data, ctx: pieces.append(data), lambda *args: greeting, addr=sock) as server,
    ):
        client = server.connect()
        client.sendall(b"more")
        server.wait(lambda: pieces == [b"more"])
        assert receive(client, len(greeting)) == greeting


def stays(value: Callable[[], object]) -> bool:
    """Tell whether nothing changes for a while."""
    before = value()
    time.sleep(0.3)
    return value() == before


def test_client_that_sends_and_does_not_read_is_stopped_by_itself(net: str) -> None:
    stream, received = os.urandom(MIB + 1) * 64, 0

    def handle(id: int, data: bytes, ctx: Any) -> bytes:
        nonlocal received
        received += len(data) if id == 1 else 0
        return data

    with live(net, handle) as server, ThreadPoolExecutor(1) as pool:
        client, other = server.connect(), server.connect()
        sending = pool.submit(client.sendall, stream)
        server.wait(lambda: received)
        eventually(lambda: stays(lambda: received))
        assert not sending.done()
        assert received < len(stream) - HIGH_WATER
        assert exchange(other, b"hello") == b"hello"
        assert receive(client, len(stream)) == stream
        sending.result()


def test_reading_pauses_and_resumes_over_and_over(net: str) -> None:
    stream = os.urandom(MIB + 1) * 32
    with live(net, echo) as server, ThreadPoolExecutor(1) as pool:
        client = server.connect()
        sending = pool.submit(client.sendall, stream)
        assert receive(client, len(stream)) == stream
        sending.result()


def test_more_than_max_pending_from_wakes_is_a_buffer_error(net: str) -> None:
    with live(net, echo, max_pending=MIB) as server:
        client, other = server.connect(), server.connect()
        client.sendall(b"x")
        server.wait(lambda: 2 in server.wakes)
        eventually(lambda: not server.wakes[1](bytes(MIB)))
        error = server.wait_closed(1)
        assert type(error) is BufferError
        assert str(error) == "more than max_pending=1048576 bytes are waiting for the peer to read"
        assert server.wakes[1](b"late") is False
        assert exchange(other, b"hello") == b"hello"


def test_more_than_max_pending_from_replies_is_a_buffer_error(net: str) -> None:
    def handle(id: int, data: bytes, ctx: Any) -> bytes:
        return data or bytes(MIB)

    with live(net, handle, max_pending=MIB) as server:
        server.connect()
        other = server.connect()
        server.wait(lambda: 2 in server.wakes)
        eventually(lambda: not server.wakes[1]() or 1 in server.closed)
        assert type(server.wait_closed(1)) is BufferError
        assert exchange(other, b"hello") == b"hello"


@pytest.mark.parametrize("pieces", [1, 64])
def test_one_reply_may_be_of_any_size(net: str, pieces: int) -> None:
    reply = [bytes(32 * MIB // pieces)] * pieces
    with live(net, lambda id, data, ctx: (reply, False), max_pending=1000) as server:
        client = server.connect()
        client.sendall(b"?")
        assert len(receive_all(client)) == 32 * MIB


def test_no_pending_bytes_at_all(net: str) -> None:
    with live(net, echo, max_pending=0) as server, ThreadPoolExecutor(1) as pool:
        client = server.connect()
        stream = os.urandom(4 * MIB)
        sending = pool.submit(client.sendall, stream)
        assert receive(client, len(stream)) == stream
        sending.result()


def test_max_pending_is_not_reached_by_a_client_that_reads(net: str) -> None:
    with live(net, echo, max_pending=MIB) as server:
        client = server.connect()
        server.wait(lambda: server.wakes)
        for number in range(64):
            piece = b"%08d" % number * (MIB // 8)
            assert server.wakes[1](piece)
            assert receive(client, MIB) == piece


@contextlib.contextmanager
def accepted(client: socket.socket) -> Iterator[socket.socket]:
    """Yield the server's end of a client's connection, found among the descriptors of this process."""
    ends = client.getsockname(), client.getpeername()
    for fd in descriptors():
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            continue
        with socket.socket(fileno=os.dup(fd)) as sock, contextlib.suppress(OSError):
            if (sock.getpeername(), sock.getsockname()) == ends:
                yield sock
                return
    raise AssertionError("the connection has no other end here")


@pytest.fixture(params=("address", "socket"))
def serving(request: pytest.FixtureRequest, tcp: str) -> Callable[..., Any]:
    """A server that echoes, with a client of its own, on an address or on a socket of the caller's."""

    @contextlib.contextmanager
    def serve(**options: Any) -> Iterator[socket.socket]:
        port = free_port()
        addr = f"127.0.0.1:{port}" if request.param == "address" else None
        with (
            live(tcp, echo, addr=addr, **options) as server,
            connect(("127.0.0.1", port)) if addr else server.connect() as client,
        ):
            exchange(client, b"x")
            with accepted(client) as sock:
                yield sock

    return serve


@pytest.mark.parametrize("nodelay", [True, False])
def test_nodelay_is_set_where_asked_for(serving: Callable[..., Any], nodelay: bool) -> None:
    with serving(nodelay=nodelay) as sock:
        assert bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) is nodelay


@pytest.mark.parametrize("keepalive", [1, 300, 32767, 0, None])
def test_keepalive_is_set_in_seconds(serving: Callable[..., Any], keepalive: int | None) -> None:
    with serving(keepalive=keepalive) as sock:
        assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) is bool(keepalive)
        if keepalive:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == keepalive


def test_nodelay_and_keepalive_are_the_defaults(serving: Callable[..., Any]) -> None:
    with serving() as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 300


def test_a_listener_of_the_callers_keeps_its_options(tcp: str) -> None:
    with listener(tcp) as sock:
        with live(tcp, echo, addr=sock), connect(sock) as client:
            exchange(client, b"x")
        assert not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_accepted_sockets_do_not_block_and_do_not_outlive_exec(net: str) -> None:
    found: list[tuple[bool, bool]] = []
    with live(net, echo) as server:
        before = descriptors()
        client = server.connect()
        exchange(client, b"x")
        for fd in descriptors() - before - {client.fileno()}:
            found.append((os.get_blocking(fd), os.get_inheritable(fd)))
    assert found == [(False, False)]


def test_pipelined_requests_are_answered_in_order(net: str) -> None:
    requests = b"".join(b"%07d\n" % number for number in range(20_000))
    with live(net, echo) as server, ThreadPoolExecutor(1) as pool:
        client = server.connect()
        sending = pool.submit(client.sendall, requests)
        assert receive(client, len(requests)) == requests
        sending.result()
