"""One entry point, four events: when each is called, and with what."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest
from harness import connect, echo, exchange, listener, live, reset

import evio


def test_each_event_is_given_its_arguments_and_the_very_ctx(net: str) -> None:
    ctx, calls = object(), list[tuple[Any, ...]]()

    def accept(id: int, addr: str, wake: evio.Wake, ctx: object) -> None:
        calls.append(("accept", id, type(addr), isinstance(wake, evio.Wake), wake.id, ctx))

    def handle(id: int, data: bytes, ctx: object) -> bytes:
        calls.append(("handle", id, data, ctx))
        return data

    def closed(id: int, err: BaseException | None, ctx: object) -> None:
        calls.append(("closed", id, err, ctx))

    def ticker(ctx: object) -> None:
        if not calls:
            calls.append(("ticker", ctx))

    with live(net, handle, accept, closed, ticker, ctx) as server:
        client = server.connect()
        assert exchange(client, b"hello") == b"hello"
        client.close()
        server.wait_closed(1)
    assert calls == [
        ("ticker", ctx),
        ("accept", 1, str, True, 1, ctx),
        ("handle", 1, b"hello", ctx),
        ("closed", 1, None, ctx),
    ]


def test_ids_count_upward_from_1_and_are_not_used_again(net: str) -> None:
    with live(net, echo) as server:
        for id in range(1, 51):
            client = server.connect()
            assert exchange(client, b"x") == b"x"
            client.close()
            server.wait_closed(id)
        assert list(server.accepted) == list(range(1, 51))


def test_data_is_immutable_bytes_in_order(net: str) -> None:
    stream, received, types = random.Random(2).randbytes(5_000_000), bytearray(), set()

    def handle(id: int, data: bytes, ctx: object) -> None:
        types.add(type(data))
        assert data
        received.extend(data)

    with live(net, handle) as server:
        client = server.connect()
        client.sendall(stream)
        client.close()
        assert server.wait_closed(1) is None
    assert types == {bytes}
    assert hashlib.sha256(received).digest() == hashlib.sha256(stream).digest()


def test_data_that_is_kept_does_not_change(net: str) -> None:
    kept: list[bytes] = []

    def handle(id: int, data: bytes, ctx: object) -> bytes:
        kept.append(data)
        return data

    with live(net, handle) as server:
        client = server.connect()
        for number in range(100):
            exchange(client, b"%064d" % number)
    assert kept == [b"%064d" % number for number in range(100)]


def test_without_accept_each_connection_gets_one_closed(net: str) -> None:
    with live(net, echo, accept=None) as server:
        for _ in range(3):
            client = server.connect()
            assert exchange(client, b"hello") == b"hello"
            client.close()
        server.wait(lambda: len(server.closed) == 3)
    assert server.closed == {1: None, 2: None, 3: None}


def test_without_closed(net: str) -> None:
    with live(net, lambda id, data, ctx: (data, False), closed=None) as server:
        for _ in range(3):
            assert exchange(server.connect(), b"hello") == b"hello"


def test_without_handle_data_is_dropped_and_the_end_is_seen(net: str) -> None:
    with live(net, handle=None) as server:
        client = server.connect()
        client.sendall(bytes(8_000_000))
        client.close()
        assert server.wait_closed(1) is None


def test_without_handle_a_reset_is_seen(tcp: str) -> None:
    with live(tcp, handle=None) as server:
        client = server.connect()
        client.sendall(b"x")
        server.wait(lambda: server.accepted)
        reset(client)
        assert isinstance(server.wait_closed(1), ConnectionResetError)


def test_without_handle_a_wake_with_data_is_sent(net: str) -> None:
    with live(net, handle=None) as server:
        client = server.connect()
        server.wait(lambda: server.wakes)
        assert server.wakes[1]()
        assert server.wakes[1](b"hello")
        assert client.recv(5) == b"hello"


def test_without_ticker(net: str) -> None:
    def handle(id: int, data: bytes, ctx: object) -> bytes:
        if data == b"stop":
            raise SystemExit(3)
        return data

    with live(net, handle, ticker=None) as server:
        client = server.connect()
        assert exchange(client, b"hello") == b"hello"
        client.sendall(b"stop")
        error = server.join()
        assert isinstance(error, SystemExit)
        assert error.code == 3


@pytest.mark.parametrize("callback", ["handle", "ticker"])
def test_with_one_callback_alone(net: str, callback: str) -> None:
    def fail(*args: object) -> None:
        raise SystemExit

    callbacks: dict[str, Any] = dict.fromkeys(("handle", "accept", "closed", "ticker")) | {callback: fail}
    with live(net, **callbacks) as server:
        if callback == "handle":
            server.connect().sendall(b"x")
        assert isinstance(server.join(), SystemExit)


def test_a_client_that_connected_before_serve_is_served(net: str) -> None:
    with listener(net) as sock, connect(sock) as client:
        client.sendall(b"early")
        with live(net, echo, addr=sock):
            assert client.recv(5) == b"early"
