"""`wake`: from any thread, at any time, never in vain and never to the wrong one."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from harness import (
    DEADLINE,
    connect,
    echo,
    eventually,
    exchange,
    for_cpython,
    listener,
    live,
    receive,
    receive_all,
    shown,
)
from replies import closed_map, released, released_pickle_buffer

import evio

pytestmark = pytest.mark.threads


def test_wake_calls_handle_with_nothing(net: str) -> None:
    pieces = []

    def handle(id: int, data: bytes, ctx: Any) -> bytes:
        pieces.append(data)
        return b"woken"

    with live(net, handle) as server:
        client = server.connect()
        server.wait(lambda: server.wakes)
        assert server.wakes[1]() is True
        assert receive(client, 5) == b"woken"
        assert pieces == [b""]
        assert type(pieces[0]) is bytes


def test_wake_takes_none_as_no_data(net: str) -> None:
    with live(net, lambda id, data, ctx: b"woken") as server:
        client = server.connect()
        server.wait(lambda: server.wakes)
        assert server.wakes[1](None) is True
        assert receive(client, 5) == b"woken"


def test_wake_with_data_sends_it_and_calls_nothing(net: str) -> None:
    pieces = []
    with live(net, lambda id, data, ctx: pieces.append(data)) as server:
        client = server.connect()
        server.wait(lambda: server.wakes)
        for data in (b"one ", bytearray(b"two "), memoryview(b"three "), b"", b"four"):
            assert server.wakes[1](data) is True
        assert receive(client, 18) == b"one two three four"
        client.sendall(b"x")
        server.wait(lambda: pieces)
        assert pieces == [b"x"]


def test_data_of_a_wake_is_sent_even_if_the_buffer_changes(net: str) -> None:
    with live(net) as server:
        client = server.connect()
        server.wait(lambda: server.wakes)
        buffer = bytearray(b"a" * 10_000_000)
        assert server.wakes[1](buffer)
        assert server.wakes[1](memoryview(buffer))
        buffer[:] = bytes(len(buffer))
        assert receive(client, 20_000_000) == b"a" * 20_000_000


@pytest.mark.parametrize(
    "data",
    [
        "text",
        5,
        [b"x"],
        (b"x", True),
        True,
        memoryview(b"abcd")[::2],
        released(),
        released_pickle_buffer(),
        closed_map(),
    ],
    ids=shown,
)
def test_wake_with_anything_else_is_a_type_error(tcp: str, data: Any) -> None:
    with live(tcp, echo) as server:
        client = server.connect()
        server.wait(lambda: server.wakes)
        with pytest.raises(TypeError):
            server.wakes[1](data)
        assert exchange(client, b"x") == b"x"


def test_wake_takes_one_positional_argument(tcp: str) -> None:
    with live(tcp, echo) as server:
        server.connect()
        server.wait(lambda: server.wakes)
        wake: Any = server.wakes[1]
        with pytest.raises(TypeError):
            wake(b"a", b"b")
        with pytest.raises(TypeError):
            wake(data=b"a")


@pytest.mark.parametrize("callback", ["accept", "handle", "ticker", "closed"])
def test_wake_from_inside_a_callback(net: str, callback: str) -> None:
    wakes: list[evio.Wake] = []

    def wake_first() -> None:
        if wakes:
            assert wakes[0](b"data ") is True
            assert wakes[0]() is True

    def accept(id: int, addr: str, wake: evio.Wake, ctx: Any) -> None:
        wakes.append(wake)
        if callback == "accept" and id == 2:
            wake_first()

    def handle(id: int, data: bytes, ctx: Any) -> bytes | None:
        if data and callback == "handle":
            wake_first()
        return None if data else b"woken "

    def closed(id: int, err: BaseException | None, ctx: Any) -> None:
        if callback == "closed" and id == 2:
            wake_first()

    def ticker(ctx: Any) -> None:
        if callback == "ticker" and len(wakes) == 2:
            wake_first()
            wakes.append(wakes[0])

    with live(net, handle, accept, closed, ticker) as server:
        client = server.connect()
        server.wait(lambda: 1 in server.accepted)
        other = server.connect()
        other.sendall(b"x")
        other.close()
        assert receive(client, 11) == b"data woken "


def test_wake_in_accept_wakes_the_connection_itself(net: str) -> None:
    def accept(id: int, addr: str, wake: evio.Wake, ctx: Any) -> bytes:
        assert wake()
        assert wake(b"queued ")
        return b"reply "

    with live(net, lambda id, data, ctx: b"woken ", accept) as server:
        assert receive(server.connect(), 19) == b"queued reply woken "


def test_wakes_inside_one_callback_share_one_handle(net: str) -> None:
    calls: list[bytes] = []

    def handle(id: int, data: bytes, ctx: Any) -> bytes | None:
        if data:
            for _ in range(1000):
                assert server.wakes[1]()
            return None
        calls.append(data)
        return b"woken"

    with live(net, handle) as server:
        client = server.connect()
        client.sendall(b"x")
        assert receive(client, 5) == b"woken"
        client.shutdown(socket.SHUT_WR)
        assert server.wait_closed(1) is None
        assert calls == [b""]


def test_handle_that_wakes_itself_delays_nobody(tcp: str) -> None:
    def handle(id: int, data: bytes, ctx: Any) -> bytes | None:
        if id == 1:
            server.wakes[1]()
            return None
        return data

    with live(tcp, handle) as server:
        server.connect().sendall(b"x")
        server.wait(lambda: 1 in server.accepted)
        other = server.connect()
        for number in range(100):
            assert exchange(other, b"%04d" % number) == b"%04d" % number


def test_data_of_wakes_keeps_the_order_of_the_calls(net: str) -> None:
    with live(net) as server, ThreadPoolExecutor(1) as pool:
        client = server.connect()
        server.wait(lambda: server.wakes)
        pieces = [b"%07d\n" % number for number in range(20_000)]
        waking = pool.submit(lambda: [server.wakes[1](piece) for piece in pieces])
        assert receive(client, 160_000) == b"".join(pieces)
        assert all(waking.result())


def test_data_of_several_threads_counts_together(net: str) -> None:
    entered, gate, start = threading.Event(), threading.Event(), threading.Barrier(4)
    piece, most = bytes(512), 8 * 1024 * 1024

    def handle(id: int, data: bytes, ctx: Any) -> None:
        entered.set()
        assert gate.wait(DEADLINE)  # the loop stands still: what is queued waits

    def queue(wake: evio.Wake) -> int:
        start.wait(DEADLINE)
        return sum(len(piece) for _ in iter(lambda: wake(piece), False))

    with live(net, handle, max_pending=most) as server, ThreadPoolExecutor(4) as pool:
        server.connect().sendall(b"x")
        assert entered.wait(DEADLINE)
        queued = sum(pool.map(queue, [server.wakes[1]] * 4))
        gate.set()
        # A wake may answer False, though its own data was queued, as another one has found too much a moment later.
        assert most - 4 * len(piece) < queued <= most + len(piece)
        assert type(server.wait_closed(1)) is BufferError


def test_data_of_a_wake_goes_before_a_later_last_reply(net: str) -> None:
    def handle(id: int, data: bytes, ctx: Any) -> tuple[bytes, bool]:
        assert server.wakes[1](b"queued ")
        return b"bye", False

    with live(net, handle) as server:
        client = server.connect()
        client.sendall(b"x")
        assert receive_all(client) == b"queued bye"


def test_wake_that_answered_true_is_kept_at_the_peers_eof(net: str) -> None:
    entered, gate = threading.Event(), threading.Event()

    def handle(id: int, data: bytes, ctx: Any) -> bytes | None:
        if id == 2:
            entered.set()
            assert gate.wait(DEADLINE)
            return None
        return data or b"woken "

    with live(net, handle) as server:
        client, other = server.connect(), server.connect()
        server.wait(lambda: 2 in server.accepted)
        other.sendall(b"x")
        assert entered.wait(DEADLINE)  # the loop stands still: data, EOF and wakes meet in its next turn
        client.sendall(b"data ")
        client.shutdown(socket.SHUT_WR)
        assert server.wakes[1](b"queued ")
        assert server.wakes[1]()
        gate.set()
        replies = receive_all(client)
        assert sorted(replies.split()) == [b"data", b"queued", b"woken"]
        assert server.wait_closed(1) is None


def test_wake_is_false_after_closed(net: str) -> None:
    answers = []

    def closed(id: int, err: BaseException | None, ctx: Any) -> None:
        answers.append((server.wakes[id](), server.wakes[id](b"data")))

    with live(net, echo, closed=closed) as server:
        client = server.connect()
        exchange(client, b"x")
        client.close()
        server.wait_closed(1)
        assert server.wakes[1]() is False
        assert server.wakes[1](b"data") is False
        assert answers == [(False, False)]


def test_wake_is_false_once_the_connection_is_closing(net: str) -> None:
    with live(net, lambda id, data, ctx: (b"bye", False)) as server:
        client = server.connect()
        client.sendall(b"x")
        assert receive_all(client) == b"bye"
        assert 1 not in server.closed
        assert server.wakes[1]() is False
        assert server.wakes[1](b"data") is False


def test_wake_is_false_after_serve_has_returned(net: str) -> None:
    with live(net, echo) as server:
        for _ in range(3):
            exchange(server.connect(), b"x")
        server.stop()
        server.join()
        for wake in server.wakes.values():
            assert wake() is False
            assert wake(b"data") is False
            assert repr(wake)
            assert hash(wake)


def test_wake_is_a_wake(tcp: str) -> None:
    with live(tcp, echo) as server:
        for _ in range(2):
            exchange(server.connect(), b"x")
        one, two = server.wakes.values()
        assert isinstance(one, evio.Wake)
        assert (one.id, two.id) == (1, 2)
        assert repr(one) != repr(two)
        assert "Wake" in repr(one)
        assert "id=1" in repr(one)
        assert one == one
        assert one != two
        assert len({one, two, one}) == 2
        assert weakref.ref(one)() is one
        with pytest.raises(AttributeError):
            one.id = 5  # type: ignore[misc]
        with pytest.raises(AttributeError):
            one.other = 5  # type: ignore[attr-defined]


def test_wake_cannot_be_copied_or_pickled(tcp: str) -> None:
    with live(tcp, echo) as server:
        exchange(server.connect(), b"x")
        wake = server.wakes[1]
        attempts: list[Callable[[Any], object]] = [copy.copy, copy.deepcopy, pickle.dumps]
        for attempt in attempts:
            with pytest.raises(TypeError, match="cannot be pickled or copied"):
                attempt(wake)


def test_wake_cannot_be_made_by_hand(tcp: str) -> None:
    with live(tcp, echo) as server:
        exchange(server.connect(), b"x")
        kinds: list[Any] = [evio.Wake, type(server.wakes[1])]
        for kind in kinds:
            with pytest.raises(TypeError, match=r"cannot be made by hand"):
                kind()
            with pytest.raises(TypeError):
                kind.__new__(kind)


@for_cpython
def test_collection_while_a_wake_goes_away(tcp: str) -> None:
    """A weak reference's callback runs in the middle of it, and may start one."""
    collections: list[int] = []

    def accept(id: int, addr: str, wake: evio.Wake, ctx: list[Any]) -> None:
        ctx.append(weakref.ref(wake, lambda ref: collections.append(gc.collect())))

    with listener(tcp) as sock, connect(sock):
        evio.serve(tcp, sock, None, accept, ticker=lambda ctx: not ctx, ctx=[])
    assert len(collections) == 1


