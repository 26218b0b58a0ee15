"""How connections end: half-close, reset, keepopen=False, and the deadlines of the last replies."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import Any

from harness import DEADLINE, connect, echo, exchange, listener, live, receive, receive_all, reset

MIB = 1 << 20


def bye(id: int, data: bytes, ctx: Any) -> tuple[bytes, bool]:
    return b"bye", False


def test_large_reply_after_the_peers_eof_arrives_whole_however_late_it_is_read(tcp: str) -> None:
    reply = os.urandom(16 * MIB)
    with live(tcp, lambda id, data, ctx: reply, linger=0.1) as server:
        client, other = server.connect(), server.connect()
        client.sendall(b"?")
        client.shutdown(socket.SHUT_WR)
        # The linger deadline is not for this: the peer has not been told that it is over.
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            other.sendall(b"?")
            assert len(receive(other, len(reply))) == len(reply)
        assert 1 not in server.closed
        assert receive_all(client) == reply
        assert server.wait_closed(1) is None


def test_reset_is_a_connection_reset_error(tcp: str) -> None:
    with live(tcp, echo) as server:
        other = server.connect()
        client = server.connect()
        assert exchange(client, b"hello") == b"hello"
        reset(client)
        assert type(server.wait_closed(2)) is ConnectionResetError
        assert exchange(other, b"hello") == b"hello"


def test_peer_that_goes_away_before_its_replies_is_a_connection_reset_error(net: str) -> None:
    with live(net, lambda id, data, ctx: bytes(32 * MIB)) as server:
        client = server.connect()
        client.sendall(b"?")
        assert receive(client, 1) == b"\0"
        client.close()
        error = server.wait_closed(1)
        assert type(error) is ConnectionResetError
        assert str(error) == "[Errno 104] Connection reset by peer"


def test_keepopen_false_sends_first(net: str) -> None:
    with live(net, bye) as server:
        client = server.connect()
        client.sendall(b"hello")
        assert receive_all(client) == b"bye"
        client.close()
        assert server.wait_closed(1) is None


def test_no_handle_after_keepopen_false(net: str) -> None:
    pieces = []

    def handle(id: int, data: bytes, ctx: Any) -> tuple[bytes, bool]:
        pieces.append(data)
        return b"bye", False

    with live(net, handle) as server:
        client = server.connect()
        client.sendall(b"first")
        assert receive(client, 3) == b"bye"
        client.sendall(b"second")
        assert client.recv(1) == b""
        client.close()
        assert server.wait_closed(1) is None
        assert pieces == [b"first"]


def test_accepts_reply_before_a_close_with_unread_input_arrives_whole(net: str) -> None:
    greeting = os.urandom(MIB)
    with listener(net) as sock, connect(sock) as client:
        client.sendall(b"unread" * 10_000)
        with live(net, echo, lambda *args: (greeting, False), addr=sock) as server:
            assert receive_all(client) == greeting
            client.close()
            assert server.wait_closed(1) is None


def test_peer_that_takes_nothing_of_its_last_reply_is_cut(tcp: str) -> None:
    with live(tcp, lambda id, data, ctx: (bytes(64 * MIB), False), linger=0.3) as server:
        client = server.connect()
        client.sendall(b"?")
        started = time.monotonic()
        error = server.wait_closed(1)
        assert type(error) is TimeoutError
        assert str(error) == "the peer took nothing of its last replies for 0.3 seconds"
        assert 0.25 < time.monotonic() - started < 3


def test_peer_that_takes_its_last_reply_slowly_is_not_cut(tcp: str) -> None:
    with live(tcp, lambda id, data, ctx: (bytes(32 * MIB), False), linger=0.5) as server:
        client = server.connect()
        client.sendall(b"?")
        nbytes, started = 0, time.monotonic()
        while time.monotonic() - started < 1.1:
            nbytes += len(receive(client, MIB))  # the pace of a slow peer
            time.sleep(0.1)
        assert nbytes + len(receive_all(client)) == 32 * MIB
        client.close()
        assert server.wait_closed(1) is None


def test_peer_slower_than_the_poller_tells_is_not_cut(tcp: str) -> None:
    # The kernel reports room for more once a third of its buffer is free, which takes this peer
    # several times `linger`.
    with live(tcp, lambda id, data, ctx: (bytes(12_000_000), False), linger=0.2) as server:
        client = server.connect()
        client.sendall(b"?")
        nbytes, started = 0, time.monotonic()
        while time.monotonic() - started < 1:
            nbytes += len(receive(client, 50_000))  # the pace of a slow peer
            time.sleep(0.05)
        assert nbytes + len(receive_all(client)) == 12_000_000
        client.close()
        assert server.wait_closed(1) is None


def test_idle_timeout_gives_way_to_linger(net: str) -> None:
    with live(net, lambda id, data, ctx: (bytes(32 * MIB), False), idle_timeout=0.2, linger=0.6) as server:
        client = server.connect()
        client.sendall(b"?")
        assert receive(client, 1) == b"\0"
        started = time.monotonic()
        assert "last replies" in str(server.wait_closed(1))
        assert time.monotonic() - started > 0.4


def test_peer_that_keeps_sending_after_its_last_reply_is_cut(tcp: str) -> None:
    with live(tcp, bye, linger=0.3) as server:
        client = server.connect()
        client.sendall(b"hello")
        assert receive_all(client) == b"bye"
        started = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - started < DEADLINE:
                client.sendall(b"more")
        assert server.wait_closed(1) is None
        assert 0.2 < time.monotonic() - started < 3


def test_peer_that_stays_silent_after_its_last_reply_is_cut(tcp: str) -> None:
    with live(tcp, bye, linger=0.3) as server:
        client = server.connect()
        client.sendall(b"hello")
        assert receive_all(client) == b"bye"
        started = time.monotonic()
        assert server.wait_closed(1) is None
        assert 0.2 < time.monotonic() - started < 3


def test_reset_after_the_last_reply_is_no_error(tcp: str) -> None:
    with live(tcp, bye) as server:
        client = server.connect()
        client.sendall(b"hello")
        assert receive_all(client) == b"bye"
        reset(client)
        assert server.wait_closed(1) is None


def test_no_linger_at_all(net: str) -> None:
    with live(net, bye, linger=0) as server:
        client = server.connect()
        client.sendall(b"hello")
        assert receive_all(client) == b"bye"
        assert server.wait_closed(1) is None
