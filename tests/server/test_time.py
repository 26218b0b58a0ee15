"""Time: the ticker, idle connections, stopping, and a loop that sleeps when there is nothing to do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from harness import connect, echo, exchange, listener, live, receive, receive_all

import evio

MIB = 1 << 20


class NotABool:
    def __bool__(self) -> bool:
        raise ZeroDivisionError


def test_ticker_runs_once_before_the_first_accept(net: str) -> None:
    calls = []
    with listener(net) as sock, connect(sock) as client:
        client.sendall(b"x")
        with live(
            net, echo, lambda *args: calls.append("accept"), ticker=lambda ctx: calls.append("ticker"), addr=sock
        ):
            assert client.recv(1) == b"x"
    assert calls[:2] == ["ticker", "accept"]


def test_ticker_that_returns_false_at_once(net: str) -> None:
    with listener(net) as sock, connect(sock), live(net, ticker=lambda ctx: False, addr=sock) as server:
        assert server.join() is None
        assert server.ticks == 1
        assert not server.accepted


@pytest.mark.parametrize("traffic", ["read", "written", "woken"])
def test_ticker_runs_60_times_a_second_while_there_is_traffic(tcp: str, traffic: str) -> None:
    with live(tcp, echo if traffic == "read" else lambda *args: None) as server:
        client = server.connect()
        server.wait(lambda: server.wakes)
        actions: dict[str, Callable[[], object]] = {
            "read": lambda: exchange(client, b"x"),
            "written": lambda: (server.wakes[1](b"x"), receive(client, 1)),
            "woken": server.wakes[1],
        }
        actions[traffic]()
        server.wait(lambda: server.ticks > 2)
        first, started = server.ticks, time.monotonic()
        while time.monotonic() < started + 0.7:
            actions[traffic]()
            time.sleep(0.05)
        rate = (server.ticks - first) / (time.monotonic() - started)
        assert 48 <= rate <= 62


def test_ticker_runs_60_times_a_second_under_full_load(tcp: str) -> None:
    with live(tcp, echo) as server:
        client = server.connect()
        exchange(client, b"x")
        first, started = server.ticks, time.monotonic()
        while time.monotonic() < started + 0.7:
            exchange(client, b"x")
        rate = (server.ticks - first) / (time.monotonic() - started)
        assert 40 <= rate <= 62


def test_ticker_runs_once_a_second_while_nothing_happens(tcp: str) -> None:
    times: list[float] = []
    with live(tcp, echo, ticker=lambda ctx: times.append(time.monotonic())) as server:
        exchange(server.connect(), b"x")
        quiet = time.monotonic() + 1.1
        server.wait(lambda: times[-1] > quiet)
        assert 0.9 < times[-1] - times[-2] < 1.5


def test_ticker_wakes_up_with_the_traffic(tcp: str) -> None:
    with live(tcp, echo) as server:
        server.wait(lambda: server.ticks == 2)  # a second has passed with nothing to do
        client = server.connect()
        started = time.monotonic()
        exchange(client, b"x")
        ticks = server.ticks
        server.wait(lambda: server.ticks > ticks + 3)
        assert time.monotonic() - started < 0.8


@pytest.mark.parametrize("reply", [None, True])
def test_ticker_goes_on_after(tcp: str, reply: bool | None) -> None:
    with live(tcp, echo, ticker=lambda ctx: reply) as server:
        exchange(server.connect(), b"x")
        server.wait(lambda: server.ticks > 5)


@pytest.mark.parametrize(
    ("reply", "kind"), [(0, "int"), ("", "str"), ((b"", False), "tuple"), (NotABool(), "NotABool")]
)
def test_ticker_that_returns_anything_else_is_a_type_error(tcp: str, reply: Any, kind: str) -> None:
    asked: list[int] = []
    with live(tcp, lambda id, data, ctx: asked.append(id), ticker=lambda ctx: reply if asked else None) as server:
        client = server.connect()
        client.sendall(b"x")
        error = server.join()
        assert type(error) is TypeError
        assert str(error) == f"ticker() returned {kind}; allowed: True or None to go on, False to stop"
        assert server.closed == {1: None}
        assert client.recv(1) == b""


def test_loop_sleeps_while_nothing_happens(tcp: str) -> None:
    def handle(id: int, data: bytes, ctx: Any) -> bytes:
        if data == b"stop":
            raise SystemExit
        return data

    with live(tcp, handle, ticker=None, idle_timeout=100, max_conns=200) as server:
        clients = [server.connect() for _ in range(100)]
        for client in clients:
            exchange(client, b"x")
        used = time.process_time()
        time.sleep(1)  # what is measured
        assert time.process_time() - used < 0.05
        clients[0].sendall(b"stop")
        assert isinstance(server.join(), SystemExit)


@pytest.mark.parametrize("state", ["stalled", "half-closed", "draining", "full"])
def test_loop_sleeps_beside(tcp: str, state: str) -> None:
    """It never wakes without a reason, whatever its clients have left lying about."""

    def handle(id: int, data: bytes, ctx: Any) -> Any:
        return (b"bye", False) if state == "draining" else data if data == b"x" else bytes(64 * MIB)

    with live(tcp, handle, linger=30, max_conns=2 if state == "full" else None) as server:
        client, other = server.connect(), server.connect()
        if state == "draining":
            client.sendall(b"x")
            assert receive_all(client) == b"bye"
        else:
            exchange(other, b"x")
            client.sendall(b"huge")
            assert receive(client, 1) == b"\0"
            client.sendall(b"unread")
        if state == "half-closed":
            client.shutdown(1)
        if state == "full":
            server.connect()
        server.wait(lambda: 2 in server.accepted)
        time.sleep(0.1)  # let it come to rest
        used = time.process_time()
        time.sleep(0.3)  # what is measured: 18 ticks
        assert time.process_time() - used < 0.06


def test_idle_connection_is_a_timeout_error(tcp: str) -> None:
    with live(tcp, echo, idle_timeout=0.4) as server:
        started = time.monotonic()
        client = server.connect()
        error = server.wait_closed(1)
        assert type(error) is TimeoutError
        assert str(error) == "no byte in either direction for 0.4 seconds"
        assert 0.35 < time.monotonic() - started < 3
        assert client.recv(1) == b""


@pytest.mark.parametrize("direction", ["in", "out"])
def test_idle_timeout_is_renewed_by_every_byte(tcp: str, direction: str) -> None:
    with live(tcp, idle_timeout=0.4) as server:
        client = server.connect()
        server.wait(lambda: server.wakes)
        for _ in range(7):
            if direction == "in":
                client.sendall(b"x")
            else:
                assert server.wakes[1](b"x")
                assert client.recv(1) == b"x"
            time.sleep(0.1)
        assert not server.closed
        assert isinstance(server.wait_closed(1), TimeoutError)


def test_idle_timeout_of_a_peer_that_reads_nothing(tcp: str) -> None:
    with live(tcp, lambda id, data, ctx: bytes(64 * MIB), idle_timeout=0.4) as server:
        client = server.connect()
        client.sendall(b"x")
        client.shutdown(1)
        assert isinstance(server.wait_closed(1), TimeoutError)


def test_wakes_without_bytes_do_not_renew_the_idle_timeout(tcp: str) -> None:
    with live(tcp, idle_timeout=0.4) as server:
        server.connect()
        server.wait(lambda: server.wakes)
        started = time.monotonic()
        while server.wakes[1]():
            time.sleep(0.02)
            assert time.monotonic() - started < 5
        assert isinstance(server.wait_closed(1), TimeoutError)


@pytest.mark.threads
def test_stop_closes_every_connection_with_none(net: str) -> None:
    with live(net, echo) as server:
        clients = [server.connect() for _ in range(20)]
        for client in clients:
            exchange(client, b"x")
        server.stop()
        assert server.join() is None
        assert server.closed == dict.fromkeys(range(1, 21))
        for client in clients:
            assert client.recv(1) == b""


def test_stop_does_not_wait_where_nothing_is_left_to_do(net: str) -> None:
    with live(net, echo, linger=30) as server:
        clients = [server.connect() for _ in range(5)]
        for client in clients:
            exchange(client, b"x")
        started = time.monotonic()
        server.stop()
        server.join()
        assert time.monotonic() - started < 5


@pytest.mark.threads
def test_stop_flushes_what_is_pending(net: str) -> None:
    reply = os.urandom(16 * MIB)
    with live(net, lambda id, data, ctx: reply) as server, ThreadPoolExecutor(3) as pool:
        clients = [server.connect() for _ in range(3)]
        for client in clients:
            client.sendall(b"?")
            assert receive(client, 1) == reply[:1]
        server.stop()
        for received in pool.map(receive_all, clients):
            assert received == reply[1:]
        assert server.join() is None
        assert server.closed == {1: None, 2: None, 3: None}


@pytest.mark.threads
def test_stop_sends_what_wakes_have_queued(net: str) -> None:
    def ticker(ctx: Any) -> bool | None:
        if not server_wakes:
            return None
        assert server_wakes[0](b"last ")
        assert server_wakes[0]()
        return False

    server_wakes: list[evio.Wake] = []

    def accept(id: int, addr: str, wake: evio.Wake, ctx: Any) -> None:
        server_wakes.append(wake)

    with live(net, lambda id, data, ctx: None if data else b"words", accept, ticker=ticker) as server:
        client = server.connect()
        client.sendall(b"x")
        assert receive_all(client) == b"last words"
        assert server.join() is None


def test_stop_waits_for_a_peer_that_reads_nothing_no_longer_than_linger(tcp: str) -> None:
    with live(tcp, lambda id, data, ctx: bytes(64 * MIB), linger=0.5) as server:
        client = server.connect()
        client.sendall(b"?")
        assert receive(client, 1) == b"\0"
        started = time.monotonic()
        server.stop()
        assert server.join() is None
        assert 0.4 < time.monotonic() - started < 4
        assert server.closed == {1: None}


def test_replies_arrive_whole_though_serve_stops_with_unread_input(net: str) -> None:
    reply = os.urandom(4 * MIB)

    def handle(id: int, data: bytes, ctx: Any) -> bytes:
        server.stop()
        return reply

    with live(net, handle) as server, ThreadPoolExecutor(1) as pool:
        client = server.connect()
        sending = pool.submit(client.sendall, bytes(300_000))
        received = receive_all(client)
        assert received == reply * (len(received) // len(reply))
        assert received
        sending.result()
        client.close()
        assert server.join() is None


@pytest.mark.threads
def test_serves_again_in_the_same_thread(net: str) -> None:
    closed: list[int] = []

    def once(ctx: Any) -> bool:
        return not closed

    with listener(net) as sock:
        for _ in range(3):
            closed.clear()
            with connect(sock) as client:
                client.sendall(b"hello")
                evio.serve(
                    net,
                    sock,
                    lambda id, data, ctx: (data, False),
                    None,
                    lambda id, *args: closed.append(id),
                    once,
                    linger=0,
                )
                assert receive(client, 5) == b"hello"
                assert closed == [1]
