"""How connections end: half-close, reset, keepopen=False, and the deadlines of the last replies."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from harness import DEADLINE, connect, echo, exchange, listener, live, receive, receive_all, reset

MIB = 1 << 20


def bye(id: int, data: bytes, ctx: Any) -> tuple[bytes, bool]:
    return b"bye", False


def test_everything_before_the_peers_eof_is_answered(net: str) -> None:
    requests = b"".join(b"request %03d\n" % number for number in range(100))
    with live(net, echo) as server:
        for id in range(1, 201):
            client = server.connect()
            for line in requests.splitlines(keepends=True):
                client.sendall(line)
            client.shutdown(socket.SHUT_WR)
            assert receive_all(client) == requests
            assert server.wait_closed(id) is None
            client.close()


def test_data_and_eof_in_one_event(net: str) -> None:
    received: dict[int, bytes] = {}

    def handle(id: int, data: bytes, ctx: Any) -> bytes:
        received[id] = received.get(id, b"") + data
        return data

    sent = os.urandom(100_000)
    with listener(net) as sock:
        clients = [connect(sock) for _ in range(20)]
        for client in clients:  # all of it is there before the server is
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
        with live(net, handle, addr=sock) as server:
            for client in clients:
                assert receive_all(client) == sent
                client.close()
            server.wait(lambda: len(server.closed) == 20)
            assert set(server.closed.values()) == {None}
            assert set(received.values()) == {sent}


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


def test_large_replies_before_a_close_with_unread_input_arrive_whole(net: str) -> None:
    reply, unread = os.urandom(MIB), bytes(200_000)
    with live(net, lambda id, data, ctx: (reply, False)) as server, ThreadPoolExecutor(1) as pool:
        for id in range(1, 21):
            client = server.connect()
            sending = pool.submit(client.sendall, unread)
            assert receive_all(client) == reply
            sending.result()
            client.close()
            assert server.wait_closed(id) is None


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


def test_resets_at_random_points_beside_live_clients(tcp: str) -> None:
    def disturb(seed: int) -> None:
        for number in range(250):
            client = connect(server.addr)
            client.sendall(bytes(1 + (seed * 7919 + number * 104_729) % 50_000))
            if number % 3:
                client.recv(1 + number)
            reset(client)

    with live(tcp, echo) as server:
        live_client = server.connect()
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(disturb, seed) for seed in range(2)]
            number = 0
            while not all(future.done() for future in futures):
                assert exchange(live_client, b"%08d" % number) == b"%08d" % number
                number += 1
            for future in futures:
                future.result()
        server.wait(lambda: len(server.closed) == 500)
        assert {type(err) for err in server.closed.values()} <= {ConnectionResetError, type(None)}