def test_wake_returns_at_once_while_the_server_is_busy(net: str) -> None:
    gate = threading.Event()

    def handle(id: int, data: bytes, ctx: Any) -> None:
        if data:
            assert gate.wait(DEADLINE)

    with live(net, handle) as server:
        client = server.connect()
        client.sendall(b"x")
        eventually(lambda: server._inside == "handle(1)")
        started = time.monotonic()
        for _ in range(1000):
            assert server.wakes[1](b"data")
            assert server.wakes[1]()
        assert time.monotonic() - started < 2
        gate.set()
        assert receive(client, 4000) == b"data" * 1000


@pytest.mark.parametrize("last", ["reply", "refusal"])
def test_no_wake_comes_behind_the_last_reply(net: str, last: str) -> None:
    """Another thread wakes while a connection closes: what is answered True is sent, ahead of the last reply."""

    class Refusing:
        def decoder(self) -> Refusing:
            return self

        def feed(self, data: bytes) -> list[bytes]:
            raise evio.FrameError("no", reply=b"bye")

    def keep_waking(wake: evio.Wake) -> int:
        # An end, as an interpreter may keep the server's thread waiting for seconds: more than max_pending would come.
        return sum(itertools.takewhile(bool, (wake(b"data") for _ in range(1_000_000))))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that the threads meet anywhere
    try:
        frame = Refusing() if last == "refusal" else None
        with live(net, lambda *args: (b"bye", False), frame=frame) as server, ThreadPoolExecutor(1) as pool:
            for id in range(1, 151):
                with server.connect() as client:
                    server.wait(lambda: id in server.wakes)  # noqa: B023
                    waking = pool.submit(keep_waking, server.wakes[id])
                    client.sendall(b"x")
                    received = receive_all(client)
                    assert received.endswith(b"bye")
                    assert received.count(b"data") >= waking.result()
    finally:
        sys.setswitchinterval(interval)
